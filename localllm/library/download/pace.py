"""How fast a download goes and how long it will take. Pure: the clock is an argument."""

from collections import deque
from typing import Final

WINDOW_S: Final = 10.0
"""The rate looks back this far: a link's rate flickers from second to second."""
_LEAST_S: Final = 0.5  # of a window before it says anything


class Pace:
    """The rate of the last `WINDOW_S`, from samples of a counter that only grows."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, time_s: float, count: int) -> None:
        """Note that `count` bytes had come, ever, at `time_s`."""
        self._samples.append((time_s, count))
        while len(self._samples) > 2 and self._samples[1][0] <= time_s - WINDOW_S:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Bytes/s, or None while it is too early to say."""
        if not self._samples:
            return None
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        if last_s - first_s < _LEAST_S:
            return None
        return (last - first) / (last_s - first_s)

    def remaining_s(self, missing_bytes: int) -> float | None:
        """The time that `missing_bytes` more will take, or None while that cannot be said."""
        rate = self.rate()
        if missing_bytes <= 0:
            return 0.0
        return missing_bytes / rate if rate else None


class StallWatch:
    """Says when a connection has stalled: fewer than `least_bytes` within `within_s`."""

    __slots__ = ("_came", "_least_bytes", "_since_s", "_within_s")

    def __init__(self, *, least_bytes: int, within_s: float, now_s: float) -> None:
        self._least_bytes = least_bytes
        self._within_s = within_s
        self._since_s = now_s
        self._came = 0

    def stalled(self, now_s: float, count: int) -> bool:
        """Count `count` bytes that came at `now_s`; say whether that was too slow."""
        self._came += count
        if self._came >= self._least_bytes:
            self._came = 0
            self._since_s = now_s
            return False
        return now_s - self._since_s >= self._within_s
