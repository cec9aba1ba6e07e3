"""What to run here: every candidate placed, timed and judged, in the order of a goal.

The order is a rule that can be said in a sentence, not a score that is shown. `quality` puts
capability first, `speed` tokens/s, `balanced` capability less what is missing to a comfortable
speed. Capability is a comparison, not a measurement: more parameters are better, newer ones more
so (see `capability`). What a quant loses is published data (`core/quality.py`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from itertools import pairwise

from localllm.core import footprint, quality
from localllm.core.footprint import Footprint
from localllm.core.load import LoadSettings
from localllm.core.model import ModelSpec
from localllm.core.placement import Budget, Placement, place
from localllm.core.quality import Quality
from localllm.core.speed import (
    DeviceSpeed,
    Estimate,
    Share,
    calibrated,
    decode_tps,
    ttft_s,
    workload_of,
)
from localllm.core.units import format_bytes, format_rate

READING_TPS = 6.0
"""Tokens/s below which nobody calls an answer fast: 250 words a minute (Brysbaert 2019, mean
silent reading speed 238) at 1.3 tokens a word are 5.2 tokens/s."""

COMFORTABLE_TPS = 15.0
"""`balanced` gives up no capability for speed beyond this."""

PROMPT_TOKENS = 512
"""The prompt that the time to the first token is told for."""

MAX_LOSS_PERCENT = 10.0
"""A quant that is published to change perplexity by more is not suggested: it costs more than a
model of half the size would."""

USUAL_BITS = 5.0
"""Bits a weight of Q4_K_M, the quant most people take, rounded up."""

_SPARE = 3
_MOST_PRICED = 2
"""Models are placed and timed exactly in the rough order of size and bandwidth until there are
`limit` good ones and a few to spare (the rough order is not the final one), or until twice
`limit` were tried."""


class Goal(StrEnum):
    BALANCED = "balanced"
    QUALITY = "quality"
    SPEED = "speed"


class Verdict(StrEnum):
    GOOD = "good"
    SLOW = "slow"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model as one file. `spec` is only called for the few that are priced exactly; `notes`
    are sentences on what is not exact about it, told among a plan's reasons."""

    model: str
    quant: str
    file: str
    size_bytes: int
    parameters: int
    active_parameters: int
    architecture: str
    released: date | None
    installed: bool
    spec: Callable[[], ModelSpec]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for. `min_tps` None: READING_TPS."""

    goal: Goal = Goal.BALANCED
    context: int = 4096
    parallel: int = 1
    min_tps: float | None = None

    @property
    def slowest_tps(self) -> float:
        return READING_TPS if self.min_tps is None else self.min_tps


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What another model did here (tokens/s of one conversation), and what was predicted."""

    measured_tps: float
    predicted_tps: float
    on_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Room and speed of each device; `gpus` in the order of `budget.gpus`. `seen` corrects the
    estimates of loads that lie on the same side, GPU or not."""

    budget: Budget
    host: DeviceSpeed
    gpus: tuple[DeviceSpeed, ...] = ()
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """A candidate on this machine; the plans that are shown have a footprint, what the quant is
    published to cost, and reasons a person can read."""

    candidate: Candidate
    spec: ModelSpec
    settings: LoadSettings
    placement: Placement
    decode: Estimate
    ttft: Estimate
    verdict: Verdict
    footprint: Footprint | None = None
    quality: Quality | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The plans, best first, and what the next better model would need."""

    plans: tuple[FitPlan, ...]
    next_better: str | None = None


def capability(candidate: Candidate) -> float:
    """Compare models: log2 of the geometric mean of total and active parameters (the usual
    measure of a mixture of experts as a dense model), plus one for each year since 2023.

    A year for a doubling is the slow end of what was observed (Xiao et al. 2024, "Densing Law of
    LLMs": parameters needed for the same result halve in about 3.3 months).
    """
    size = math.sqrt(candidate.parameters * candidate.active_parameters)
    age = 0.0 if candidate.released is None else (candidate.released - date(2023, 1, 1)).days / 365
    return math.log2(size / 1e9) + age


def plans(candidates: Iterable[Candidate], wish: Wish, machine: Machine, *, limit: int) -> Advice:
    """Choose, place and time at most `limit` models, one quant of each, best first."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.model, []).append(candidate)
    room = sum(gpu.free_bytes for gpu in machine.budget.gpus if not gpu.unified)
    room += max(0, machine.budget.host_bytes)
    ranked = sorted(groups.values(), key=lambda group: _rough(group, wish, machine, room))
    fitting: list[FitPlan] = []
    for group in ranked[: _MOST_PRICED * limit]:
        plan = _best_quant(group, wish, machine, room)
        if plan is not None:
            fitting.append(plan)
        if sum(plan.verdict is Verdict.GOOD for plan in fitting) >= limit + _SPARE:
            break
    fitting.sort(key=lambda plan: _order(plan, wish))
    best = [_explained(plan, wish) for plan in fitting[:limit]]
    return Advice(plans=tuple(best), next_better=_next_better(best, groups.values(), room))


def _rough(
    group: Sequence[Candidate], wish: Wish, machine: Machine, room: int
) -> tuple[bool, float]:
    """Order by file size and bandwidth alone: what surely does not fit last."""
    usual = _usual(group)
    tps = _fastest_tps(usual, machine)
    out_of_reach = usual.size_bytes >= room or tps < wish.slowest_tps
    return out_of_reach, -_score(capability(usual), tps, wish)


def _usual(group: Sequence[Candidate]) -> Candidate:
    """The quant that stands for a model before any is priced: the largest of at most USUAL_BITS,
    else the smallest."""
    small = [candidate for candidate in group if _bits(candidate) <= USUAL_BITS]
    if small:
        return max(small, key=lambda candidate: candidate.size_bytes)
    return min(group, key=lambda candidate: candidate.size_bytes)


def _fastest_tps(candidate: Candidate, machine: Machine) -> float:
    """What no placement can exceed: the active weights once through the fastest memory."""
    fastest = max((gpu.bandwidth_bytes_per_s for gpu in machine.gpus), default=0.0)
    bandwidth = max(fastest, machine.host.bandwidth_bytes_per_s)
    active = candidate.active_parameters / candidate.parameters
    return bandwidth / max(1.0, candidate.size_bytes * active)


def _score(able: float, tps: float, wish: Wish) -> float:
    match wish.goal:
        case Goal.QUALITY:
            return able
        case Goal.SPEED:
            return tps
        case Goal.BALANCED:
            return able + min(0.0, math.log2(max(tps, 1e-9) / COMFORTABLE_TPS))


def _order(plan: FitPlan, wish: Wish) -> tuple[bool, float]:
    score = _score(capability(plan.candidate), plan.decode.likely, wish)
    return plan.verdict is not Verdict.GOOD, -score


def _best_quant(group: list[Candidate], wish: Wish, machine: Machine, room: int) -> FitPlan | None:
    """The first quant in the goal's order that fits and is fast enough; else the fastest that
    fits; None when none fits."""
    slow: FitPlan | None = None
    for candidate in _quants(group, wish.goal):
        if candidate.size_bytes >= room:
            continue
        if slow is not None and _hopeless(candidate, slow, wish):
            continue
        plan = price(candidate, wish, machine)
        if plan.verdict is Verdict.GOOD:
            return plan
        fits = plan.verdict is Verdict.SLOW
        if fits and (slow is None or plan.decode.likely > slow.decode.likely):
            slow = plan
    return slow


def _hopeless(candidate: Candidate, slow: FitPlan, wish: Wish) -> bool:
    """Whether a smaller quant of a model that is too slow is too slow as well: time shrinks at
    most as the file does."""
    shrunk = slow.candidate.size_bytes / candidate.size_bytes
    return slow.decode.likely * shrunk < wish.slowest_tps


def _quants(group: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    """The quants worth trying, in order. `quality`: from the largest down. Otherwise from the
    knee of the quality curve down, or all of them when nothing lies above it."""
    kept = [candidate for candidate in group if not _loses_too_much(candidate)]
    large = sorted(kept, key=lambda candidate: -candidate.size_bytes)
    if goal is Goal.QUALITY:
        return large
    knee = _knee_bits(group[0])
    above = [i for i, candidate in enumerate(large) if _bits(candidate) >= knee]
    return large[above[-1] if above else 0 :]


def _loses_too_much(candidate: Candidate) -> bool:
    """What is installed already is always worth showing."""
    lost = quality.quality(candidate.quant, candidate.parameters, candidate.architecture)
    if lost is None or lost.metric is not quality.Metric.PERPLEXITY or candidate.installed:
        return False
    return lost.value > MAX_LOSS_PERCENT


def _knee_bits(candidate: Candidate) -> float:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    return quality.BITS_PER_WEIGHT[knee] if knee is not None else 0.0


def _bits(candidate: Candidate) -> float:
    """Bits a weight takes in this file, over all its tensors."""
    return candidate.size_bytes * 8 / candidate.parameters


def price(candidate: Candidate, wish: Wish, machine: Machine) -> FitPlan:
    """Place and time one candidate."""
    spec = candidate.spec()
    context = min(wish.context, spec.context_train or wish.context)
    settings = LoadSettings(context=context, parallel=wish.parallel)
    placement = place(spec, settings, machine.budget)
    shares = _work(spec, settings, placement, machine)
    hops = _hops(placement)
    decode = decode_tps(shares, depth=context // 4, hops=hops)
    seen = [one for one in machine.seen if one.on_gpu == (placement.gpu_layers > 0)]
    measured, predicted = [s.measured_tps for s in seen], [s.predicted_tps for s in seen]
    decode = calibrated(decode, measured, predicted)
    verdict = Verdict.GOOD if decode.likely >= wish.slowest_tps else Verdict.SLOW
    return FitPlan(
        candidate=candidate,
        spec=spec,
        settings=placement.chosen(settings),
        placement=placement,
        decode=decode,
        ttft=ttft_s(shares, tokens=min(PROMPT_TOKENS, context), hops=hops),
        verdict=verdict if placement.fits else Verdict.DOES_NOT_FIT,
    )


def predict(spec: ModelSpec, machine: Machine, *, tokens: int) -> tuple[Estimate, bool]:
    """The uncorrected decode rate of an answer of `tokens` tokens after an almost empty prompt,
    as `bench` measures it, and whether a GPU takes part."""
    settings = LoadSettings(context=max(512, 2 * tokens))
    placement = place(spec, settings, machine.budget)
    shares = _work(spec, settings, placement, machine)
    estimate = decode_tps(shares, depth=tokens // 2, hops=_hops(placement))
    return estimate, placement.gpu_layers > 0


def _hops(placement: Placement) -> int:
    """How often a token's state moves between devices: along the layers, and there and back for
    each layer whose experts are on the host."""
    layout = placement.layout
    along = sum(one != other for one, other in pairwise(layout))
    return along + 2 * placement.cpu_moe


def _explained(plan: FitPlan, wish: Wish) -> FitPlan:
    """Add what only the plans that are shown need."""
    candidate = plan.candidate
    plan = replace(
        plan,
        footprint=footprint.of(plan.spec, plan.settings),
        quality=quality.quality(candidate.quant, candidate.parameters, candidate.architecture),
    )
    return replace(plan, reasons=tuple(_reasons(plan, wish)))


def _work(
    spec: ModelSpec,
    settings: LoadSettings,
    placement: Placement,
    machine: Machine,
) -> list[Share]:
    """What each device that holds layers or experts does for one token."""
    speeds = (*machine.gpus, machine.host) if len(placement.devices) > 1 else (machine.host,)
    shares = []
    for i, speed in enumerate(speeds):

        def holds(layer: int | None, expert: bool, i: int = i) -> bool:
            return placement.device_of(layer, expert=expert) == i

        def caches(layer: int, i: int = i) -> bool:
            return placement.layout[layer] == i

        work = workload_of(spec, settings, holds=holds, cache_layers=caches)
        if work.weights:
            shares.append(Share(device=speed, work=work))
    return shares


def _reasons(plan: FitPlan, wish: Wish) -> Iterable[str]:
    spare = min(share.free_bytes - share.total_bytes for share in plan.placement.devices)
    if spare >= 0:
        yield f"Fits with {format_bytes(spare)} to spare."
    else:
        lacking = min(
            plan.placement.devices, key=lambda share: share.free_bytes - share.total_bytes
        )
        yield f"Needs {format_bytes(-spare)} more on {lacking.name}."
    yield _speed_words(plan.decode, wish)
    candidate = plan.candidate
    if candidate.active_parameters < candidate.parameters:
        share = candidate.active_parameters / candidate.parameters
        yield f"A mixture of experts: each token uses {share:.0%} of the weights."
    if plan.placement.cpu_moe:
        yield f"The experts of {plan.placement.cpu_moe} layers stay in system memory."
    elif 0 < plan.placement.gpu_layers < len(plan.placement.layout):
        yield (
            f"{plan.placement.gpu_layers} of {len(plan.placement.layout)} layers are on the GPU; "
            "the rest runs on the processor."
        )
    if plan.quality is not None:
        yield _quality_words(candidate, plan.quality)
    yield from candidate.notes
    for doubt in plan.footprint.needs_probe if plan.footprint else ():
        yield f"The memory is an estimate: {doubt}."


def _speed_words(decode: Estimate, wish: Wish) -> str:
    likely = format_rate(decode.likely)
    if decode.likely >= wish.slowest_tps:
        times = decode.likely / READING_TPS
        pace = f"{times:.1f} times reading speed" if times >= 1.5 else "about reading speed"
        return f"About {likely}: {pace}."
    return f"About {likely}: slower than the {wish.slowest_tps:g} tok/s that were asked for."


def _quality_words(candidate: Candidate, lost: Quality) -> str:
    knee = quality.knee(candidate.parameters, candidate.architecture)
    what = (
        f"{candidate.quant} changes perplexity by {lost.value:+.1f} %"
        if lost.metric is quality.Metric.PERPLEXITY
        else f"{candidate.quant} is {lost.value:.3g} nats from the unquantized model"
    )
    where = "interpolated from published models" if lost.interpolated else "published"
    at = "; the knee of the quality curve" if candidate.quant == knee else ""
    return f"{what} ({where}){at}."


def _next_better(
    best: Sequence[FitPlan], groups: Iterable[list[Candidate]], room: int
) -> str | None:
    """The smallest step up: the most capable thing here, and the least memory for more."""
    if not best:
        return None
    able = max(capability(plan.candidate) for plan in best)
    usual = (_usual(group) for group in groups)
    beyond = [c for c in usual if capability(c) > able and c.size_bytes > room]
    if not beyond:
        return None
    nearest = min(beyond, key=lambda candidate: candidate.size_bytes)
    lacking = format_bytes(nearest.size_bytes - room)
    return (
        f"The next better model, {nearest.model} {nearest.quant}, needs at least {lacking} more "
        f"memory than is free here."
    )
