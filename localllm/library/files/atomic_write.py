"""Changing files so that a crash, a full disk or a second process loses nothing."""

import contextlib
import glob
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_WAIT_S = 10.0
_POLL_S = 0.01
_REPLACE_TRIES = 50


@contextlib.contextmanager
def locked(path: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock file `path`, alone among all processes and threads.

    The system lets go of it when the process ends, however it ends. Raises TimeoutError when
    another one holds it for `wait_s`, OSError when it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        deadline = time.monotonic() + wait_s
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has held {path} for {wait_s:g} s")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def write_atomically(target: Path, data: bytes, *, private: bool = False) -> None:
    """Replace `target` by `data`: after a crash at any point it holds all of the old or all of
    the new. Call it under the lock, for it clears away what killed writers left. `private`: nobody
    but its owner can read it. Raises OSError.
    """
    for leftover in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        opener = _private if private else None
        with open(temporary, "xb", opener=opener) as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        _replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(target.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last through a power cut, where the system can."""
    if sys.platform == "win32":
        return  # a directory cannot be opened there; NTFS journals its names
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is how Windows says it
        return False
    return True


def _replace(source: Path, target: Path) -> None:
    """`Path.replace`; on Windows again while a reader has the target open."""
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            source.replace(target)
            return
        except PermissionError:
            if sys.platform != "win32" or left == 0:
                raise
            time.sleep(_POLL_S)
