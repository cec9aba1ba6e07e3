from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.model.file_types import quant_in, without_quant
from localllm.errors import StoreError, UsageError
from localllm.library.files import names

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "c:x",
    "a..b",
    ".hidden",
    "a.",
    "con",
    "nul.gguf",
    "com1",
    "a\0b",
    "a\nb",
    "\x1b]0;title\x07",
    "[/INST]",
    "~root",
    "-rf",
    "Ärger",
    "x" * 200,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a file"):
        names.path_in(tmp_path, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_with_one_that_would_do(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name") as refused:
        names.checked(name)
    message = str(refused.value)
    assert message.isprintable()
    names.checked(message.rpartition("Try ")[2].strip("'."))


def test_a_link_that_leads_out_of_the_library_is_no_path(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / "model.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(StoreError, match="cannot name a file"):
        names.path_in(root, "model")


@settings(deadline=None)
@given(st.text())
def test_whatever_a_slug_is_made_of_it_is_a_name_or_nothing(text: str) -> None:
    slug = names.slug(text)
    assert slug == "" or names.checked(slug) == slug
    assert names.slug(slug) == slug


@settings(deadline=None)
@given(st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(names.valid))
def test_every_valid_name_is_a_file_in_the_library(name: str) -> None:
    root = Path("/library/models")
    assert names.path_in(root, name).parent == root


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Qwen3 8B Instruct", "qwen3-8b-instruct"),
        ("mistralai_Mistral-7B--v0.2", "mistralai_mistral-7b-v0.2"),
        ("Mémoire  (test)", "memoire-test"),
        ("../../x", "x"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("模型", ""),
        ("CON", ""),
    ],
)
def test_slugs_are_plain(text: str, slug: str) -> None:
    assert names.slug(text) == slug


@pytest.mark.parametrize(
    ("stem", "quant", "rest"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "Q4_1", "SmolLM2-135M-Instruct"),
        ("Qwen3-8B-Q4_K_M", "Q4_K_M", "Qwen3-8B"),
        ("qwen3-8b-iq2_xxs", "IQ2_XXS", "qwen3-8b"),
        ("model-f16", "F16", "model"),
        ("Q8_0", "Q8_0", ""),
        ("Qwen3-8B-Q4_K_XL", None, "Qwen3-8B-Q4_K_XL"),
        ("notaQ4_0", None, "notaQ4_0"),
    ],
)
def test_the_quant_is_read_from_the_end_of_a_files_name(
    stem: str, quant: str | None, rest: str
) -> None:
    assert quant_in(stem) == quant
    assert without_quant(stem) == rest
