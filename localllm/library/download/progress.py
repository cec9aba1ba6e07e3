"""Progress of a download: totals over its files, rate and time left, reported a few times a second.

The clock is an argument of the rate's arithmetic.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from localllm.library.download.target import DownloadTarget, Progress

_EVERY_S = 0.1
_NOTE_S = 5.0
"""How long a note is shown: long enough to be read, not so long that it describes the past."""


class Board:
    """Keeps the totals of one call and shows them. Used by the calling thread only."""

    def __init__(
        self,
        wanted: Sequence[DownloadTarget],
        on_progress: Callable[[Progress], None],
        clock: Callable[[], float],
    ) -> None:
        self._total = sum(each.size_bytes for each in wanted)
        self._on_progress = on_progress
        self._clock = clock
        self._pace = Pace()
        self._file = ""
        self._finished = 0
        self._received = 0
        self._done = 0
        self._shown_s: float | None = None
        self._note: tuple[str, float] | None = None

    def begin(self, file: str) -> None:
        """Go on with a file."""
        self._file = file

    def note(self, text: str) -> None:
        """Say something, with the numbers as they were."""
        new = self._note is None or self._note[0] != text
        self._note = (text, self._clock())
        if new:
            self._show()

    def show(self, done: int, received: int) -> None:
        """Show `done` bytes of the current file on the disk, `received` of it over the network."""
        now_s = self._clock()
        self._done = done
        if self._shown_s is None or now_s - self._shown_s >= _EVERY_S:
            self._pace.add(now_s, self._received + received)
            self._show()

    def finish(self, size: int, received: int) -> None:
        """Count the current file as complete."""
        self._finished += size
        self._received += received
        self._done = 0
        self._note = None
        self._pace.add(self._clock(), self._received)
        self._show()

    def _show(self) -> None:
        now_s = self._clock()
        self._shown_s = now_s
        if self._note is not None and now_s - self._note[1] > _NOTE_S:
            self._note = None
        done = self._finished + self._done
        self._on_progress(
            Progress(
                file=self._file,
                done_bytes=done,
                total_bytes=self._total,
                rate_bytes_per_s=self._pace.rate(),
                remaining_s=self._pace.remaining_s(self._total - done),
                note=None if self._note is None else self._note[0],
            )
        )


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
