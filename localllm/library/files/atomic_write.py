"""Write files so that a crash, a full disk or a second process loses nothing.

As far as the file system goes along: network and FUSE file systems refuse to force a directory to
the disk, and repeat a rename that was done. `file_lock.py` locks.
"""

import contextlib
import errno
import glob
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.01
_REPLACE_TRIES = 50
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


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
            sync(out.fileno())
        rename(temporary, target, lambda: target.read_bytes() == data)
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


def sync(descriptor: int) -> None:
    """Force an open file's bytes to the disk, where its file system can. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_directory(path: Path) -> None:
    """Force a directory's names to the disk, so that a rename in it survives a power cut.

    Where that cannot be done (EINVAL, EIO: older SMB, shared folders of virtual machines, some
    FUSE) nothing is raised: the names are changed by then, and more cannot be promised there.
    """
    if sys.platform == "win32":
        return  # a directory cannot be opened there; NTFS journals its names
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename(source: Path, target: Path, is_done: Callable[[], bool]) -> None:
    """Rename over `target`; `is_done` tells whether `target` is what `source` was.

    NFS sends a rename again when its answer was lost, and then finds no source. On Windows it is
    tried again while a reader has the target open. Raises OSError.
    """
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            source.replace(target)
            return
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                if is_done():
                    return
            raise
        except PermissionError:
            if sys.platform != "win32" or left == 0:
                raise
            time.sleep(_POLL_S)
