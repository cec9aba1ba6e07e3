"""The decision on one load: measured memory, llama.cpp's dry run where the estimate needs it, the
models that give way, and the sentence that explains it to a person.

Nothing is loaded or unloaded here.
"""

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from localllm.core.sizing.fit import Fit
from localllm.core.sizing.load import Allocation, LoadSettings
from localllm.core.sizing.placement import budget_of
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.errors import DoesNotFit
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.loading.gpu_tests import GpuTest
from localllm.runtime.memory_outlook import HeldMemory, MemoryOutlook
from localllm.runtime.model_pool.eviction import (
    Assessment,
    Candidate,
    CannotFit,
    Evict,
    EvictionPlan,
    WaitFor,
    plan_eviction,
)
from localllm.runtime.model_pool.timing import LoadTimes
from localllm.runtime.runtime import Runtime

UNKNOWN_WAIT_S = 30.0
"""The wait that is announced where none can be predicted: other programs hold the memory, or a
request has no limit."""

_MAX_PROBES = 4


class InsufficientMemory(DoesNotFit):
    """A model cannot be loaded beside those that have to stay. `retry_after_s`: when it may be;
    None: never, on this machine and with these limits."""

    code = "insufficient_memory"

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> int | None:
        """Whole seconds for a Retry-After header."""
        return None if self.retry_after_s is None else max(1, math.ceil(self.retry_after_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How a load can come about: `decision` says what gives way, `fit` what it then takes; `plan`
    is what to load, `outlook` the memory that it was decided in. `without`: the models that `fit`
    imagines gone, all that could be where it does not fit."""

    plan: LoadPlan
    fit: Fit
    decision: EvictionPlan
    outlook: MemoryOutlook
    without: frozenset[str]
    sentence: str

    @property
    def gone(self) -> frozenset[str]:
        """The models that give way."""
        return _gone(self.decision)

    def refusal(self) -> InsufficientMemory:
        """Make the error of a load that cannot come about now."""
        fit, name, gone = self.fit, single_line(self.plan.model.name), self.without
        if self.outlook.over_limit_bytes(self.plan, fit, gone):
            reason = self.outlook.limit_message(self.plan, fit, gone)
        else:
            reason = fit.message(name)
        match self.decision:
            case WaitFor(wait_s=wait_s):
                wait = UNKNOWN_WAIT_S if wait_s is None else wait_s
                return InsufficientMemory(f"{self.sentence} Try again then.", retry_after_s=wait)
            case CannotFit(pinned=pinned) if pinned:
                held = " and ".join(_with_memory(each, self.outlook.held) for each in pinned)
                return InsufficientMemory(
                    f"{reason} {held} cannot be unloaded for it (pinned): start the server without "
                    "its --pin, or ask for a smaller model.",
                    retry_after_s=None,
                )
        if self._fits_alone():
            return InsufficientMemory(
                f"{reason} Other programs hold the rest of the memory: close some, or try later.",
                retry_after_s=UNKNOWN_WAIT_S,
            )
        return InsufficientMemory(reason, retry_after_s=None)

    def _fits_alone(self) -> bool:
        """Tell whether it would fit if nothing else ran on this machine."""
        alone = self.outlook.without_others()
        fit = alone.fit(self.plan)
        return fit.fits and not alone.over_limit_bytes(self.plan, fit)


Probes = list[tuple[LoadSettings, tuple[Allocation, ...]]]
"""What llama.cpp's dry runs have said of a load, by its settings."""


@dataclass(frozen=True, slots=True)
class _Assessor:
    """Assesses a load without sets of models."""

    plan: LoadPlan
    outlook: MemoryOutlook
    probed: Probes

    def fit(self, gone: Collection[str]) -> Fit:
        """Return the fit of the first candidate that fits, else of the last."""
        for candidate in self.plan.candidates:
            fit = self.outlook.fit(replace(self.plan, candidates=(candidate,)), gone)
            fit = next(
                (
                    fit.with_probe(found)
                    for settings, found in self.probed
                    if settings == fit.settings
                ),
                fit,
            )
            if self._allowed(fit, gone):
                break
        return fit

    def assess(self, gone: frozenset[str]) -> Assessment:
        fit = self.fit(gone)
        return Assessment(fits=self._allowed(fit, gone), gpu_layers=fit.settings.gpu_layers or 0)

    def _allowed(self, fit: Fit, gone: Collection[str]) -> bool:
        return fit.fits and not self.outlook.over_limit_bytes(self.plan, fit, gone)


async def decide(
    runtime: Runtime,
    plan: LoadPlan,
    residents: Sequence[Candidate],
    times: LoadTimes,
    probes: Probes,
) -> Admission:
    """Decide how this load can come about beside, or instead of, the resident models.

    Where the GPU is known to fail with the model, the decision is that of a load on the processor,
    which `Runtime.load` then makes of the plan. `probes` are those of earlier decisions on it; new
    ones are appended. Raises as `Runtime.fit` and `Runtime.probe` do.
    """
    admission = await _decide(runtime, plan, residents, times, probes)
    if not await _gpu_has_failed(runtime, plan, admission.fit):
        return admission
    admission = await _decide(runtime, plan.on_processor, residents, times, probes)
    if isinstance(admission.decision, CannotFit):
        return admission
    first = _index(plan, admission.fit)
    return replace(admission, plan=replace(plan, candidates=plan.candidates[first:]))


async def _gpu_has_failed(runtime: Runtime, plan: LoadPlan, fit: Fit) -> bool:
    """Tell whether the devices of this fit are known to fail with the model."""
    test = None if plan.trust_gpu else GpuTest.of(plan.model, fit, await runtime.hardware())
    known = None if test is None else runtime.gpu_verdicts.get(test)
    return known is not None and not known.passed


async def _decide(
    runtime: Runtime,
    plan: LoadPlan,
    residents: Sequence[Candidate],
    times: LoadTimes,
    probes: Probes,
) -> Admission:
    outlook = await runtime.outlook()
    await runtime.fit_in(outlook, plan)  # raises for what no memory can be worked out of
    assessor = _Assessor(plan, outlook, probes)
    for _ in range(_MAX_PROBES):
        decision = await asyncio.to_thread(plan_eviction, assessor.assess, residents)
        gone = _everything(decision, residents)
        fit = await asyncio.to_thread(assessor.fit, gone)
        if isinstance(decision, CannotFit) or fit.probed is not None or not fit.wants_probe:
            break
        probed = await runtime.probe(plan.model, fit)
        assert probed.probed is not None
        probes.append((fit.settings, probed.probed))
        fit = probed
        if fit.fits and not outlook.over_limit_bytes(plan, fit, gone):
            break
    first = _index(plan, fit)
    return Admission(
        plan=replace(plan, candidates=plan.candidates[first:]),
        fit=fit,
        decision=decision,
        outlook=outlook,
        without=gone,
        sentence=_sentence(plan, fit, decision, times, _left(plan, fit, outlook, gone)),
    )


def shortfall(before: MemoryOutlook, after: MemoryOutlook, gone: Collection[str]) -> str | None:
    """Say how much of the memory of models that were unloaded has not come back, by device; None
    when it has, but for what other programs may have taken meanwhile."""
    found = []
    then, now = budget_of(before.hardware), budget_of(after.hardware)
    held = [each for name, each in before.held.items() if name in gone and each.running]
    expected = sum(each.host_bytes for each in held)
    kept = after.releasable_bytes - before.releasable_bytes  # of it, conversations
    came = now.host_bytes - then.host_bytes + kept
    if _short(expected, came):
        found.append((expected, came, "system memory"))
    for old, new in zip(then.gpus, now.gpus, strict=False):
        expected = sum(each.gpu_bytes.get(old.engine_name or "", 0) for each in held)
        if _short(expected, new.free_bytes - old.free_bytes):
            found.append((expected, new.free_bytes - old.free_bytes, old.name))
    if not found:
        return None
    return " and ".join(
        f"{format_bytes(max(0, came))} of {format_bytes(expected)} of {device}"
        for expected, came, device in found
    )


_NOISE_BYTES = 256 * 2**20
"""What other programs take in the meantime is no shortfall."""


def _short(expected: int, came: int) -> bool:
    return expected - came > max(_NOISE_BYTES, expected // 4)


def _gone(decision: EvictionPlan) -> frozenset[str]:
    match decision:
        case Evict(names=names):
            return frozenset(names)
        case WaitFor(busy=busy, idle=idle):
            return frozenset((*busy, *idle))
        case CannotFit():
            return frozenset()


def _everything(decision: EvictionPlan, residents: Sequence[Candidate]) -> frozenset[str]:
    """Return what gives way; where the load does not fit, all that could."""
    if isinstance(decision, CannotFit):
        return frozenset(each.name for each in residents if not each.pinned)
    return _gone(decision)


def _index(plan: LoadPlan, fit: Fit) -> int:
    """Find the candidate that was placed: they differ in their parallel sequences alone."""
    return next(
        (i for i, each in enumerate(plan.candidates) if each.parallel == fit.settings.parallel), 0
    )


def _sentence(plan: LoadPlan, fit: Fit, decision: EvictionPlan, times: LoadTimes, left: str) -> str:
    name = single_line(plan.model.name)
    match decision:
        case Evict(names=()):
            return f"{name} loads {times.phrase(plan.model)}; {left}."
        case Evict(names=names):
            others = _list(names)
            return f"{name} loads {times.phrase(plan.model)} after unloading {others}; {left}."
        case WaitFor(busy=busy, wait_s=wait_s):
            wait = (
                "for an unknown time"
                if wait_s is None
                else (f"for about {format_duration(wait_s)}")
            )
            return (
                f"{name} needs {format_bytes(fit.with_draft_bytes)} and waits for {_list(busy)}, "
                f"busy {wait}."
            )
        case CannotFit():
            return f"{name} does not fit."


def _left(plan: LoadPlan, fit: Fit, outlook: MemoryOutlook, gone: Collection[str]) -> str:
    """Say what stays free on the devices that are used, or of the limit on all models."""
    size = outlook.releasable_bytes
    kept = f" ({format_bytes(size)} of them with kept conversations)" if size else ""
    if (limit := outlook.max_memory_bytes) is not None:
        beside = outlook.beside_bytes({plan.model.name, *gone})
        left_bytes = max(0, limit - beside - fit.with_draft_bytes)
        return f"{format_bytes(left_bytes)} of {format_bytes(limit)} stay free{kept}"
    parts = []
    for share in fit.placement.devices:
        if share.total_bytes:
            left = format_bytes(max(0, share.free_bytes - share.total_bytes))
            parts.append(f"{left} on {share.name}")
    if len(parts) == 1:
        return f"{parts[0].partition(' on ')[0]} stay free{kept}"
    return f"{' and '.join(parts)} stay free{kept}"


def _with_memory(name: str, held: Mapping[str, HeldMemory]) -> str:
    size = f" ({format_bytes(held[name].total_bytes)})" if name in held else ""
    return f"{single_line(name)}{size}"


def _list(names: Sequence[str]) -> str:
    return " and ".join(single_line(name) for name in names)
