"""The meter of a running answer: times and token counts in, rates out.

The clock is an argument (seconds, monotonic), so the same numbers always give the same reading.
The engine measures its own rates and reports them at the end (`events.Timings`); this is for the
time before the end.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 1.0
"""`now_tps` looks back this far: shorter flickers, longer hides a stall."""

HISTORY_S: Final = 120.0
"""Samples that `history` can look back at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """The rates at one moment. None means not known yet.

    `ttft_s` is the time to the first token; `average_tps` the rate since that first token, which
    is not counted (as llama.cpp reports its decode rate); `now_tps` that of the last `WINDOW_S`.
    """

    tokens: int
    ttft_s: float | None
    now_tps: float | None
    average_tps: float | None


class Meter:
    """Counts the tokens of one answer, which was requested at `started_s`."""

    def __init__(self, *, started_s: float) -> None:
        self._started_s = started_s
        self._samples: deque[tuple[float, int]] = deque()
        self._first_s: float | None = None
        self._last_s = started_s
        self._tokens = 0
        self._first_tokens = 0

    def add(self, time_s: float, tokens: int = 1) -> None:
        """Count `tokens` that arrived at `time_s`; a time before the last one counts as it."""
        time_s = max(time_s, self._last_s)
        if self._first_s is None:
            self._first_s = time_s
            self._first_tokens = tokens
        self._last_s = time_s
        self._tokens += tokens
        self._samples.append((time_s, tokens))
        while self._samples[0][0] < time_s - HISTORY_S:
            self._samples.popleft()

    def read(self, time_s: float) -> MeterReading:
        """Return the rates at `time_s`."""
        return MeterReading(
            tokens=self._tokens,
            ttft_s=None if self._first_s is None else self._first_s - self._started_s,
            now_tps=self._now_tps(time_s),
            average_tps=self._average_tps(),
        )

    def history(self, time_s: float, *, buckets: int, bucket_s: float) -> tuple[float, ...]:
        """Return the rates of the last `buckets` spans of `bucket_s` that are over, oldest first.

        Spans are counted from the first token, so that a bar does not change once it is drawn.
        """
        if self._first_s is None:
            return (0.0,) * buckets
        over = int((time_s - self._first_s) / bucket_s)
        counts = [0] * buckets
        for at_s, tokens in self._samples:
            index = int((at_s - self._first_s) / bucket_s) - over + buckets
            if 0 <= index < buckets:
                counts[index] += tokens
        return tuple(count / bucket_s for count in counts)

    def _now_tps(self, time_s: float) -> float | None:
        if self._first_s is None:
            return None
        since_s = max(self._first_s, time_s - WINDOW_S)
        span_s = time_s - since_s
        if span_s <= 0:
            return None
        return sum(tokens for at_s, tokens in self._samples if since_s < at_s <= time_s) / span_s

    def _average_tps(self) -> float | None:
        if self._first_s is None or self._last_s <= self._first_s:
            return None
        return (self._tokens - self._first_tokens) / (self._last_s - self._first_s)
