"""The questions a person asks the other way round: how much context, how many users, which quant.

Each is answered by bisection on exact placements. The cache grows with what is asked for; the
compute buffer now and then shrinks a little (two layers' temporaries find a better order), so an
answer is one that fits and whose next step does not: beyond it a longer one may fit again.
"""

import dataclasses
from collections.abc import Callable, Sequence

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import MAX_SEQUENCES, unified_if_needed
from localllm.core.sizing.load import CONTEXT_PADDING, LoadSettings
from localllm.core.sizing.placement import Budget, place

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
    """Tokens of context that each of `settings.parallel` conversations can have here.

    llama.cpp pads the cache to 256 cells: the answer uses all of them. At most the training
    context unless `beyond_training`; None when nothing fits. `settings.context` is not looked at.
    """
    most = MAX_CONTEXT if beyond_training or not spec.context_train else spec.context_train

    def fits(blocks: int) -> bool:
        changed = dataclasses.replace(settings, context=_context(blocks, settings, most))
        return place(spec, changed, budget, draft).fits

    blocks = _last(fits, -(-most * settings.parallel // CONTEXT_PADDING))
    return _context(blocks, settings, most) if blocks else None


def most_parallel(
    spec: ModelSpec, settings: LoadSettings, budget: Budget, *, draft: ModelSpec | None = None
) -> int | None:
    """Conversations of `settings.context` tokens that can be held at once; None when not one.

    `settings.parallel` is not looked at.
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
    """The first of `quants` that fits, which are in order from the largest file to the smallest.

    Only a few of the specs are made. None when none fits.
    """

    def fits(smallest: int) -> bool:
        return place(quants[-smallest][1](), settings, budget, draft).fits

    found = _last(fits, len(quants))
    return quants[-found][0] if found else None


def _context(blocks: int, settings: LoadSettings, most: int) -> int:
    """The longest context whose cache has so many blocks of cells, at most `most`."""
    cells = blocks * CONTEXT_PADDING
    return max(1, min(cells // settings.parallel, most))


def _last(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, 0 for none; doubles, then bisects."""
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
