"""Blocking calls in daemon threads beside the app's loop.

The loop waits for its own threads at the end of the program, and such a call may be waiting for a
server that says nothing.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


def in_daemon_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a daemon thread; the future has its result or its error."""
    running = _ThreadCall(call)
    threading.Thread(target=running.run, name="localllm-hub", daemon=True).start()
    return running.future


class _ThreadCall(Generic[T]):
    """A call in another thread, whose result or error is given to the loop that waits for it."""

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
        if self.future.done():  # cancelled
            return
        if error is None:
            self.future.set_result(self._results[0])
        else:
            self.future.set_exception(error)
