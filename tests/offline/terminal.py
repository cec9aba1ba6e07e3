"""A program on a terminal of its own, so that the app itself can be started and typed at."""

import os
import pty
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from select import select

WAIT_S = 60.0
SIZE = (40, 120)


class Terminal:
    """What the program drew since it was last looked at, and its keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self._drawn = b""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def sees(self, text: str) -> None:
        """Read until this text was drawn, in one piece, after what was seen before."""
        deadline = time.monotonic() + WAIT_S
        while (at := self._drawn.find(text.encode())) < 0:
            assert self._read(deadline), f"never drew {text!r}: {self._drawn[-2000:]!r}"
        self._drawn = self._drawn[at + len(text.encode()) :]

    def ends(self) -> int:
        """Read until the program has ended. Gives its exit status."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            pass
        return self._process.wait(WAIT_S)

    def _read(self, deadline: float) -> bool:
        """Read what comes next; false at the end, or when nothing came in time."""
        ready, _, _ = select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(self._descriptor, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            return False
        self._drawn += piece
        return bool(piece)


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a program on a new terminal; it is killed if it is still there at the end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, SIZE)
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
