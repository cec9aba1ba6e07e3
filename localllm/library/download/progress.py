"""The progress of a download: totals over its files, rate and time left, a few times a second.

Apart from the threads that bring bytes: the calling thread alone shows progress, and time is an
argument of the rate's arithmetic.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from localllm.library.download.target import DownloadTarget

RATE_WINDOW_S: Final = 10.0
"""The rate is that of this last span: a link's rate flickers from second to second."""
_MIN_WINDOW_S: Final = 0.5
_INTERVAL_S: Final = 0.1
_MESSAGE_S: Final = 5.0
"""A message is shown this long: enough to be read, before it describes the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A snapshot of a download. Bytes are totals over all its files.

    `done_bytes` counts what is on the disk, also from earlier runs; `rate_bytes_per_s` only what
    comes over the network now. `message` is an event beside plain progress: "resumed at 3.2 GiB",
    "stalled, reconnecting", "waiting for another localllm", "checking what is here".
    """

    file: str
    done_bytes: int
    total_bytes: int
    rate_bytes_per_s: float | None
    remaining_s: float | None
    message: str | None


class ProgressMeter:
    """Adds up the progress of the files of a download and reports it.

    Used by the calling thread only.
    """

    def __init__(
        self,
        targets: Sequence[DownloadTarget],
        on_progress: Callable[[Progress], None],
        clock: Callable[[], float],
    ) -> None:
        self._total = sum(target.size_bytes for target in targets)
        self._on_progress = on_progress
        self._clock = clock
        self._rate = RateMeter()
        self._file = ""
        self._finished = 0
        self._received = 0
        self._current = 0
        self._reported_s: float | None = None
        self._message: tuple[str, float] | None = None

    def begin(self, file: str) -> None:
        """Go on with the next file."""
        self._file = file

    def set_message(self, text: str) -> None:
        """Show a message, at once when it is new, with the numbers as they were."""
        new = self._message is None or self._message[0] != text
        self._message = (text, self._clock())
        if new:
            self._report()

    def update(self, done: int, received: int) -> None:
        """Set the current file's bytes on the disk and those that came over the network."""
        now_s = self._clock()
        self._current = done
        if self._reported_s is None or now_s - self._reported_s >= _INTERVAL_S:
            self._rate.add(now_s, self._received + received)
            self._report()

    def finish(self, size: int, received: int) -> None:
        """Count the current file as complete."""
        self._finished += size
        self._received += received
        self._current = 0
        self._message = None
        self._rate.add(self._clock(), self._received)
        self._report()

    def _report(self) -> None:
        now_s = self._clock()
        self._reported_s = now_s
        if self._message is not None and now_s - self._message[1] > _MESSAGE_S:
            self._message = None
        done = self._finished + self._current
        self._on_progress(
            Progress(
                file=self._file,
                done_bytes=done,
                total_bytes=self._total,
                rate_bytes_per_s=self._rate.rate(),
                remaining_s=self._rate.remaining_s(self._total - done),
                message=None if self._message is None else self._message[0],
            )
        )


class RateMeter:
    """The rate of the last `RATE_WINDOW_S`, from samples of a counter that only grows."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, time_s: float, count: int) -> None:
        """Add a sample: `count` bytes had come in all at `time_s`."""
        self._samples.append((time_s, count))
        # One sample before the window stays, so that the window is covered whole.
        while len(self._samples) > 2 and self._samples[1][0] <= time_s - RATE_WINDOW_S:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Return bytes/s; None while the samples span too short a time."""
        if not self._samples:
            return None
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        if last_s - first_s < _MIN_WINDOW_S:
            return None
        return (last - first) / (last_s - first_s)

    def remaining_s(self, missing_bytes: int) -> float | None:
        """Return the time that `missing_bytes` more will take; None while the rate is unknown."""
        rate = self.rate()
        if missing_bytes <= 0:
            return 0.0
        return missing_bytes / rate if rate else None
