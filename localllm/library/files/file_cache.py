"""Answers kept in the cache, each in a file with a note of what it was made from.

What is half written, changed, or made from something else counts as not there; so does everything
where the cache cannot be read, and nothing is kept where it cannot be written. No lock is needed:
of two that keep something at once one may fail, which is the same as not having kept it.
"""

import contextlib
from pathlib import Path
from zlib import crc32

from localllm.library.files import atomic_write


def recall(path: Path, made_from: str) -> bytes | None:
    """What was kept there, if it was made from this."""
    try:
        noted, seal, answer = path.read_bytes().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    return answer if noted == made_from.encode() and seal == _seal(answer) else None


def keep(path: Path, made_from: str, answer: bytes) -> None:
    """Keep an answer; `made_from` is one line."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_atomically(path, b"\n".join((made_from.encode(), _seal(answer), answer)))


def _seal(answer: bytes) -> bytes:
    return b"%08x" % crc32(answer)
