"""The purpose of a model, by its header: text generation, embeddings, reranking.

The callers want a reason that they can show, so the tests return sentences and not flags.
"""

from collections.abc import Sequence

from localllm.core.model.architecture import Memory, Purpose
from localllm.core.model.spec import ModelSpec

_RANK = 4  # LLAMA_POOLING_TYPE_RANK (llama.h, b11434); 0 is NONE


def why_not_generative(spec: ModelSpec) -> str | None:
    """Describe what a model is instead of one that generates text; None when it does.

    Encoders have no cache to go on from (`Memory.NONE`); an embedding model or reranker made of a
    decoder names the pooling of its output ("pooling_type") or attends both ways
    ("attention.causal" false). The kinds are those of llama.cpp b11434 (`src/llama-arch.cpp`).
    """
    if (why := why_unsupported(spec)) is not None:
        return why
    pooling = spec.value("pooling_type")
    if pooling == _RANK:
        return "a reranker: it scores texts and writes none"
    embeds = spec.arch.purpose is Purpose.EMBEDDING or bool(pooling)
    if embeds or spec.value("attention.causal") is False:
        return "an embedding model: it turns text into numbers and writes none"
    return None


def why_unsupported(spec: ModelSpec) -> str | None:
    """Describe a model that neither generates text nor embeds it; None for all others."""
    match spec.arch.purpose:
        case Purpose.DIFFUSION:
            return "a diffusion model, which does not write one token after the other"
        case Purpose.MMPROJ | Purpose.AUDIO:
            return "a part for images or sound, not a model of text"
        case Purpose.DRAFT:
            return "a draft for another model, not a model of its own"
        case Purpose.ENCODER_DECODER:
            return "an encoder with a decoder beside it, which this engine does not run"
        case Purpose.TEXT | Purpose.EMBEDDING:
            return None


def is_embedding_model(spec: ModelSpec) -> bool:
    """Return True for a model that is made for embeddings or ranking alone."""
    return why_not_generative(spec) is not None and why_unsupported(spec) is None


def is_bidirectional(spec: ModelSpec) -> bool:
    """Return True when a token attends to those after it, too."""
    return spec.arch.memory is Memory.NONE or spec.value("attention.causal") is False


def is_matryoshka(spec: ModelSpec) -> bool:
    """Return True when the first dimensions can be used alone: the tags name Matryoshka."""
    tags = spec.metadata.get("general.tags")
    if not isinstance(tags, Sequence) or isinstance(tags, str):
        return False
    return any(isinstance(tag, str) and "matryoshka" in tag.lower() for tag in tags)
