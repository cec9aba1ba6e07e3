"""Asks a `Source` beside the app, in threads that do not keep the program from ending."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from localllm.core.recommend import FitPlan
from localllm.tui.source import Offer, Source

if TYPE_CHECKING:
    from localllm.library.download import Progress
    from localllm.pulling import Choice, Pulled

T = TypeVar("T")

STOP_S = 5.0
"""How long the end of the program waits for a transfer to write down what it has. One that is cut
off harder leaves something to go on from as well."""


class Fetcher:
    """The one that the whole app shares: it knows every transfer that runs."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pulling: dict[asyncio.Future[Pulled], threading.Event] = {}

    async def offer(self, plan: FitPlan) -> Offer:
        """What can be said before the network is asked. Raises UsageError."""
        return await asyncio.to_thread(self._source.offer, plan)

    async def choose(self, plan: FitPlan) -> "Choice":
        """Ask the Hub for the files of a plan. Raises HubError, NotFound, UsageError."""
        return await _beside(partial(self._source.choose, plan))

    async def pull(
        self, choice: "Choice", *, on_progress: "Callable[[Progress], None]", stop: threading.Event
    ) -> "Pulled":
        """Download; whoever gives this up stops the transfer. Raises HubError, StoreError.

        `on_progress` is called in the transfer's thread.
        """
        pulling = _beside(partial(self._source.pull, choice, on_progress=on_progress, stop=stop))
        self._pulling[pulling] = stop
        pulling.add_done_callback(self._ended)
        try:
            return await asyncio.shield(pulling)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _ended(self, pulling: "asyncio.Future[Pulled]") -> None:
        del self._pulling[pulling]
        pulling.exception()  # whoever waited has it; nobody may have

    async def close(self) -> None:
        """Stop every transfer and wait until it has written down what it has."""
        for stop in self._pulling.values():
            stop.set()
        if self._pulling:
            await asyncio.wait(self._pulling, timeout=STOP_S)


def _beside(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a daemon thread. The loop waits for its own threads at the end of the
    program, and this call may be waiting for a server that says nothing."""
    running = _Call(call)
    threading.Thread(target=running.run, name="localllm-hub", daemon=True).start()
    return running.future


class _Call(Generic[T]):
    """Whatever comes of a call, a result or an error, is given to the loop that waits for it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def run(self) -> None:
        with self:
            self._results.append(self._call())

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, error)
        return True

    def _settle(self, error: BaseException | None) -> None:
        if self.future.done():  # given up
            return
        if error is None:
            self.future.set_result(self._results[0])
        else:
            self.future.set_exception(error)
