"""Signs of life of the thread that computes, told to the parent by another one.

The thread that tells would go on when the other hangs, so what it tells is whether the other has
moved: it has computed a batch or done a command, or llama.cpp has come to another node of the
graph it computes (abort.py), which it does every few seconds on the slowest machine.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localllm.engine.messages import Heartbeat

PULSE_S = 1.0


class Vitals:
    """What the computing thread shows of itself."""

    def __init__(self) -> None:
        self._beats = 0
        self._long_calls = 0
        self._nodes: Callable[[], int | None] = lambda: None

    def beat(self) -> None:
        """Say that something is done. Not for a turn of a loop: a loop can turn for ever."""
        self._beats += 1

    def watch(self, nodes: Callable[[], int | None]) -> None:
        """Count what `nodes` says, from now on, as a sign of life too."""
        self._nodes = nodes

    @contextmanager
    def long_call(self) -> Iterator[None]:
        """Around what may take minutes and shows nothing meanwhile: reading a file, a first batch
        on a GPU, an image's encoding. The parent is more patient with it."""
        self._long_calls += 1
        try:
            yield
        finally:
            self._long_calls -= 1
            self.beat()

    @property
    def patient(self) -> bool:
        return self._long_calls > 0

    def sign(self) -> tuple[int, int | None]:
        """Something else than last time, when the thread has moved."""
        return self._beats, self._nodes()


class PulseThread:
    """Tells the parent every second how it is, while there is work."""

    def __init__(
        self, vitals: Vitals, send: Callable[[Heartbeat], None], *, every_s: float = PULSE_S
    ) -> None:
        self._vitals = vitals
        self._send = send
        self._every_s = every_s
        self._working = threading.Event()
        self._working.set()  # the first pulse says that the process is there
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def work(self) -> None:
        """Called by the computing thread when it has something to do."""
        self._working.set()

    def rest(self) -> None:
        """Called by the computing thread before it waits for a command."""
        self._working.clear()

    def _run(self) -> None:
        moves, last = 0, self._vitals.sign()
        while True:
            self._working.wait()
            if (sign := self._vitals.sign()) != last:
                moves, last = moves + 1, sign
            self._send(Heartbeat(steps=moves, long_call=self._vitals.patient))
            time.sleep(self._every_s)
