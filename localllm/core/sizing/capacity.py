"""The capacity of a machine for a model: the largest context, the most sequences, the best quant.

Each is found by bisection on exact placements. The cache grows with the value; the compute buffer
now and then shrinks a little (two layers' temporaries find a better order), so the result is a
value that fits and whose next step does not: beyond it a larger one may fit again.
"""

import dataclasses
from collections.abc import Callable, Sequence

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import MAX_SEQUENCES, unified_if_needed
from localllm.core.sizing.load import CONTEXT_PADDING, LoadSettings
from localllm.core.sizing.placement import Budget, place
from localllm.core.sizing.rope import learned_positions, trained_context

MAX_CONTEXT = 2**24
"""No context beyond this is tried."""


def largest_context(
    spec: ModelSpec,
    settings: LoadSettings,
    budget: Budget,
    *,
    draft: ModelSpec | None = None,
    beyond_training: bool = False,
) -> int | None:
    """Find the most tokens of context that each of `settings.parallel` sequences can have.

    llama.cpp pads the cache to 256 cells: the result uses all of them. At most the training
    context, as `settings.rope` stretches it, unless `beyond_training`; never beyond a table of
    positions. None when nothing fits. `settings.context` is ignored.
    """
    most = trained_context(spec, settings.rope)
    if beyond_training or most is None:
        most = MAX_CONTEXT
    most = min(most, learned_positions(spec) or MAX_CONTEXT, MAX_CONTEXT)

    def fits(blocks: int) -> bool:
        changed = dataclasses.replace(settings, context=_context(blocks, settings, most))
        return place(spec, changed, budget, draft).fits

    blocks = _last(fits, -(-most * settings.parallel // CONTEXT_PADDING))
    return _context(blocks, settings, most) if blocks else None


def most_parallel(
    spec: ModelSpec, settings: LoadSettings, budget: Budget, *, draft: ModelSpec | None = None
) -> int | None:
    """Find the most sequences of `settings.context` tokens that fit at once; None when not one.

    `settings.parallel` is ignored.
    """

    def fits(parallel: int) -> bool:
        load = unified_if_needed(spec, dataclasses.replace(settings, parallel=parallel))
        return place(spec, load, budget, draft).fits

    return _last(fits, MAX_SEQUENCES) or None


def largest_quant(
    quants: Sequence[tuple[str, Callable[[], ModelSpec]]],
    settings: LoadSettings,
    budget: Budget,
    *,
    draft: ModelSpec | None = None,
) -> str | None:
    """Find the first of `quants` that fits; they are ordered from the largest file to the smallest.

    Only a few of the specs are made. None when none fits.
    """

    def fits(smallest: int) -> bool:
        return place(quants[-smallest][1](), settings, budget, draft).fits

    found = _last(fits, len(quants))
    return quants[-found][0] if found else None


def _context(blocks: int, settings: LoadSettings, most: int) -> int:
    """Return the longest context whose cache has so many blocks of cells, at most `most`."""
    cells = blocks * CONTEXT_PADDING
    return max(1, min(cells // settings.parallel, most))


def _last(fits: Callable[[int], bool], most: int) -> int:
    """Find the largest number from 1 to `most` that fits, 0 for none: double, then bisect."""
    if most < 1 or not fits(1):
        return 0
    if fits(most):
        return most
    low = 1  # fits; `high` does not
    while low * 2 < most and fits(low * 2):
        low *= 2
    high = min(low * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
