"""Memory of the keys that open all others: never written to swap, nor into a core dump, where the
system lets a program ask for that.

Linux and macOS: mlock, within RLIMIT_MEMLOCK; Windows: VirtualLock. It covers these bytes alone:
OpenSSL and Python make copies for as long as they compute, and decrypted conversations are in
ordinary memory. docs/privacy.md says so.
"""

import contextlib
import ctypes
import mmap
import sys

from localllm.library.encryption.cipher import KEY_BYTES


class LockedKey:
    """A key in a page of its own, which is kept out of swap where the system allows that."""

    __slots__ = ("_page",)

    def __init__(self, key: bytes) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._page.madvise(mmap.MADV_DONTDUMP)
        _lock(self._page)
        self._page[:KEY_BYTES] = key

    def bytes(self) -> memoryview:
        """Return the key where it lies. Release the view before `wipe`."""
        return memoryview(self._page)[:KEY_BYTES]

    def wipe(self) -> None:
        """Overwrite the key and give the page back. Can be called twice."""
        if not self._page.closed:
            self._page[:KEY_BYTES] = bytes(KEY_BYTES)
            self._page.close()


def _lock(page: mmap.mmap) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    size = ctypes.c_size_t(mmap.PAGESIZE)
    with contextlib.suppress(OSError, AttributeError):  # a system without it
        if sys.platform == "win32":
            ctypes.WinDLL("kernel32").VirtualLock(ctypes.c_void_p(address), size)
        else:
            ctypes.CDLL(None).mlock(ctypes.c_void_p(address), size)


def forbid_core_dumps() -> bool:
    """Ask the system to write no core dump of this process and its later children: it would hold
    everything that is decrypted. Tells whether that was done; Windows has its own reports, which
    hold no memory unless an administrator set that up."""
    if sys.platform == "win32":
        return False
    import resource

    try:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    except (OSError, ValueError):
        return False
    return True
