"""The end of a process, in words: signals, Windows' exceptions, and llama.cpp's last words.

POSIX ends a process by a signal. Windows has exit statuses that are the codes of exceptions
(ntstatus.h); Python shows them as large unsigned numbers, or negative ones from other programs.
"""

import re
import signal
from collections.abc import Sequence
from contextlib import suppress

from localllm.core.text import single_line

ILLEGAL_INSTRUCTION = "SIGILL"
IN_PAGE_ERROR = "a file cannot be read (0xC0000006)"

_WINDOWS_EXCEPTIONS = {
    0xC0000005: "access violation (0xC0000005)",
    0xC0000006: IN_PAGE_ERROR,
    0xC0000017: "out of memory (0xC0000017)",
    0xC000001D: ILLEGAL_INSTRUCTION,
    0xC00000FD: "stack overflow (0xC00000FD)",
    0xC000012D: "out of memory (0xC000012D)",  # STATUS_COMMITMENT_LIMIT
    0xC0000135: "a DLL is missing (0xC0000135)",
    0xC0000142: "a DLL does not start (0xC0000142)",
    0xC0000374: "heap corruption (0xC0000374)",
    0xC0000409: "abort (0xC0000409)",
}
_ASSERTION = re.compile(r"GGML_ASSERT|GGML_ABORT|what\(\):|terminat(?:e called|ing)|fatal error")
_NO_REASON = re.compile(r"terminat(?:e called|ing)")
_MAX_SHOWN = 300


def exit_reason(status: int) -> str:
    """Name how a process ended: "exit status 3", a signal's name, or a Windows exception."""
    if (exception := _WINDOWS_EXCEPTIONS.get(status & 0xFFFFFFFF)) is not None:
        return exception
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def last_words(log: Sequence[str]) -> str | None:
    """Find what llama.cpp wrote about its own end: a failed assertion, an exception's text."""
    found = [line for line in log if _ASSERTION.search(line)]
    telling = [line for line in found if not _NO_REASON.search(line)] or found
    return single_line(telling[-1]).removeprefix("what(): ")[:_MAX_SHOWN] if telling else None
