"""The part file as the threads of one download share it: claims, writes, and how far it reaches.

The one lock of a download is here. Fetchers claim ranges and write them, the hash thread waits for
a contiguous prefix, and whichever thread fails closes the file for all.
"""

import threading
from collections.abc import Callable
from io import FileIO

from localllm.errors import DownloadFailed, LocalLLMError
from localllm.library.download.extents import Extents, Range, first_unclaimed


class TransferClosed(Exception):
    """The download is ending: nothing more is written."""


class RestartRequired(Exception):
    """The bytes that are here are useless, for the reason of the message: begin at zero."""


class PartFile:
    """The bytes of one incomplete file. Every method may be called from any thread.

    `present` are the bytes that are on the disk already. A fetcher claims a range first, so that
    no two fetch the same; the hash thread waits until the contiguous bytes reach further.
    """

    def __init__(self, size: int, present: Extents) -> None:
        self.size = size
        self.closed = threading.Event()
        self._present = present
        self._claimed = Extents()
        self._changed = threading.Condition()
        self._single = False
        self._awaited_end: int | None = None
        self._failure: BaseException | None = None

    def claim(self, max_bytes: int | None) -> Range | None:
        """Claim the first missing bytes; wait while other threads have claimed all of them.

        A wait is not the end: a thread that fails releases its claim, and the hash thread may
        invalidate bytes. None when the download has ended.
        """
        with self._changed:
            while not self.closed.is_set():
                if piece := self._unclaimed(max_bytes):
                    self._claimed.add(*piece)
                    return piece
                self._changed.wait()
            return None

    def release(self, start: int, end: int) -> None:
        """End a claim; what is still missing of it can be claimed again."""
        with self._changed:
            self._claimed.remove(start, end)
            self._changed.notify_all()

    def use_single_claim(self) -> None:
        """Give all the rest to one claim from now on: the server ignores ranges."""
        with self._changed:
            self._single = True

    def write(self, stream: FileIO, position: int, data: bytes) -> None:
        """Write bytes at the place of `stream`, which is `position`.

        Raises TransferClosed when the download is ending, OSError when they cannot be written.
        """
        if self.closed.is_set():
            raise TransferClosed
        rest = memoryview(data)
        while rest:  # an unbuffered file may take less than it was given
            rest = rest[stream.write(rest) or 0 :]
        with self._changed:
            self._present.add(position, position + len(data))
            # Only the hash thread waits for bytes: waking it at every write would cost more.
            if (
                self._awaited_end is not None
                and self._present.contiguous_end() >= self._awaited_end
            ):
                self._changed.notify_all()

    def invalidate(self, start: int, end: int) -> None:
        """Declare bytes missing, so that they are fetched again."""
        with self._changed:
            self._present.remove(start, end)
            self._changed.notify_all()

    def wait_for(self, position: int, at_least: int) -> int | None:
        """Wait until the bytes from `position` on reach `at_least`; return how far they reach.

        None when the download has ended.
        """
        with self._changed:
            self._awaited_end = at_least
            while not self.closed.is_set():
                reached = self._present.contiguous_end(position)
                if reached >= at_least:
                    self._awaited_end = None
                    return reached
                self._changed.wait()
            return None

    def close(self) -> None:
        """End the download: wake every waiting thread, and write nothing more."""
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """End the download because of an error; the first one counts."""
        with self._changed:
            if self._failure is None and not self.closed.is_set():
                self._failure = failure
        self.close()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the download, if one did."""
        return self._failure

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges that are present."""
        with self._changed:
            return self._present.ranges

    @property
    def present_bytes(self) -> int:
        """The number of bytes that are present."""
        with self._changed:
            return self._present.total

    def _unclaimed(self, max_bytes: int | None) -> Range | None:
        if not self._single:
            return first_unclaimed(self._present, self._claimed, self.size, max_bytes)
        if self._claimed.total:
            return None
        piece = first_unclaimed(self._present, self._claimed, self.size, None)
        # To the end, over bytes that are present too: without ranges they come anyway.
        return (piece[0], self.size) if piece else None


class DownloadThread(threading.Thread):
    """A thread of a download. Whatever ends it early ends the download, for that reason."""

    def __init__(self, part: PartFile, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=f"download {name}", daemon=True)
        self._part = part
        self._work = work

    def run(self) -> None:
        # An error that is not listed below is a bug. It ends the download, too, and its traceback
        # is printed by threading.
        failure: BaseException | None = DownloadFailed(
            f'The thread "{self.name}" ended by a fault of localllm\'s own; the lines above say'
            " where."
        )
        try:
            self._work()
            failure = None
        except TransferClosed:
            failure = None
        except (LocalLLMError, OSError, RestartRequired) as error:
            failure = error
        finally:
            if failure is not None:
                self._part.fail(failure)
