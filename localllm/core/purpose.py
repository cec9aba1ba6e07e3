"""What a model is for, as far as its header says: whether it answers at all."""

from localllm.core.architectures import Memory
from localllm.core.model import ModelSpec

_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
_OTHER_THAN_TEXT = frozenset({"clip", "wavtokenizer-dec", "qwen3tts", "pockettts"})
_DRAFTS = frozenset({"dflash", "eagle3", "gemma4-assistant"})
_TRANSLATORS = frozenset({"t5", "t5encoder"})
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
