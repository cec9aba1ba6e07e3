"""MODEL[:QUANT] as people write it, and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.reference import is_hub_link, is_repository, read_reference
from localllm.errors import UsageError


@pytest.mark.parametrize(
    ("text", "option", "name", "quant"),
    [
        ("qwen3-8b", None, "qwen3-8b", None),
        ("qwen3-8b:Q8_0", None, "qwen3-8b", "Q8_0"),
        ("Qwen/Qwen3-8B-GGUF", "q8_0", "Qwen/Qwen3-8B-GGUF", "q8_0"),
        ("Qwen/Qwen3-8B-GGUF:Q8_0", "q8_0", "Qwen/Qwen3-8B-GGUF", "q8_0"),
        ("org/repo:sub/file.gguf", None, "org/repo", "sub/file.gguf"),
    ],
)
def test_a_name_and_a_quant_are_taken_apart(
    text: str, option: str | None, name: str, quant: str | None
) -> None:
    found = read_reference(text, option)
    assert (found.name, found.quant) == (name, quant)
    assert found.on_hub == ("/" in name)


@pytest.mark.parametrize(
    ("text", "option", "word"),
    [
        ("org/repo:", None, "no quant"),
        ("org/repo:Q8_0", "Q4_0", "another"),
        ("../etc/passwd", None, "ORG/REPO"),
        ("https://example.com/org/repo", None, "no link of the Hub"),
        ("https://ollama.com/library/qwen3", None, "no link of the Hub"),
        ("ftp://huggingface.co/org/repo", None, "no link of the Hub"),
        ("https://huggingface.co.evil.example/org/repo", None, "no link of the Hub"),
        ("https://huggingface.co/unsloth", None, "no repository"),
        ("https://huggingface.co/", None, "no repository"),
        ("https://huggingface.co/datasets/org/repo", None, "no repository"),
        ("https://huggingface.co/spaces/org/repo", None, "no repository"),
        ("https://huggingface.co/models?search=qwen", None, "no repository"),
        ("https://huggingface.co/org/..", None, "no repository"),
        ("https://huggingface.co/org/re%2e%2e", None, "no repository"),
        ("hf.co/org/repo:Q8_0", "Q4_0", "another"),
        ("a/b/c", None, "ORG/REPO"),
        ("org/..", None, "ORG/REPO"),
        ("/etc", None, "ORG/REPO"),
        ("org/re\x1b[2Jpo", None, "ORG/REPO"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, option: str | None, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        read_reference(text, option)
    assert "\x1b" not in str(caught.value)


FILE = "Qwen3-8B-Q4_K_M.gguf"
LINKS = [
    ("https://huggingface.co/org/repo", None, None),
    ("http://huggingface.co/org/repo/", None, None),
    ("https://www.huggingface.co/org/repo", None, None),
    ("huggingface.co/org/repo", None, None),
    ("HTTPS://HuggingFace.co/org/repo", None, None),
    ("https://me:secret@huggingface.co/org/repo", None, None),
    ("  <https://huggingface.co/org/repo>  ", None, None),
    ("hf.co/org/repo", None, None),
    ("https://hf.co/org/repo?not-for-all-audiences=true#files", None, None),
    ("hf.co/org/repo:Q4_K_M", "Q4_K_M", None),
    ("https://hf.co/org/repo:latest", None, None),
    ("https://hf-mirror.com/org/repo", None, None),
    ("https://huggingface.co/org/repo/tree/main", None, None),
    ("https://huggingface.co/org/repo/tree/main/", None, None),
    ("https://huggingface.co/org/repo/tree/main/UD-Q4_K_XL", "UD-Q4_K_XL", None),
    ("https://huggingface.co/org/repo/tree/main/docs", None, None),
    ("https://huggingface.co/org/repo/tree/v1.0", None, "v1.0"),
    ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F3", None, "refs/pr/3"),
    (f"https://huggingface.co/org/repo/blob/main/{FILE}", FILE, None),
    (f"https://huggingface.co/org/repo/blob/{'a' * 40}/sub/{FILE}", f"sub/{FILE}", "a" * 40),
    (f"https://huggingface.co/org/repo/resolve/main/{FILE}?download=true", FILE, None),
    (f"https://huggingface.co/org/repo?show_file_info={FILE}", FILE, None),
    ("https://huggingface.co/org/repo/resolve/main/a%20b-Q8_0.gguf", "a b-Q8_0.gguf", None),
    ("https://huggingface.co/org/repo/blob/main/README.md", None, None),
    ("https://huggingface.co/org/repo/discussions/7", None, None),
    ("https://huggingface.co/api/models/org/repo", None, None),
    (f"hf://org/repo/{FILE}", FILE, None),
    ("hf://org/repo@v2", None, "v2"),
    ("org/repo/", None, None),
    (f"org/repo/blob/main/{FILE}", FILE, None),
    ("org/repo/tree/main/Q8_0", "Q8_0", None),
]


@pytest.mark.parametrize(("link", "quant", "revision"), LINKS)
def test_a_pasted_link_is_the_repository_it_leads_to(
    link: str, quant: str | None, revision: str | None
) -> None:
    found = read_reference(link)
    assert (found.name, found.quant, found.revision) == ("org/repo", quant, revision)
    assert found.is_link
    assert is_hub_link(link)


@pytest.mark.parametrize(
    "text",
    ["org/repo", "qwen3-8b", "qwen3:8b", "models/a/b.gguf", "/a/tree/main/b", "C:\\a", "a/b/c", ""],
)
def test_names_and_paths_are_no_links(text: str) -> None:
    assert not is_hub_link(text)


def test_a_mirror_of_ones_own_is_a_hub() -> None:
    link = "https://mirror.corp.example:8443/org/repo/tree/main"
    assert read_reference(link, hosts=("mirror.corp.example:8443",)).name == "org/repo"
    with pytest.raises(UsageError, match="no link of the Hub"):
        read_reference(link)


def test_latest_is_no_quant() -> None:
    assert read_reference("qwen3-8b:latest").quant is None


@given(
    st.sampled_from(["https://huggingface.co/", "hf.co/", "hf://", "org/repo/", ""]),
    st.text(max_size=40) | st.from_regex(r"[a-z./:@%?#]{0,30}", fullmatch=True),
)
def test_whatever_is_pasted_is_a_repository_or_an_error(start: str, rest: str) -> None:
    try:
        found = read_reference(start + rest)
    except UsageError as error:
        assert str(error).isprintable()
        return
    if found.is_link:
        assert is_repository(found.name)


@given(st.text(max_size=40))
def test_no_text_is_a_repository_that_leads_elsewhere(text: str) -> None:
    if is_repository(text):
        assert text.count("/") == 1
        assert ".." not in text
        assert not text.startswith("/")
