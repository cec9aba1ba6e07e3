"""Heartbeats: what the worker sends once a second so that its parent can see it make progress.

A thread of its own sends them, which would go on when the computing thread hangs. So each one
carries a count of the computing thread's steps: batches and commands that were finished, and the
nodes of llama.cpp's graph that it has come to (abort.py; every few seconds on the slowest machine).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localllm.engine.messages import Heartbeat

INTERVAL_S = 1.0


class HeartbeatState:
    """Progress of the computing thread, which writes it; the heartbeat thread reads it."""

    def __init__(self) -> None:
        self._beats = 0
        self._long_calls = 0
        self._nodes: Callable[[], int | None] = lambda: None

    def beat(self) -> None:
        """Count one thing done. Not for an iteration of a loop, which can go round for ever."""
        self._beats += 1

    def count_nodes(self, nodes: Callable[[], int | None]) -> None:
        """Read graph nodes from `nodes` from now on, as progress too."""
        self._nodes = nodes

    @contextmanager
    def long_call(self) -> Iterator[None]:
        """Mark a call that may take minutes without progress: reading a file, a first batch on a
        GPU, encoding an image. The parent's watchdog allows more time for it."""
        self._long_calls += 1
        try:
            yield
        finally:
            self._long_calls -= 1
            self.beat()

    @property
    def in_long_call(self) -> bool:
        return self._long_calls > 0

    def progress(self) -> tuple[int, int | None]:
        """Return a value that differs from the last one when the thread has made progress."""
        return self._beats, self._nodes()


class HeartbeatThread:
    """Sends a heartbeat every `interval_s` while there is work."""

    def __init__(
        self,
        state: HeartbeatState,
        send: Callable[[Heartbeat], None],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._state = state
        self._send = send
        self._interval_s = interval_s
        self._has_work = threading.Event()
        self._has_work.set()  # the first heartbeat says that the process has started
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def resume(self) -> None:
        """Send again: the computing thread has work."""
        self._has_work.set()

    def pause(self) -> None:
        """Send nothing: the computing thread waits for a command."""
        self._has_work.clear()

    def _run(self) -> None:
        steps, last = 0, self._state.progress()
        while True:
            self._has_work.wait()
            if (progress := self._state.progress()) != last:
                steps, last = steps + 1, progress
            self._send(Heartbeat(steps=steps, long_call=self._state.in_long_call))
            time.sleep(self._interval_s)
