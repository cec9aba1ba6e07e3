"""The order of a suggestion: of a model's quants, of plans, and the step to the next better model.

A rule that fits in a sentence, in one place; nothing else compares models.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import date

from localllm.core.quality import quality
from localllm.core.recommend.plan import Candidate, FitPlan, Goal, Machine, Preferences
from localllm.core.recommend.processor import processor_first
from localllm.core.units import format_bytes
from localllm.translation import _

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


def score(ability: float, tps: float, preferences: Preferences) -> float:
    """Score a plan by a goal: the higher, the better. `ability` is the model's capability. The
    score never falls when `tps` grows."""
    match preferences.goal:
        case Goal.QUALITY:
            return ability
        case Goal.SPEED:
            return tps
        case Goal.BALANCED:
            return ability + min(0.0, math.log2(max(tps, 1e-9) / COMFORTABLE_TPS))


def next_better(
    best: Sequence[FitPlan], groups: Iterable[Sequence[Candidate]], memory_bytes: int
) -> str | None:
    """Describe the smallest model that is more capable than the best plans and too large here."""
    if not best:
        return None
    ability = max(capability(plan.candidate) for plan in best)
    beyond = [
        c for c in map(usual, groups) if capability(c) > ability and c.size_bytes > memory_bytes
    ]
    if not beyond:
        return None
    nearest = min(beyond, key=lambda candidate: candidate.size_bytes)
    lacking = format_bytes(nearest.size_bytes - memory_bytes)
    return _(
        "The next better model, {model} {quant}, needs at least {lacking} more memory than is free "
        "here."
    ).format(model=nearest.model, quant=nearest.quant, lacking=lacking)


MAX_LOSS_PERCENT = 10.0
"""A quant that is published to change perplexity by more is not suggested: it costs more than a
model of half the size would."""

USUAL_BITS = 5.0
"""Bits a weight of Q4_K_M, the quant most people take, rounded up."""


def usual(group: Sequence[Candidate]) -> Candidate:
    """Pick the quant that stands for a model before any is placed: the largest of at most
    USUAL_BITS, else the smallest."""
    small = [candidate for candidate in group if _bits(candidate) <= USUAL_BITS]
    if small:
        return max(small, key=lambda candidate: candidate.size_bytes)
    return min(group, key=lambda candidate: candidate.size_bytes)


def worth_trying(
    group: Sequence[Candidate], goal: Goal, machine: Machine | None = None
) -> list[Candidate]:
    """Put the quants of a model in the order of the goal. `quality`: from the largest down.
    Otherwise from the knee of the quality curve down, or all when nothing lies above it; before
    each of them one that is as good and faster on the processor of `machine`."""
    good = [candidate for candidate in group if not _loses_too_much(candidate)]
    large = sorted(good, key=lambda candidate: -candidate.size_bytes)
    if goal is Goal.QUALITY:
        return large
    knee = _knee_bits(group[0])
    above = [i for i, candidate in enumerate(large) if _bits(candidate) >= knee]
    first = above[-1] if above else 0
    return processor_first(large[first:], large[:first], machine)


def _loses_too_much(candidate: Candidate) -> bool:
    """Return True for a quant below MAX_LOSS_PERCENT; one that is installed is shown anyway."""
    if candidate.installed:
        return False
    lost = quality.change_percent(candidate.quant, candidate.parameters, candidate.architecture)
    return lost is not None and lost > MAX_LOSS_PERCENT


def _knee_bits(candidate: Candidate) -> float:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    return quality.BITS_PER_WEIGHT[knee] if knee is not None else 0.0


def _bits(candidate: Candidate) -> float:
    """Return the bits that a weight takes in this file, over all its tensors."""
    return candidate.size_bytes * 8 / candidate.parameters
