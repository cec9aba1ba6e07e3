"""Lock a file against other processes, also where the file system has no locks, or lies about them.

The system's own lock (flock, on Windows a byte range) is released when a process ends, however it
ends, so it is always tried first. Some network and FUSE file systems have none (Lustre, NFS without
its lock service, many home directories of clusters) and some grant it to everybody. There a file
made with O_EXCL is the lock, `PATH.held`, which says who holds it: one that a process of this
machine left when it was killed is taken over, one of another machine is named in the message.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_WAIT_S = 10.0
HELD_SUFFIX = ".held"
_POLL_S = 0.01
_NO_LOCKS = frozenset(
    {
        errno.EINVAL,
        errno.ENOLCK,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        getattr(errno, "ENOTTY", errno.ENOSYS),
    }
)
"""What file systems without locks answer to one."""
_UNREADABLE_AGE_S = 60.0
"""A lock file is written in a moment. One that says nothing for so long was left by a crash; the
clocks of a file server and its clients differ by less."""
_STARTED_TOLERANCE_S = 2.0
"""A process's start is derived from the time since the boot, which the clock's steps move."""

TryLock = Callable[[int], bool]
"""Try to lock an open file; false when another one has it. Raises OSError."""


class LockHeld(TimeoutError):
    """Another process has the lock. `holder` says which, where that is known."""

    def __init__(self, path: Path, wait_s: float, holder: str | None) -> None:
        who = f"another process ({holder})" if holder else "another process"
        super().__init__(f"{who} has held {path} for {wait_s:g} s")
        self.holder = holder


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second one on Windows and over SMB
        return False
    return True


@contextlib.contextmanager
def locked(
    path: Path, *, wait_s: float = LOCK_WAIT_S, try_lock: TryLock = _try_lock
) -> Iterator[None]:
    """Lock the file `path` against all other processes and threads while the block runs.

    Raises LockHeld (a TimeoutError) when another one has it for `wait_s`, OSError when the file
    cannot be made. `try_lock` is the system's lock.
    """
    descriptor = os.open(path, _FLAGS, 0o666)
    lock_file = LockFile(path.with_name(f"{path.name}{HELD_SUFFIX}"))
    held = False
    try:
        deadline = time.monotonic() + wait_s
        while True:
            granted = _lock_by_system(descriptor, path, try_lock)
            if granted or (granted is None and (held := lock_file.acquire())):
                break
            if time.monotonic() >= deadline:
                raise LockHeld(path, wait_s, lock_file.holder() if granted is None else None)
            time.sleep(_POLL_S)
        yield
    finally:
        if held:
            lock_file.release()
        os.close(descriptor)  # releases the lock; the file stays, for whoever waits has it open


_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


def _lock_by_system(descriptor: int, path: Path, try_lock: TryLock) -> bool | None:
    """Try the system's lock; None when the file system has none that keeps others out."""
    try:
        if not try_lock(descriptor):
            return False
        # A lock that two open files get at once is none: some file systems say yes to everybody.
        again = os.open(path, _FLAGS, 0o666)
        try:
            return None if try_lock(again) else True
        finally:
            os.close(again)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


@dataclass(frozen=True, slots=True)
class LockFile:
    """A lock that is a file: whoever can make it has it. It says who did.

    Making a file with O_EXCL is atomic on every file system, NFS included since version 3.
    """

    path: Path

    def acquire(self) -> bool:
        """Make the file, or take over one that a process of this machine left. Raises OSError."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return self._take_over()
        with os.fdopen(descriptor, "wb") as file:
            file.write(_own_identity())
        return True

    def release(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def holder(self) -> str | None:
        """Name the process that has the lock, and what to do when it is gone."""
        try:
            host, pid, _ = _parsed(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return f"{pid} on {host}; if it is gone, delete {self.path}"

    def _take_over(self) -> bool:
        """Replace the file when its process is gone. Raises OSError."""
        if (seen := self._read_stale()) is None:
            return False
        # Several may see that. Who has the lock of this very file replaces it, unless another one
        # did so before.
        digest = hashlib.sha256(seen).hexdigest()[:16]
        claim = LockFile(self.path.with_name(f"{self.path.name}.{digest}"))
        if not claim.acquire():
            return False
        try:
            if self._read_stale() != seen:
                return False
            own = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}")
            own.write_bytes(_own_identity())
            own.replace(self.path)
            return True
        finally:
            claim.release()

    def _read_stale(self) -> bytes | None:
        """Return what the file says when its process is gone; None when it counts."""
        try:
            seen, status = self.path.read_bytes(), self.path.stat()
        except FileNotFoundError:
            return None
        try:
            gone = _is_gone(*_parsed(seen))
        except ValueError:
            gone = abs(time.time() - status.st_mtime) > _UNREADABLE_AGE_S
        return seen if gone else None


def _own_identity() -> bytes:
    import psutil  # only here: most file systems have locks

    own = psutil.Process()
    return json.dumps([platform.node(), own.pid, own.create_time()]).encode()


def _parsed(identity: bytes) -> tuple[str, int, float]:
    """Read host, process id and start. Raises ValueError."""
    match json.loads(identity):
        case [str(host), int(pid), int() | float() as started]:
            return host, pid, float(started)
    raise ValueError("no identity of a process")


def _is_gone(host: str, pid: int, started: float) -> bool:
    """Tell whether a process of this machine has ended; of another machine nothing is known."""
    import psutil

    if host != platform.node():
        return False
    try:
        return abs(psutil.Process(pid).create_time() - started) > _STARTED_TOLERANCE_S
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # it may not be looked at: it lives
        return False
