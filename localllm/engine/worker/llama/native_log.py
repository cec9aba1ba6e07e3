"""llama.cpp's log: kept as lines in memory for the read-back, written to stderr for people.

llama.cpp has one logger per process, so this one is installed once, before anything else is
called. Debug lines (tens of thousands per load) are dropped.
"""

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import llama_cpp.llama_cpp as llama

_DEBUG, _CONTINUED = 1, 5
_KEPT_LINES = 2000


class NativeLog:
    """Collects llama.cpp's log lines. Keep the instance alive as long as llama.cpp is used."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = ""
        self._level = _DEBUG
        self._callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self._callback, None)

    def listen_to(self, library: Callable[[object, None], None]) -> None:
        """Take in the lines of another library of llama.cpp's, given its `..._log_set`."""
        library(self._callback, None)

    def take(self) -> tuple[str, ...]:
        """The lines since the last call; clears them."""
        lines = tuple(self._lines)
        self._lines.clear()
        return lines

    def last_error(self) -> str | None:
        """The last line that names an error, without taking the lines."""
        for line in reversed(self._lines):
            if "error" in line.lower() or "failed" in line.lower():
                return line
        return None

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _DEBUG:
            return
        self._partial += text.decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        self._lines += whole
        for line in whole:
            note(line)


def note(line: str) -> None:
    """Write a line for people. A full disk is no reason to fail."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
