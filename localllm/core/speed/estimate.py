"""A number that is not known exactly, and its correction by measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CALIBRATED_SPREAD = math.log(1.15)
"""The error that is left on a CPU after one measurement on the same machine, for other models and
quants. Checked by `benchmarks/speed_accuracy.py` on one CPU, on data that also shaped the constants
(docs/speed.md)."""

GPU_REMAINS = 0.7
"""The part of a GPU's interval that is left after one or two measurements: which kernels a model
needs differs by architecture, and the measured one may be the odd one. With it 86 % of the models
that others ran on ten devices lie inside when any one of them calibrates, with 15 % only 57 %
(benchmarks/data, speed_elsewhere.csv)."""

_ENOUGH = 3  # measurements whose own scatter tells what is left
_NINETY_PERCENT = 1.645  # standard deviations either side that hold 90 % of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An interval that aims at nine of ten outcomes, and its most likely value, in one unit:
    tokens/s or seconds. docs/speed.md counts the outcomes inside it, outside the fitted data."""

    low: float
    likely: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.likely <= self.high:
            raise ValueError(f"not an interval: {self.low} <= {self.likely} <= {self.high}")


def calibrated(
    estimate: Estimate,
    measured: Sequence[float],
    predicted: Sequence[float],
    *,
    on_gpu: bool = False,
) -> Estimate:
    """Correct an estimate by the measurements of other models on this machine.

    `measured[i]` and `predicted[i]` (the likely value that was estimated) belong to one run, in
    the unit of `estimate`. The estimate is scaled by the geometric mean of their ratios. Its
    interval becomes 15 % either side, or the spread of the ratios when they scatter more; on a CPU
    it never grows. On a GPU one or two measurements say less of other models (`GPU_REMAINS`), and
    the interval becomes even: the measured model may be the odd one. No measurements: the estimate
    as it was. Raises ValueError when the two differ in length or hold anything but positive
    numbers.
    """
    if len(measured) != len(predicted):
        raise ValueError(f"{len(measured)} measurements but {len(predicted)} predictions")
    if not all(0 < value < math.inf for value in (*measured, *predicted)):
        raise ValueError("measured and predicted rates must be positive numbers")
    if not measured or estimate.low <= 0:
        return estimate
    logs = [math.log(m / p) for m, p in zip(measured, predicted, strict=True)]
    mean = math.fsum(logs) / len(logs)
    below, above = (
        math.log(estimate.likely / estimate.low),
        math.log(estimate.high / estimate.likely),
    )
    spread = max(CALIBRATED_SPREAD, _NINETY_PERCENT * _scatter(logs, mean))
    if on_gpu:
        left = GPU_REMAINS * max(below, above) if len(logs) < _ENOUGH else 0.0
        below = above = max(spread, left)
    else:
        below, above = min(below, spread), min(above, spread)
    likely = estimate.likely * math.exp(mean)
    return Estimate(low=likely * math.exp(-below), likely=likely, high=likely * math.exp(above))


def _scatter(logs: Sequence[float], mean: float) -> float:
    """Return the standard deviation; 0 for one value."""
    return math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / max(1, len(logs) - 1))
