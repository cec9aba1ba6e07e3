"""The abort flag: ends a running `llama_decode` from another thread, and counts its graph nodes.

llama.cpp calls an abort callback for each graph node on the CPU. A Python callback would cost more
than the node, so the callback is a function of the C library that happens to return the answer.
"""

import ctypes
import sys
from typing import Protocol

from localllm.engine.worker.binding import llama

_PERMITS = 2**31 - 1  # SEM_VALUE_MAX
_SEM_BYTES = 64  # sem_t has 32 bytes in glibc and 16 to 32 in musl


class AbortFlag(Protocol):
    """While it is raised, a running batch ends with Aborted."""

    callback: "ctypes._CFunctionType"
    address: ctypes.c_void_p

    def raise_(self) -> None: ...

    def lower(self) -> None: ...

    def nodes(self) -> int | None:
        """Return a number that changes with each graph node while a batch is computed; None where
        the nodes cannot be counted."""


def abort_flag() -> AbortFlag:
    """Make the best flag that this system has."""
    return CountingFlag() if sys.platform == "linux" else ByteFlag()


class CountingFlag:
    """A semaphore of permits: each node takes one (`sem_trywait` returns 0), and when there is none
    (-1, true) the batch ends. The number that is left is the count of nodes.

    macOS has no unnamed semaphores, Windows none of these functions.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._semaphore = (ctypes.c_longlong * (_SEM_BYTES // 8))()
        self.lower()
        self.callback = ctypes.cast(self._libc.sem_trywait, llama.ggml_abort_callback)
        self.address = ctypes.cast(self._semaphore, ctypes.c_void_p)

    def raise_(self) -> None:
        self._libc.sem_init(self._semaphore, 0, 0)

    def lower(self) -> None:
        self._libc.sem_init(self._semaphore, 0, _PERMITS)

    def nodes(self) -> int | None:
        left = ctypes.c_int()
        self._libc.sem_getvalue(self._semaphore, ctypes.byref(left))
        return _PERMITS - left.value


class ByteFlag:
    """A byte: `strlen` of the two bytes [flag, 0] is 0 or 1."""

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self.callback = ctypes.cast(libc.strlen, llama.ggml_abort_callback)
        self.address = ctypes.cast(self._bytes, ctypes.c_void_p)

    def raise_(self) -> None:
        self._bytes[0] = b"\x01"

    def lower(self) -> None:
        self._bytes[0] = b"\x00"

    def nodes(self) -> int | None:
        return None
