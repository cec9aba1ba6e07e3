"""Which of two plans is the better one, and what the next better model would need."""

import math
from collections.abc import Iterable, Sequence
from datetime import date

from localllm.core.recommend.plan import Candidate, FitPlan, Goal, Wish
from localllm.core.recommend.quants import usual
from localllm.core.units import format_bytes

COMFORTABLE_TPS = 15.0
"""`balanced` gives up no capability for speed beyond this."""


def capability(candidate: Candidate) -> float:
    """Compare models: log2 of the geometric mean of total and active parameters (the usual
    measure of a mixture of experts as a dense model), plus one for each year since 2023.

    A year for a doubling is the slow end of what was observed (Xiao et al. 2024, "Densing Law of
    LLMs": parameters needed for the same result halve in about 3.3 months).
    """
    size = math.sqrt(candidate.parameters * candidate.active_parameters)
    age = 0.0 if candidate.released is None else (candidate.released - date(2023, 1, 1)).days / 365
    return math.log2(size / 1e9) + age


def score(able: float, tps: float, wish: Wish) -> float:
    """Compare plans by a goal: the higher, the better. It never falls when `tps` grows."""
    match wish.goal:
        case Goal.QUALITY:
            return able
        case Goal.SPEED:
            return tps
        case Goal.BALANCED:
            return able + min(0.0, math.log2(max(tps, 1e-9) / COMFORTABLE_TPS))


def next_better(
    best: Sequence[FitPlan], groups: Iterable[Sequence[Candidate]], room: int
) -> str | None:
    """The smallest step up: the most capable thing here, and the least memory for more."""
    if not best:
        return None
    able = max(capability(plan.candidate) for plan in best)
    beyond = [c for c in map(usual, groups) if capability(c) > able and c.size_bytes > room]
    if not beyond:
        return None
    nearest = min(beyond, key=lambda candidate: candidate.size_bytes)
    lacking = format_bytes(nearest.size_bytes - room)
    return (
        f"The next better model, {nearest.model} {nearest.quant}, needs at least {lacking} more "
        f"memory than is free here."
    )
