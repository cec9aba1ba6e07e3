"""The values of a suggestion: candidates, preferences and a machine in, plans out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from localllm.core.model.spec import ModelSpec
from localllm.core.quality.quality import Quality
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.load import DEFAULT_CONTEXT, Graphs, KvType, LoadSettings, Mmproj
from localllm.core.sizing.placement import Budget, Placement
from localllm.core.speed import DeviceSpeed, Estimate, Workload

READING_TPS = 6.0
"""Tokens/s below which an answer is slower than reading: 250 words a minute (Brysbaert 2019, mean
silent reading speed 238) at 1.3 tokens a word are 5.2 tokens/s."""


class Goal(StrEnum):
    """The order of a suggestion, as the package's docstring defines it."""

    BALANCED = "balanced"
    QUALITY = "quality"
    SPEED = "speed"


class Verdict(StrEnum):
    """The outcome for a candidate on a machine."""

    GOOD = "good"
    SLOW = "slow"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model as one file.

    `spec` is called only for the few that are evaluated exactly. `caveats` are sentences on what
    is not exact about it, shown among a plan's reasons. `mmproj` is the image encoder that is
    fetched and loaded with it, None where it has none. `context` is what it was trained for, None
    when only the header says it. `weight_reads` and `cache_reads` are the cost of a token, in
    weights (routed experts apart) and in cache and states: with them a model that cannot be among
    the best is left out without an evaluation.
    """

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
    caveats: tuple[str, ...] = ()
    mmproj: Mmproj | None = None
    context: int | None = None
    weight_reads: Callable[[], Workload] | None = None
    cache_reads: Callable[[], Workload] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The user's wishes for a suggestion. `min_tps` None: READING_TPS. `graphs`: those of the build
    that will run."""

    goal: Goal = Goal.BALANCED
    context: int = DEFAULT_CONTEXT
    parallel: int = 1
    min_tps: float | None = None
    graphs: Graphs = Graphs.B0C1E570
    kv_type: KvType = KvType.F16

    @property
    def slowest_tps(self) -> float:
        """The rate below which a plan is slow."""
        return READING_TPS if self.min_tps is None else self.min_tps


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """The measured rate of another model here (tokens/s of one sequence), and the predicted one."""

    measured_tps: float
    predicted_tps: float
    on_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Free memory and speed of each device; `gpus` in the order of `budget.gpus`. `calibration`
    corrects the estimates of loads that lie on the same side, GPU or not."""

    budget: Budget
    host: DeviceSpeed
    gpus: tuple[DeviceSpeed, ...] = ()
    calibration: tuple[CalibrationPoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """A candidate on this machine; the plans that are shown have a footprint, the published loss of
    the quant, and reasons a person can read."""

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
    """The plans, best first, and a sentence on the next better model."""

    plans: tuple[FitPlan, ...]
    next_better: str | None = None
