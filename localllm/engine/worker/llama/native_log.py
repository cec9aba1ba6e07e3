"""llama.cpp's log: its last lines in memory, to be parsed; all of it on stderr, to be read.

llama.cpp has one logger per process, so this one is installed before anything else is called. Debug
lines (tens of thousands per load) are dropped.
"""

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.load_failure import LogLine, failure_reason, refusal

_DEBUG, _ERROR, _CONTINUED = 1, 4, 5  # enum ggml_log_level (ggml.h, b11434)
_MAX_LINES = 2000


class NativeLog:
    """Collects llama.cpp's log lines. Must live as long as llama.cpp is used."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=_MAX_LINES)
        self._partial = ""
        self._level = _DEBUG
        self._callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self._callback, None)

    def listen_to(self, library: Callable[[object, None], None]) -> None:
        """Collect the lines of another library of llama.cpp's too, given its `..._log_set`."""
        library(self._callback, None)

    def take(self) -> tuple[str, ...]:
        """Return the lines since the last call, and clear them."""
        lines = tuple(line.text for line in self._lines)
        self._lines.clear()
        return lines

    def last_error(self) -> str | None:
        """Return the reason of the last failure, without clearing the lines."""
        return failure_reason(self._lines)

    def refusal(self, what: str) -> str:
        """Say that llama.cpp refused `what`, why, and what to try."""
        return refusal(what, self._lines)

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _DEBUG:
            return
        self._partial += text.decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        self._lines += (LogLine(line, error=self._level == _ERROR) for line in whole)
        for line in whole:
            note(line)


def note(line: str) -> None:
    """Write a line to stderr. A full disk is no reason to fail."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
