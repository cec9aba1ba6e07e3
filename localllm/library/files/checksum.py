"""Open regular files only, and compute their checksum (SHA-256) with progress.

Every file that a user or another program names is opened here: a pipe or a device under such a
name would block or never end.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from localllm.errors import NotFound, StoreError
from localllm.library.files.names import printable

_CHUNK_BYTES = 4 * 2**20
_HINT = "Name a GGUF file."
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""O_NONBLOCK: opening a pipe that nobody writes to would wait for ever."""


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file for reading. Raises NotFound, StoreError."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no file {printable(path)}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"{printable(path)} cannot be read: {reason}.") from error
    # The descriptor's status and not the path's: the path may lead to another file by now.
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise StoreError(f"{printable(path)} is {_kind(status.st_mode)}, not a file. {_HINT}")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream, status


def sha256_of(path: Path, *, on_read: Callable[[int], None] = lambda _: None) -> str:
    """Hash a file; `on_read` gets the number of bytes after each read.

    Raises NotFound, and StoreError when the file cannot be read or changes meanwhile.
    """
    digest = hashlib.sha256()
    with open_regular(path) as (stream, before):
        try:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                on_read(len(chunk))
        except OSError as error:
            raise StoreError(f"{printable(path)} cannot be read: {error.strerror}.") from error
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StoreError(f"{printable(path)} was written to while it was read. Try again later.")
    return digest.hexdigest()


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"
