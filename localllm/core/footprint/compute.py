"""The scratch memory of one forward pass (`llama_context::sched_reserve`, llama.cpp b11434)."""

from localllm.core.footprint.cache import cells, flash, ubatch
from localllm.core.load import LoadSettings
from localllm.core.model import ModelSpec

_FLOAT = 4


def compute_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Bytes of the compute buffer of a load that lies on one device."""
    tokens = ubatch(settings)
    size = cells(spec, settings)
    heads = max(spec.head_count(i) for i in range(spec.layers))
    query = max(spec.head_count(i) * spec.key_length(i) for i in range(spec.layers))
    stream = tokens * spec.embedding * _FLOAT
    mask = tokens * size.full * (2 if flash(spec, settings) else _FLOAT)
    scores = 0 if flash(spec, settings) else tokens * heads * size.full * _FLOAT
    widest = max((spec.feed_forward(i) for i in range(spec.layers)), default=0)
    attention = scores + tokens * query * _FLOAT + 3 * stream
    feed_forward = 2 * tokens * widest * _FLOAT + 2 * stream
    return mask + max(attention, feed_forward)


def output_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Bytes of the logits that a step hands out: one row per sequence
    (`llama_context::output_reserve`)."""
    return spec.vocabulary * _FLOAT * settings.parallel
