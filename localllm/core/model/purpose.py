"""What a model is for, as far as its header says: chat, embeddings, reranking."""

from collections.abc import Sequence

from localllm.core.model.architectures import Memory
from localllm.core.model.spec import ModelSpec

_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
_OTHER_THAN_TEXT = frozenset({"clip", "wavtokenizer-dec", "qwen3tts", "pockettts"})
_DRAFTS = frozenset({"dflash", "eagle3", "gemma4-assistant"})
_TRANSLATORS = frozenset({"t5", "t5encoder"})
_BOTH_WAYS = frozenset({"gemma-embedding"})
"""Decoders whose code, not whose header, says that they look ahead."""

_RANK = 4  # LLAMA_POOLING_TYPE_RANK (llama.h, b11434); 0 is NONE


def why_no_answers(spec: ModelSpec) -> str | None:
    """Say what a model is instead of one that continues text; None when it does.

    Encoders have no cache to go on from (`Memory.NONE`); an embedding model or reranker made of a
    decoder names the pooling of its output ("pooling_type") or attends both ways
    ("attention.causal" false). The kinds are those of llama.cpp b11434 (`src/llama-arch.cpp`).
    """
    if (why := why_no_texts(spec)) is not None:
        return why
    pooling = spec.value("pooling_type")
    if pooling == _RANK:
        return "a reranker: it scores texts and writes none"
    encodes = spec.rules is not None and spec.rules.memory is Memory.NONE
    if encodes or pooling or spec.value("attention.causal") is False:
        return "an embedding model: it turns text into numbers and writes none"
    return None


def why_no_texts(spec: ModelSpec) -> str | None:
    """Say what a model is that neither continues texts nor embeds them; None for all others."""
    name = spec.architecture
    if name in _DIFFUSION:
        return "a diffusion model, which does not write one token after the other"
    if name in _OTHER_THAN_TEXT:
        return "a part for images or sound, not a model of text"
    if name in _DRAFTS:
        return "a draft for another model, not a model of its own"
    if name in _TRANSLATORS:
        return "an encoder with a decoder beside it, which this engine does not run"
    return None


def embeds_only(spec: ModelSpec) -> bool:
    """Whether this model is made for embeddings or ranking, and answers nothing."""
    return why_no_answers(spec) is not None and why_no_texts(spec) is None


def looks_both_ways(spec: ModelSpec) -> bool:
    """Whether a token's row depends on what comes after it."""
    encodes = spec.rules is not None and spec.rules.memory is Memory.NONE
    if encodes or spec.architecture in _BOTH_WAYS:
        return True
    return spec.value("attention.causal") is False


def can_be_shortened(spec: ModelSpec) -> bool:
    """Whether the first of its dimensions can be used alone: its tags say Matryoshka."""
    tags = spec.metadata.get("general.tags")
    if not isinstance(tags, Sequence) or isinstance(tags, str):
        return False
    return any(isinstance(tag, str) and "matryoshka" in tag.lower() for tag in tags)
