"""A cache of computed values: one file for each, with a key line that says what it was made from.

A value whose file is torn, altered, or made from something else counts as missing; so does every
value where the cache cannot be read, and `put` does nothing where it cannot be written. No lock is
needed: of two processes that put one value at the same time one may fail, which is a miss later.

The file: the key, a line feed, the CRC-32 of the value in hexadecimal, a line feed, the value.
"""

import contextlib
from pathlib import Path
from zlib import crc32

from localllm.library.files import atomic_write


def get(path: Path, key: str) -> bytes | None:
    """Return the value of a cache file, if it was put with this key; else None."""
    try:
        stored_key, checksum, value = path.read_bytes().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    return value if stored_key == key.encode() and checksum == _checksum(value) else None


def put(path: Path, key: str, value: bytes) -> None:
    """Store a value. `key` is one line that names everything the value was made from."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_atomically(path, b"\n".join((key.encode(), _checksum(value), value)))


def _checksum(value: bytes) -> bytes:
    # Against a torn or altered file, not against an attacker: who can write the cache is the user.
    return b"%08x" % crc32(value)
