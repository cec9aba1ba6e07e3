"""Write and lock files so that a crash, a full disk or a second process loses nothing."""

import contextlib
import glob
import itertools
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
    """Lock the file `path` against all other processes and threads while the block runs.

    The system releases the lock when the process ends, however it ends. Raises TimeoutError when
    another one has it for `wait_s`, OSError when the file cannot be made.
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
        os.close(descriptor)  # releases the lock; the file stays, for whoever waits has it open


def write_atomically(target: Path, data: bytes, *, private: bool = False) -> None:
    """Replace the content of `target`: after a crash at any point it is the old or the new one.

    Call it under a lock when others may write the same file: it deletes the temporary files that
    killed writers left. `private`: only its owner can read it. Raises OSError.
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
    sync_directory(target.parent)  # else a power cut may undo the rename


def unused_path(path: Path) -> Path:
    """Return `path`, or the first of `NAME-2`, `NAME-3`, ... when it exists."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(each for each in itertools.chain((path,), numbered) if not each.exists())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_directory(path: Path) -> None:
    """Force a directory's names to the disk, so that a rename in it survives a power cut."""
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
    except (BlockingIOError, PermissionError):  # the second one on Windows
        return False
    return True


def _replace(source: Path, target: Path) -> None:
    """Rename over `target`; on Windows retry while a reader has it open."""
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            source.replace(target)
            return
        except PermissionError:
            if sys.platform != "win32" or left == 0:
                raise
            time.sleep(_POLL_S)
