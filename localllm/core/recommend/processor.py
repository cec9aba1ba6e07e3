"""The quants of a model on this processor: which are decoded fast by this engine, and in words.

Only measured kernels count (`core/speed/kernels.py`): nothing is claimed of a processor from a
table. Where a GPU takes part, or nothing was measured, all of this says nothing.
"""

from collections.abc import Iterator, Sequence

from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import GgmlType
from localllm.core.quality import quality
from localllm.core.recommend.plan import Candidate, Machine
from localllm.core.speed.kernels import weight_s
from localllm.translation import _

NOTABLY_FASTER = 1.15
"""A quant that decodes so many times as fast may take the place of another: more than repeated
measurements of a kernel differ by (10 % on two busy cores)."""

SAME_LOSS_PERCENT = 0.5
"""Two quants whose published changes of perplexity differ by no more are equally good: those of one
quant in models of one size differ by as much."""

WORTH_A_WORD_PERCENT = 3.0
"""A faster quant that loses so much more is not taken, but named."""

_SIMILAR_SIZE = 1.25


def processor_first(
    order: Sequence[Candidate], above: Sequence[Candidate], machine: Machine | None
) -> list[Candidate]:
    """Put before each quant of `order` one that is as good and decodes notably faster here, also
    one of `above`, which are too large to be worth trying otherwise."""
    if machine is None or machine.gpus or not machine.host.kernels.measured:
        return list(order)
    result: list[Candidate] = []
    for candidate in order:
        better = [
            other
            for other in (*above, *order)
            if other not in result and other is not candidate
            and _as_good(other, candidate) and _faster(other, candidate, machine)
        ]  # fmt: skip
        if better and candidate not in result:
            result.append(min(better, key=_loss))
        if candidate not in result:
            result.append(candidate)
    return result


def processor_reasons(
    chosen: Candidate, group: Sequence[Candidate], machine: Machine
) -> Iterator[str]:
    """Yield what this processor has to do with a choice among the quants of a model that are of
    about one size: one sentence for it, or one against."""
    kind = _kind(chosen)
    if machine.gpus or kind not in machine.host.kernels.measured:
        return
    similar = [
        each
        for each in group
        if each is not chosen and _kind(each) != kind and _kind(each) is not None
        and max(each.size_bytes, chosen.size_bytes)
        <= _SIMILAR_SIZE * min(each.size_bytes, chosen.size_bytes)
    ]  # fmt: skip
    slower = [each for each in similar if _faster(chosen, each, machine)]
    faster = [
        each
        for each in similar
        if _as_good(each, chosen, WORTH_A_WORD_PERCENT) and _faster(each, chosen, machine)
    ]
    if faster:
        other = min(faster, key=_loss)
        yield _(
            "{quant} would decode {times:.1f} times as fast: this engine has faster kernels for it "
            "on this processor. It changes perplexity by {loss:+.1f} %."
        ).format(quant=other.quant, times=_times(other, chosen, machine), loss=_loss(other))
    elif slower:
        other = min(slower, key=lambda each: abs(each.size_bytes - chosen.size_bytes))
        repacked = machine.host.kernels.repacked(kind) if kind is not None else False
        how = _(", whose weights it repacks") if repacked else ""
        yield _(
            "{quant} over {other}: this engine has faster kernels for it on this processor{how}; "
            "it decodes {times:.1f} times as fast."
        ).format(
            quant=chosen.quant, other=other.quant, how=how, times=_times(chosen, other, machine)
        )


def _as_good(other: Candidate, candidate: Candidate, percent: float = SAME_LOSS_PERCENT) -> bool:
    return _loss(other) <= _loss(candidate) + percent < float("inf")


def _loss(candidate: Candidate) -> float:
    """Return the published change of perplexity in percent; infinite when there is none."""
    lost = quality.change_percent(candidate.quant, candidate.parameters, candidate.architecture)
    return float("inf") if lost is None else lost


def _faster(other: Candidate, candidate: Candidate, machine: Machine) -> bool:
    return _times(other, candidate, machine) >= NOTABLY_FASTER


def _times(other: Candidate, candidate: Candidate, machine: Machine) -> float:
    """Return how many times as fast `other` decodes; 0 when nothing is known."""
    mine, its = _seconds(other, machine), _seconds(candidate, machine)
    return its / mine if mine and its else 0.0


def _seconds(candidate: Candidate, machine: Machine) -> float | None:
    """Return the seconds of a weight of the type that most tensors have; None for one that is not
    known or was not measured."""
    kind, host = _kind(candidate), machine.host
    if kind is None or kind not in host.kernels.measured:
        return None
    return weight_s(
        kind,
        host.kernels,
        cores=host.cores,
        bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
        size_bytes=candidate.size_bytes / candidate.parameters,
    )


def _kind(candidate: Candidate) -> GgmlType | None:
    known = FILE_TYPES.get(candidate.quant)
    return None if known is None else known.default
