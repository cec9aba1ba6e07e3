"""Models that write no answers are told from those that do, by their headers."""

from dataclasses import replace

import pytest

from localllm.core.model.purpose import why_not_generative
from localllm.core.model.spec import MetadataValue, ModelSpec
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

MODELS = {forged.name: spec(forged) for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
QWEN = MODELS["Qwen3-8B"]


def with_key(key: str, value: MetadataValue) -> ModelSpec:
    return replace(QWEN, metadata={**QWEN.metadata, f"qwen3.{key}": value})


def test_of_the_forged_models_only_the_encoder_writes_nothing() -> None:
    silent = {name for name, model in MODELS.items() if why_not_generative(model) is not None}
    assert silent == {"bge-large-en"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (MODELS["bge-large-en"], "an embedding model"),
        (with_key("pooling_type", 3), "an embedding model"),
        (with_key("pooling_type", 4), "a reranker"),
        (with_key("attention.causal", False), "an embedding model"),
        (replace(QWEN, architecture="llada"), "a diffusion model"),
        (replace(QWEN, architecture="clip"), "images or sound"),
        (replace(QWEN, architecture="eagle3"), "a draft"),
        (replace(QWEN, architecture="t5"), "an encoder with a decoder"),
    ],
)
def test_what_it_is_instead_is_said(model: ModelSpec, words: str) -> None:
    why = why_not_generative(model)
    assert why is not None
    assert words in why


@pytest.mark.parametrize(
    "model",
    [
        with_key("pooling_type", 0),
        with_key("attention.causal", True),
        replace(QWEN, architecture="novel"),
    ],
)
def test_a_model_that_says_nothing_else_answers(model: ModelSpec) -> None:
    assert why_not_generative(model) is None
