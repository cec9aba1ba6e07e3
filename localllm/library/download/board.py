"""What a download tells the front end: totals over all its files, a few times a second."""

from collections.abc import Callable, Sequence

from localllm.core.units import format_bytes
from localllm.library.download.pace import Pace
from localllm.library.download.wanted import Progress, Wanted

_EVERY_S = 0.1
_NOTE_S = 5.0
"""How long a note is shown: long enough to be read, not so long that it describes the past."""


class Board:
    """Keeps the totals of one call and shows them. Used by the calling thread only."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
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

    def left_off(self, size: int) -> str:
        """How far the current file is, for a message."""
        return f"{format_bytes(min(self._done, size))} of {format_bytes(size)}"

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
