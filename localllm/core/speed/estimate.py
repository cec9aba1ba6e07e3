"""A number that is not known exactly, and how a measurement corrects it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CALIBRATED_SPREAD = math.log(1.15)
"""What is left to err after one measurement on the same machine: the design's promise for other
models and quants. Checked by `benchmarks/speed_accuracy.py` on one CPU, on data that also shaped
the constants (docs/speed.md)."""

_NINETY_PERCENT = 1.645  # standard deviations either side that hold 90 % of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An interval that aims at nine of ten outcomes, and its most likely value, in one unit:
    tokens/s or seconds. How far it falls short outside the fitted data: docs/speed.md."""

    low: float
    likely: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.likely <= self.high:
            raise ValueError(f"not an interval: {self.low} <= {self.likely} <= {self.high}")

    def reciprocal(self, numerator: float = 1.0) -> "Estimate":
        """`numerator` divided by it: seconds per token become tokens/s and the reverse."""
        return Estimate(
            low=numerator / self.high, likely=numerator / self.likely, high=numerator / self.low
        )


def calibrated(
    estimate: Estimate, measured: Sequence[float], predicted: Sequence[float]
) -> Estimate:
    """Correct an estimate by what other models did on this machine.

    `measured[i]` and `predicted[i]` (the likely value that was estimated) belong to one run, in
    the unit of `estimate`. The estimate is scaled by the geometric mean of their ratios. Its
    interval shrinks to 15 % either side, or to the spread of the ratios when they scatter more;
    it never grows. No measurements: the estimate as it was. Raises ValueError when the two differ
    in length or hold anything but positive numbers.
    """
    if len(measured) != len(predicted):
        raise ValueError(f"{len(measured)} measurements but {len(predicted)} predictions")
    if not all(0 < value < math.inf for value in (*measured, *predicted)):
        raise ValueError("measured and predicted rates must be positive numbers")
    if not measured or estimate.low <= 0:
        return estimate
    logs = [math.log(m / p) for m, p in zip(measured, predicted, strict=True)]
    mean = math.fsum(logs) / len(logs)
    scatter = math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / max(1, len(logs) - 1))
    spread = max(CALIBRATED_SPREAD, _NINETY_PERCENT * scatter)
    likely = estimate.likely * math.exp(mean)
    return Estimate(
        low=likely * max(estimate.low / estimate.likely, math.exp(-spread)),
        likely=likely,
        high=likely * min(estimate.high / estimate.likely, math.exp(spread)),
    )
