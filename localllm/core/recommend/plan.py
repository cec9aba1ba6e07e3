"""What is asked of a suggestion and what it answers: candidates, wishes, machines, plans."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from localllm.core.model.spec import ModelSpec
from localllm.core.quality.quality import Quality
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement import Budget, Placement
from localllm.core.speed import DeviceSpeed, Estimate, Workload

READING_TPS = 6.0
"""Tokens/s below which nobody calls an answer fast: 250 words a minute (Brysbaert 2019, mean
silent reading speed 238) at 1.3 tokens a word are 5.2 tokens/s."""


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
    are sentences on what is not exact about it, told among a plan's reasons. `context`
    is what it was trained for, None when only the header says it. `reads` and
    `recalls` tell what a token costs, in weights (routed experts apart) and in cache and states:
    with them a model that cannot be among the best is left out unpriced."""

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
    context: int | None = None
    reads: Callable[[], Workload] | None = None
    recalls: Callable[[], Workload] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
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
