"""The bytes of one file on their way: where they go, who fetches which, how far they reach."""

import threading
from collections.abc import Callable
from io import FileIO

from localllm.errors import DownloadFailed, LocalLLMError
from localllm.library.download.extents import Extents, Range, first_piece


class Closed(Exception):
    """The download is ending: nothing more is written."""


class StartOver(Exception):
    """What is here of the file is of no use; the text says why."""


class Part:
    """What the threads of one download share. Every method may be called from any of them.

    `there` are the bytes that are on the disk already. Whoever fetches takes a range first, so
    that no two fetch the same; whoever hashes waits until the bytes from the start reach further.
    """

    def __init__(self, size: int, there: Extents) -> None:
        self.size = size
        self.closed = threading.Event()
        self._there = there
        self._taken = Extents()
        self._changed = threading.Condition()
        self._alone = False
        self._awaited: int | None = None
        self._failure: BaseException | None = None

    def take(self, most: int | None) -> Range | None:
        """Take the first bytes that are missing, at most `most`; wait while others fetch them all.

        None when the download has ended.
        """
        with self._changed:
            while not self.closed.is_set():
                if piece := self._free(most):
                    self._taken.add(*piece)
                    return piece
                self._changed.wait()
            return None

    def give_back(self, start: int, end: int) -> None:
        """Let others take what is still missing of a range."""
        with self._changed:
            self._taken.remove(start, end)
            self._changed.notify_all()

    def go_alone(self) -> None:
        """From now on one fetches all the rest: the server cannot give parts of a file."""
        with self._changed:
            self._alone = True

    def put(self, stream: FileIO, position: int, data: bytes) -> None:
        """Write bytes where `stream` stands, which is at `position`.

        Raises Closed when the download is ending, OSError when they cannot be written.
        """
        if self.closed.is_set():
            raise Closed
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) or 0 :]
        with self._changed:
            self._there.add(position, position + len(data))
            if self._awaited is not None and self._there.frontier >= self._awaited:
                self._changed.notify_all()

    def lose(self, start: int, end: int) -> None:
        """Have bytes fetched again: they are not what they were."""
        with self._changed:
            self._there.remove(start, end)
            self._changed.notify_all()

    def reach(self, position: int, at_least: int) -> int | None:
        """Wait until the bytes from `position` on reach `at_least`; say up to where they do.

        None when the download has ended.
        """
        with self._changed:
            self._awaited = at_least
            while not self.closed.is_set():
                reached = self._there.reach(position)
                if reached >= at_least:
                    self._awaited = None
                    return reached
                self._changed.wait()
            return None

    def close(self) -> None:
        """End: whoever waits goes home, and nothing more is written."""
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """End because of this; the first one counts."""
        with self._changed:
            if self._failure is None and not self.closed.is_set():
                self._failure = failure
        self.close()

    @property
    def failure(self) -> BaseException | None:
        """Why it ended, if it failed."""
        return self._failure

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The bytes that are there."""
        with self._changed:
            return self._there.ranges

    @property
    def total(self) -> int:
        """How many bytes are there."""
        with self._changed:
            return self._there.total

    def _free(self, most: int | None) -> Range | None:
        if not self._alone:
            return first_piece(self._there, self._taken, self.size, most)
        if self._taken.total:
            return None
        piece = first_piece(self._there, self._taken, self.size, None)
        return (piece[0], self.size) if piece else None


class Lane(threading.Thread):
    """A thread of a download: whatever ends it early ends the download, with that reason."""

    def __init__(self, part: Part, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=f"download {name}", daemon=True)
        self._part = part
        self._work = work

    def run(self) -> None:
        failure: BaseException | None = DownloadFailed(
            f'The thread "{self.name}" ended by a fault of localllm\'s own; the lines above say'
            " where."
        )
        try:
            self._work()
            failure = None
        except Closed:
            failure = None
        except (LocalLLMError, OSError, StartOver) as error:
            failure = error
        finally:
            if failure is not None:
                self._part.fail(failure)
