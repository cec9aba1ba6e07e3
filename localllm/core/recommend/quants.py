"""Which quants of a model are worth a try, and in what order."""

from collections.abc import Sequence

from localllm.core import quality
from localllm.core.recommend.plan import Candidate, Goal

MAX_LOSS_PERCENT = 10.0
"""A quant that is published to change perplexity by more is not suggested: it costs more than a
model of half the size would."""

USUAL_BITS = 5.0
"""Bits a weight of Q4_K_M, the quant most people take, rounded up."""


def usual(group: Sequence[Candidate]) -> Candidate:
    """The quant that stands for a model before any is priced: the largest of at most USUAL_BITS,
    else the smallest."""
    small = [candidate for candidate in group if _bits(candidate) <= USUAL_BITS]
    if small:
        return max(small, key=lambda candidate: candidate.size_bytes)
    return min(group, key=lambda candidate: candidate.size_bytes)


def worth_trying(group: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    """Put the quants of a model in the order of the goal. `quality`: from the largest down.
    Otherwise from the knee of the quality curve down, or all when nothing lies above it."""
    kept = [candidate for candidate in group if not _loses_too_much(candidate)]
    large = sorted(kept, key=lambda candidate: -candidate.size_bytes)
    if goal is Goal.QUALITY:
        return large
    knee = _knee_bits(group[0])
    above = [i for i, candidate in enumerate(large) if _bits(candidate) >= knee]
    return large[above[-1] if above else 0 :]


def _loses_too_much(candidate: Candidate) -> bool:
    """What is installed already is always worth showing."""
    if candidate.installed:
        return False
    lost = quality.change_percent(candidate.quant, candidate.parameters, candidate.architecture)
    return lost is not None and lost > MAX_LOSS_PERCENT


def _knee_bits(candidate: Candidate) -> float:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    return quality.BITS_PER_WEIGHT[knee] if knee is not None else 0.0


def _bits(candidate: Candidate) -> float:
    """Bits a weight takes in this file, over all its tensors."""
    return candidate.size_bytes * 8 / candidate.parameters
