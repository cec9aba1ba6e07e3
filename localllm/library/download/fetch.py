"""Fetch a range of a file: attempts, stalls, backoff, and the next endpoint after the last attempt.

The retry loop of a download. `http_source.py` makes one request and says what failed;
`http/retry_policy.py` says when to make another.
"""

import threading
from collections.abc import Callable

import httpx2

from localllm.core.units import format_bytes, format_duration
from localllm.errors import DownloadFailed
from localllm.library.download.http_source import (
    AttemptFailed,
    EndpointFailed,
    HttpSource,
    RangeBody,
)
from localllm.library.download.part_file import RestartRequired, TransferClosed
from localllm.library.download.target import DownloadOptions
from localllm.library.http.client import describe_error
from localllm.library.http.urls import printable_url

Write = Callable[[int, bytes], None]
"""Takes the position of bytes in the file and the bytes, in order."""


class RangesUnsupported(RestartRequired):
    """The server ignores ranges: it sends the whole file."""


class StallWatch:
    """Detects a stalled connection: fewer than `min_bytes` within `within_s`.

    A read timeout does not: it begins again with every byte of a connection that drips.
    """

    __slots__ = ("_count", "_min_bytes", "_since_s", "_within_s")

    def __init__(self, *, min_bytes: int, within_s: float, now_s: float) -> None:
        self._min_bytes = min_bytes
        self._within_s = within_s
        self._since_s = now_s
        self._count = 0

    def stalled(self, now_s: float, count: int) -> bool:
        """Count the `count` bytes that came at `now_s`; return true when that was too slow."""
        self._count += count
        if self._count >= self._min_bytes:
            self._count = 0
            self._since_s = now_s
            return False
        return now_s - self._since_s >= self._within_s


_MIN_PROGRESS, _MAX_PROGRESS = 64 * 2**10, 8 * 2**20


def progress_bytes(size: int, wanted: int) -> int:
    """Return how much an attempt must bring of a range of `wanted` bytes to count as progress.

    A thousandth of the file of `size` bytes, at least 64 KiB and at most 8 MiB, so that a server or
    a proxy that always cuts the answer is not asked a hundred thousand times for one file; of a
    short range a sixteenth.
    """
    return max(_MIN_PROGRESS, min(_MAX_PROGRESS, size // 1000, wanted // 16))


class RangeFetcher:
    """Fetches ranges of a file with retries. Used by one thread.

    With `accept_whole_file` a server that ignores the range is read through to what is missing;
    without, it raises RangesUnsupported: several connections would each read the whole file.
    """

    def __init__(
        self,
        source: HttpSource,
        options: DownloadOptions,
        closed: threading.Event,
        *,
        accept_whole_file: bool = False,
    ) -> None:
        self.accept_whole_file = accept_whole_file
        self._source = source
        self._options = options
        self._closed = closed
        self._position = 0
        self._worth = _MIN_PROGRESS

    def fetch(self, start: int, end: int, write: Write) -> None:
        """Give `write` the bytes from `start` to `end`.

        Raises HubError or NotFound when no endpoint gives them, RestartRequired,
        RangesUnsupported, TransferClosed, and what `write` raises.
        """
        self._position = start
        self._worth = progress_bytes(self._source.size, end - start)
        failures, clock = 0, self._options.clock
        while self._position < end:
            index, before, began_s = self._source.endpoint_index, self._position, clock()
            failed = self._attempt(index, end, write)
            if failed is not None and self._position < end:
                # Enough bytes, or another endpoint, begin the backoff anew. A slow link may bring
                # few: the attempt that lasts takes few requests.
                came = self._position - before
                lasted = came > 0 and clock() - began_s >= self._options.stall_s
                progressed = came >= self._worth or lasted or index != self._source.endpoint_index
                failures = 1 if progressed else failures + 1
                failures = self._back_off(failed, failures, index)

    def _attempt(self, index: int, end: int, write: Write) -> AttemptFailed | None:
        """Send one request; None when it brought everything or the endpoint was given up."""
        try:
            with self._source.open_range(self._position, end) as body:
                self._read(body, end, write)
        except EndpointFailed as failed:
            self._source.give_up(index, failed.error)
        except AttemptFailed as failed:
            return failed
        except httpx2.HTTPError as error:
            return AttemptFailed(describe_error(error))
        except httpx2.StreamError:
            raise TransferClosed from None  # `shut_down` closed the connection to end this
        return None

    def _read(self, body: RangeBody, end: int, write: Write) -> None:
        partial = self._position > 0 or end < self._source.size
        if body.whole_file and partial and not self.accept_whole_file:
            raise RangesUnsupported("the server cannot give parts of it")
        clock = self._options.clock
        watch = StallWatch(
            min_bytes=self._options.stall_bytes,
            within_s=self._options.stall_s,
            now_s=clock(),
        )
        at = body.start
        for data in body.response.iter_raw():
            self._source.count_received(len(data))
            # Of a whole file only the bytes from the position to the end are wanted.
            fresh = data[max(0, self._position - at) : max(0, end - at)]
            at += len(data)
            if fresh:
                write(self._position, fresh)
                self._position += len(fresh)
            # An exact body is read to its end, which lets the connection be used again; of any
            # other more would come than was requested.
            if self._position >= end and not body.exact:
                return
            if self._closed.is_set():
                raise TransferClosed
            if watch.stalled(clock(), len(data)):
                raise AttemptFailed("stalled")
        if self._position < min(end, body.end):
            raise AttemptFailed("the transfer broke off")

    def _back_off(self, failed: AttemptFailed, failures: int, index: int) -> int:
        """Wait for the next attempt, or give the endpoint up; return the count of failures."""
        if self._closed.is_set():
            raise TransferClosed
        delay_s = self._options.retry.delay_s(
            failures, retry_after_s=failed.retry_after_s, responded=self._source.responded
        )
        if delay_s is None:
            self._source.give_up(index, self._no_more_attempts(failed, failures))
            return 0
        self._source.message = f"{failed.reason}, reconnecting in {format_duration(delay_s)}"
        if self._options.wait(self._closed, delay_s):
            raise TransferClosed
        return failures

    def _no_more_attempts(self, failed: AttemptFailed, failures: int) -> DownloadFailed:
        max_s, retry_after_s = self._options.retry.max_retry_after_s, failed.retry_after_s
        where = printable_url(self._source.endpoint)
        if retry_after_s is not None and retry_after_s > max_s:
            return DownloadFailed(
                f"{where}: {failed.reason} and asks to be left alone for"
                f" {format_duration(retry_after_s)}; localllm waits {format_duration(max_s)} at"
                " most. Try again after that."
            )
        return DownloadFailed(
            f"{where}: {failed.reason} ({failures} attempts in a row brought nothing, or less than"
            f" {format_bytes(self._worth)} each). Look at the connection, or try again later."
        )
