"""Measurements of models on machines, and the choice of those that calibrate an estimate.

`library/files/measurements.py` stores them; the estimate of another model on the same machine is
corrected by them (`core.speed.calibrated`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

UNSTEADY = 0.2
"""A standard deviation above this part of the mean means that something else was running."""


LEAST_TOKENS = 16
"""An answer of fewer tokens is over before its rate is known."""

STALE_AFTER = timedelta(days=180)
"""Drivers, kernels, power plans and dust change how fast a machine is; half a year is a guess."""

_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMachine:
    """The machine and the engine of a measurement: equal values, comparable rates.

    `threads` is what the engine computed with, `threads_measured`: it took as many as was found
    best (runtime/thread_counts.py), nobody has said how many; `devices` the accelerators that were
    found, `backends` what the engine's build can drive (the same version with another backend is
    another machine).
    """

    cpu: str
    threads: int
    devices: tuple[str, ...] = ()
    engine_version: str | None = None
    engine_commit: str | None = None
    backends: tuple[str, ...] = ()
    threads_measured: bool = False

    def comparable(self, other: "MeasuredMachine") -> bool:
        """Return True when rates on the two compare: the same processor, threads (or those that
        were found best here) and accelerators, and no difference in what is known of both
        engines."""
        if (self.cpu, self.devices) != (other.cpu, other.devices):
            return False
        if self.threads != other.threads and not (self.threads_measured or other.threads_measured):
            return False
        known = (
            (self.engine_version, other.engine_version),
            (self.engine_commit, other.engine_commit),
            (frozenset(self.backends), frozenset(other.backends)),
        )
        return all(not mine or not theirs or mine == theirs for mine, theirs in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredModel:
    """The file that was measured. Two files of one name differ in their size."""

    name: str
    quant: str | None
    architecture: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A rate in tokens/s: mean and standard deviation over `repetitions`.

    Either `n_prompt` tokens of prompt were read (`n_gen` 0), or `n_gen` tokens were decoded after
    an almost empty prompt (`n_prompt` 0), by each of `parallel` conversations at the same time;
    the rate is that of all of them together. `gpu_layers` and `cpu_moe` say where the model lay.
    `tps_stdev` is None for a single repetition. `measured_at` is ISO 8601, UTC. `crowded`: other
    programs left the engine too few processors, so the rate says little of the machine. Raises
    ValueError for numbers that nothing measures.
    """

    machine: MeasuredMachine
    model: MeasuredModel
    n_prompt: int
    n_gen: int
    parallel: int
    gpu_layers: int
    cpu_moe: int = 0
    repetitions: int
    tps_mean: float
    tps_stdev: float | None
    measured_at: str
    crowded: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.tps_mean < math.inf:
            raise ValueError(f"tps_mean must be a positive number, not {self.tps_mean}")
        if self.tps_stdev is not None and not 0 <= self.tps_stdev < math.inf:
            raise ValueError(f"tps_stdev must be a number from 0 on, not {self.tps_stdev}")
        if min(self.n_prompt, self.n_gen) != 0 or max(self.n_prompt, self.n_gen) < 1:
            raise ValueError("one of n_prompt and n_gen must be 0, the other at least 1")
        if min(self.parallel, self.repetitions, self.machine.threads) < 1:
            raise ValueError("parallel, repetitions and threads must be at least 1")
        if min(self.gpu_layers, self.cpu_moe, self.model.size_bytes) < 0:
            raise ValueError("gpu_layers, cpu_moe and size_bytes cannot be negative")

    @property
    def steady(self) -> bool:
        """True when it shows what the machine can do: the processors were free, and the runs differ
        little."""
        return not self.crowded and self.spread <= UNSTEADY

    @property
    def spread(self) -> float:
        """The standard deviation as a part of the mean; 0 for a single run."""
        return (self.tps_stdev or 0.0) / self.tps_mean

    @property
    def test(self) -> str:
        """Its name in llama-bench: "pp512" for a prompt, "tg128" for an answer."""
        return f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"

    def replaces(self, other: "Measurement") -> bool:
        """Return True when both measure the same thing, so that only the newer one counts."""
        return _what(self) == _what(other)


def calibration_measurements(
    measurements: Iterable[Measurement], here: MeasuredMachine, now: datetime
) -> tuple[Measurement, ...]:
    """Choose the measurements that correct estimates: steady decode rates of one sequence, of a
    machine and engine like `here` and of the last half year; of each file and side (GPU or not)
    only the newest. `now` has a time zone."""
    newest: dict[tuple[MeasuredModel, bool], tuple[datetime, Measurement]] = {}
    for one in measurements:
        taken = _measured_at(one)
        if taken is None or not -_CLOCKS_DIFFER < now - taken < STALE_AFTER:
            continue
        alone = one.n_gen >= LEAST_TOKENS and one.parallel == 1
        if not (alone and one.steady and one.machine.comparable(here)):
            continue
        key = one.model, one.gpu_layers > 0
        if key not in newest or taken >= newest[key][0]:
            newest[key] = taken, one
    return tuple(one for _, one in newest.values())


def _measured_at(one: Measurement) -> datetime | None:
    """Parse the time of a measurement; None for text that is no time with a zone."""
    try:
        taken = datetime.fromisoformat(one.measured_at)
    except ValueError:
        return None
    return taken if taken.tzinfo is not None else None


def _what(one: Measurement) -> tuple[object, ...]:
    return (
        one.machine,
        one.model,
        one.n_prompt,
        one.n_gen,
        one.parallel,
        one.gpu_layers,
        one.cpu_moe,
    )
