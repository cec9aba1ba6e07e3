"""Names for models whose headers say little, as conversions leave them."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.library.files import names
from localllm.library.files.model_names import name_candidates


def spec(name: str | None, architecture: str = "llama", **general: str) -> ModelSpec:
    keys: dict[str, MetadataValue] = {
        f"general.{key.replace('__', '.')}": value for key, value in general.items()
    }
    if name is not None:
        keys["general.name"] = name
    return ModelSpec(
        architecture=architecture, metadata=keys, tensors=(), version=3, alignment=32,
        data_offset=0, file_bytes=0,
    )  # fmt: skip


def chosen(name: str | None, stem: str, folder: str = "/home/a/Downloads", **more: str) -> str:
    return next(name_candidates(spec(name, **more), stem, PurePosixPath(folder)))


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        ("Qwen3 8B", "whatever-Q4_K_M", "qwen3-8b"),
        ("Meta Llama 3.1 8B Instruct", "x", "meta-llama-3.1-8b-instruct"),
        ("Model", "legal-assistant-7b-Q4_K_M", "legal-assistant-7b"),
        ("Merged_model", "tax-bot.Q8_0", "tax-bot"),
        ("Checkpoint 1500", "tax-bot.Q8_0", "tax-bot"),
        ("3f2a9c0d1b", "tax-bot-f16", "tax-bot"),
        ("LLaMA v2", "mistral-7b-openorca.Q4_0", "mistral-7b-openorca"),
        ("llama", "phi-3", "phi-3"),
        ("/home/alice/out/my-tuned-phi", "ggml-model-f16", "my-tuned-phi"),
        ("C:\\models\\TaxBot", "ggml-model-q4_0", "taxbot"),
        ("meta-llama/Llama-3.2-1B", "x", "llama-3.2-1b"),
        ("Llama 8B", "x", "llama-8b"),
        (None, "Some.Model-7B.Q4_K_M", "some.model-7b"),
        ("\u6a21\u578b", "taxbot", "taxbot"),
    ],
)
def test_the_header_names_a_model_when_it_says_something_and_the_file_else(
    name: str | None, stem: str, expected: str
) -> None:
    assert chosen(name, stem) == expected


def test_a_file_that_says_nothing_either_is_called_after_its_base_model_or_folder() -> None:
    base = {"base_model__0__name": "Mistral 7B v0.3"}
    assert chosen("Model", "ggml-model-q4_0", **base) == "mistral-7b-v0.3"
    assert chosen("Model", "model", "/srv/tax-bot") == "tax-bot"
    assert chosen("Model", "model", "/srv/tax-bot/Q8_0") == "tax-bot"
    cache = f"/c/hub/models--acme--TaxBot-GGUF/snapshots/{'a' * 40}"
    assert chosen("Model", "model", cache) == "taxbot-gguf"


def test_when_nothing_says_anything_architecture_and_size_do() -> None:
    assert chosen("Model", "model", size_label="1.1B") == "llama-1.1b"
    assert chosen("Model", "ggml-model") == "model"
    assert chosen(None, "\u6a21\u578b", "/tmp") == "model"


def test_a_name_that_says_little_is_still_better_than_a_folders() -> None:
    assert chosen("Llama", "Llama", "/srv/tax-bot") == "llama"
    assert chosen("X", "x", "/srv/tax-bot") == "x"


def test_parts_of_the_naming_convention_count_before_the_file() -> None:
    parts = {"basename": "Tax", "size_label": "7B", "finetune": "Chat"}
    assert chosen("model", "x", **parts) == "tax-7b-chat"


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_whatever_is_stated_the_first_and_the_last_name_are_valid(
    name: str, stem: str, base: str
) -> None:
    found = list(name_candidates(spec(name, base_model__0__name=base), stem, PurePosixPath("/a/b")))
    assert found[-1] == "model"
    assert all(map(names.valid, found))
    # The name that older versions gave is among them: a file that moved is known by it.
    assert names.slug(name) in {"", *found}
