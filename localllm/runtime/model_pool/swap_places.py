"""Where the cells of an unloaded model stay: memory that has no name in any directory, or an
encrypted file.

Nothing readable is left behind, however this process ends. Memory (`memfd_create`, Linux) is freed
with the last process that has it open. A file is deleted as soon as it is open (Linux), or with the
place, or at the next start (elsewhere); its key is in this process's memory alone.
"""

import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

import psutil

KEY_BYTES = 32
_SUFFIX = ".swap"


class SwapPlace:
    """An empty file, which the engine's process opens by `path`; with a `key` (hexadecimal digits)
    on a disk, and encrypted."""

    def __init__(self, descriptor: int | None, path: str, key: str | None = None) -> None:
        self.path = path
        self.key = key
        self._descriptor = descriptor

    @property
    def on_disk(self) -> bool:
        return self.key is not None

    def seal(self) -> None:
        """Let nobody write to memory any more. Raises OSError."""
        if sys.platform == "linux" and self._descriptor is not None and not self.on_disk:
            import fcntl

            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)

    def close(self) -> None:
        """Free it. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        elif self.on_disk:
            with contextlib.suppress(OSError):  # Windows: an engine that hangs has it open
                Path(self.path).unlink(missing_ok=True)


def has_memory() -> bool:
    """Tell whether this system has memory that another process can open by a name."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def memory_place() -> SwapPlace:
    """Make a place in memory. Raises OSError, also where there is no such thing (`has_memory`)."""
    if sys.platform != "linux":
        raise OSError("this system has no memory that can be handed on")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    descriptor = os.memfd_create("localllm-swap", flags)
    return SwapPlace(descriptor, _name(descriptor))


def disk_place(directory: Path) -> SwapPlace:
    """Make a file for its owner alone, and a key for it. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, path = tempfile.mkstemp(_SUFFIX, f"{os.getpid()}-", directory)
    key = secrets.token_hex(KEY_BYTES)
    if sys.platform == "linux":
        Path(path).unlink()
        return SwapPlace(descriptor, _name(descriptor), key)
    os.close(descriptor)
    return SwapPlace(None, path, key)


def delete_leftovers(directory: Path) -> None:
    """Delete the files of processes that have ended. Nobody can read them."""
    with contextlib.suppress(OSError):
        for path in directory.glob(f"*{_SUFFIX}"):
            owner = path.name.partition("-")[0]
            if owner.isdecimal() and not psutil.pid_exists(int(owner)):
                path.unlink(missing_ok=True)


def _name(descriptor: int) -> str:
    """Name a descriptor of this process for another one of the same user."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"
