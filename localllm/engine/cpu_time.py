"""The processor time of other programs, by which a measurement knows that it was disturbed."""

import time
from dataclasses import dataclass

import psutil

NEGLIGIBLE_CORES = 0.25
"""What an idle desktop's own services use, and clock ticks of error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Seconds of processor time until `at_s` (monotonic): of all programs, and of this one with
    its engine."""

    at_s: float
    all_s: float
    own_s: float


def cpu_time() -> CpuTime | None:
    """Read the clocks; None where the system has none."""
    try:
        times = psutil.cpu_times()
        process = psutil.Process()
        own = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    except (psutil.Error, OSError):
        return None
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    resting = times.idle + getattr(times, "iowait", 0.0)
    return CpuTime(
        at_s=time.monotonic(),
        all_s=sum(times) - counted_twice - resting,
        own_s=sum(each.user + each.system for each in own),
    )


def crowded(
    before: CpuTime | None, after: CpuTime | None, *, threads: int, processors: int | None
) -> bool:
    """Detect that other programs used so much that `threads` did not have a processor each.

    False when it cannot be known.
    """
    if before is None or after is None or processors is None or after.at_s <= before.at_s:
        return False
    others_s = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    others = others_s / (after.at_s - before.at_s)
    return others > NEGLIGIBLE_CORES and others + threads > processors
