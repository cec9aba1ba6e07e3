"""SHA-256 of a file, with progress: a model takes seconds to minutes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from localllm.errors import StoreError
from localllm.library.examine import open_regular
from localllm.library.names import shown

_CHUNK_BYTES = 4 * 2**20


def sha256_of(path: Path, *, read: Callable[[int], None] = lambda _: None) -> str:
    """Hash a file; `read` is told how many bytes were read since it was last told.

    Raises NotFound, and StoreError when the file cannot be read or changes meanwhile.
    """
    digest = hashlib.sha256()
    with open_regular(path) as (stream, before):
        try:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                read(len(chunk))
        except OSError as error:
            raise StoreError(f"{shown(path)} cannot be read: {error.strerror}.") from error
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StoreError(f"{shown(path)} was written to while it was read. Try again later.")
    return digest.hexdigest()
