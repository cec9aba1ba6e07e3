"""MODEL[:QUANT] as people write it, and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.reference import is_repository, read_reference
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
        ("https://huggingface.co/org/repo", None, "ORG/REPO"),
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


@given(st.text(max_size=40))
def test_no_text_is_a_repository_that_leads_elsewhere(text: str) -> None:
    if is_repository(text):
        assert text.count("/") == 1
        assert ".." not in text
        assert not text.startswith("/")
