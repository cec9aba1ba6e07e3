"""What a load for embeddings needs to be told, from the model's header.

Which pooling is the model's own, whether it must see a text in one piece, and how long a text may
be. The facts are llama.cpp's (b11434): `llama_model_base::load_hparams`, `build_pooling`.
"""

from collections.abc import Sequence
from dataclasses import replace

from localllm.core.architectures import Memory
from localllm.core.footprint.cache import pooled_where_needed
from localllm.core.load import LoadSettings, Pooling, Speculate
from localllm.core.model import ModelSpec
from localllm.core.purpose import why_no_answers, why_no_texts
from localllm.errors import UsageError

_POOLINGS = (Pooling.NONE, Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.RANK)
"""By their numbers in a header (`enum llama_pooling_type`, llama.h)."""

_BOTH_WAYS = frozenset({"gemma-embedding"})
"""Decoders whose code, not whose header, says that they look ahead."""

_CLASSIFIERS = ("cls.weight", "cls.output.weight")


def prepared(spec: ModelSpec, settings: LoadSettings) -> LoadSettings:
    """Fill in what a load for embeddings needs; others only get one cache for all conversations
    where llama.cpp has no room for more.

    A model that looks both ways computes a text in one micro-batch, so that must hold the longest.
    One cache for all texts: those of different lengths are computed in one go.
    Raises UsageError for a model that has no embeddings, or no score to rank by.
    """
    if not settings.embeddings:
        return pooled_where_needed(spec, settings)
    why = why_no_texts(spec)
    if why is not None:
        raise UsageError(f"This model ({spec.architecture}) is {why}: it has no embeddings.")
    pooling = settings.pooling or own_pooling(spec)
    if pooling is Pooling.RANK and not _classifies(spec):
        raise UsageError(
            f"This model ({spec.architecture}) has no classifier (cls.weight, cls.output.weight), "
            "so it cannot rank. Use one that was made for ranking, or another pooling."
        )
    context, batch = settings.context, settings.ubatch
    if spec.rules is not None and spec.rules.memory is Memory.NONE and spec.context_train > 0:
        context = min(context, spec.context_train)  # it has no positions beyond
    if looks_both_ways(spec):
        batch = max(context, settings.parallel)
    return replace(
        settings,
        context=context,
        batch=batch,
        ubatch=batch,
        kv_unified=True,
        pooling=pooling,
        speculate=Speculate.OFF,
    )


def embeds_only(spec: ModelSpec) -> bool:
    """Whether this model is made for embeddings or ranking, and answers nothing."""
    return why_no_answers(spec) is not None and why_no_texts(spec) is None


def own_pooling(spec: ModelSpec) -> Pooling:
    """What the header says; MEAN when it says nothing, or that nothing is pooled."""
    number = spec.value("pooling_type")
    known = isinstance(number, int) and 0 < number < len(_POOLINGS)
    return _POOLINGS[number] if known and isinstance(number, int) else Pooling.MEAN


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


def _classifies(spec: ModelSpec) -> bool:
    return any(tensor.name in _CLASSIFIERS for tensor in spec.tensors)
