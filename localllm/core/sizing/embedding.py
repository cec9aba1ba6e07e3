"""Load settings of a model that embeds or ranks, from its header.

The model's own pooling, the longest text, and whether a text must be computed in one piece. The
facts are llama.cpp's (b11434): `llama_model_base::load_hparams`, `build_pooling`.
"""

from dataclasses import replace

from localllm.core.model.architecture import Memory
from localllm.core.model.purpose import is_bidirectional, why_unsupported
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import unified_if_needed
from localllm.core.sizing.load import LoadSettings, Pooling, Speculate
from localllm.core.sizing.rope import trained_context
from localllm.errors import UsageError

_POOLINGS = (Pooling.NONE, Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.RANK)
"""By their numbers in a header (`enum llama_pooling_type`, llama.h)."""

_CLASSIFIERS = ("cls.weight", "cls.output.weight")


def with_embedding_defaults(spec: ModelSpec, settings: LoadSettings) -> LoadSettings:
    """Fill in what a load for embeddings needs; other loads only get one cache for all sequences
    where llama.cpp has no room for one each.

    A bidirectional model computes a text in one micro-batch, so that must hold the longest one. The
    cache is unified, so that texts of different lengths are computed in one step. Raises UsageError
    for a model that has no embeddings, or no score to rank by.
    """
    if not settings.embeddings:
        return unified_if_needed(spec, settings)
    why = why_unsupported(spec)
    if why is not None:
        raise UsageError(f"This model ({spec.architecture}) is {why}: it has no embeddings.")
    pooling = settings.pooling or own_pooling(spec)
    if pooling is Pooling.RANK and not _classifies(spec):
        raise UsageError(
            f"This model ({spec.architecture}) has no classifier (cls.weight, cls.output.weight), "
            "so it cannot rank. Use one that was made for ranking, or another pooling."
        )
    context, batch = settings.context, settings.ubatch
    if spec.arch.memory is Memory.NONE:
        # an encoder has no positions beyond
        context = min(context, trained_context(spec, settings.rope) or context)
    if is_bidirectional(spec):
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


def own_pooling(spec: ModelSpec) -> Pooling:
    """Read the pooling from the header; MEAN when it has none, or says that nothing is pooled."""
    number = spec.value("pooling_type")
    known = isinstance(number, int) and 0 < number < len(_POOLINGS)
    return _POOLINGS[number] if known and isinstance(number, int) else Pooling.MEAN


def _classifies(spec: ModelSpec) -> bool:
    return any(tensor.name in _CLASSIFIERS for tensor in spec.tensors)
