"""Bringing a range of a file here, whatever happens on the way."""

import threading
from collections.abc import Callable

import httpx2

from localllm.core.units import format_duration
from localllm.errors import DownloadFailed
from localllm.library.download.http_source import Body, Interrupted, NoBytesHere, Source
from localllm.library.download.part_file import Closed, StartOver
from localllm.library.download.progress import StallWatch
from localllm.library.download.target import Conditions
from localllm.library.http.client import problem, shown_url

Put = Callable[[int, bytes], None]
"""Takes bytes of the file and where they begin, in order."""


class WholeOnly(StartOver):
    """The server cannot give a part of the file."""


class Fetcher:
    """Fetches ranges of a file, again and again as long as there is hope. Used by one thread.

    With `alone` a server that sends everything from the start is read through to what is missing.
    """

    def __init__(
        self,
        source: Source,
        conditions: Conditions,
        closed: threading.Event,
        *,
        alone: bool = False,
    ) -> None:
        self.alone = alone
        self._source = source
        self._conditions = conditions
        self._closed = closed
        self._position = 0

    def fetch(self, start: int, end: int, put: Put) -> None:
        """Give `put` the bytes from `start` to `end`.

        Raises HubError or NotFound when no endpoint gives them, StartOver, WholeOnly, Closed,
        and what `put` raises.
        """
        self._position = start
        failures = 0
        while self._position < end:
            turn, before = self._source.turn, self._position
            interruption = self._try(turn, end, put)
            if interruption is not None and self._position < end:
                brought = self._position > before or turn != self._source.turn
                failures = 1 if brought else failures + 1
                failures = self._wait(interruption, failures, turn)

    def _try(self, turn: int, end: int, put: Put) -> Interrupted | None:
        """One request; None when it brought everything or the endpoint was given up."""
        try:
            with self._source.open(self._position, end) as body:
                self._drain(body, end, put)
        except NoBytesHere as refusal:
            self._source.give_up(turn, refusal.error)
        except Interrupted as interruption:
            return interruption
        except httpx2.HTTPError as error:
            return Interrupted(problem(error))
        except httpx2.StreamError:
            raise Closed from None  # the connection was shut down to end this
        return None

    def _drain(self, body: Body, end: int, put: Put) -> None:
        if body.whole and not self.alone and (self._position > 0 or end < self._source.size):
            raise WholeOnly("the server cannot give parts of it")
        clock = self._conditions.clock
        watch = StallWatch(
            least_bytes=self._conditions.stall_bytes,
            within_s=self._conditions.stall_s,
            now_s=clock(),
        )
        at = body.start
        for data in body.response.iter_raw():
            self._source.count(len(data))
            fresh = data[max(0, self._position - at) : max(0, end - at)]
            at += len(data)
            if fresh:
                put(self._position, fresh)
                self._position += len(fresh)
            if self._position >= end and not body.exact:
                return
            if self._closed.is_set():
                raise Closed
            if watch.stalled(clock(), len(data)):
                raise Interrupted("stalled")
        if self._position < min(end, body.end):
            raise Interrupted("the transfer broke off")

    def _wait(self, interruption: Interrupted, failures: int, turn: int) -> int:
        """Wait as long as it is worth it, or give the endpoint up. Gives back the failures."""
        if self._closed.is_set():
            raise Closed
        patience, asked_s = self._conditions.patience, interruption.asked_s
        wait_s = patience.wait_s(failures, asked_s=asked_s, answered=self._source.answered)
        if wait_s is None:
            self._source.give_up(turn, self._hopeless(interruption, failures))
            return 0
        self._source.say(f"{interruption.why}, reconnecting in {format_duration(wait_s)}")
        if self._conditions.wait(self._closed, wait_s):
            raise Closed
        return failures

    def _hopeless(self, interruption: Interrupted, failures: int) -> DownloadFailed:
        longest_s, asked_s = self._conditions.patience.longest_s, interruption.asked_s
        where = shown_url(self._source.endpoint)
        if asked_s is not None and asked_s > longest_s:
            return DownloadFailed(
                f"{where}: {interruption.why} and asks to be left alone for"
                f" {format_duration(asked_s)}; localllm waits {format_duration(longest_s)} at most."
                " Try again after that."
            )
        return DownloadFailed(
            f"{where}: {interruption.why} ({failures} attempts in a row brought nothing). Look at"
            " the connection, or try again later."
        )
