"""The content of a file of the Hub: bytes, a file on disk, or a header before a hole."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True)
class SparseFile:
    """A file of `size` bytes that begins with `head` and is zero after it.

    Nothing of the hole is ever held. `sha256` stands in the listing; by default it is not the
    content's, which nobody wants to compute for 40 GB.
    """

    head: bytes
    size: int
    listed_sha256: str | None = None

    @property
    def sha256(self) -> str:
        return self.listed_sha256 or hashlib.sha256(self.head + str(self.size).encode()).hexdigest()

    def read(self, offset: int, count: int) -> bytes:
        count = max(0, min(count, self.size - offset))
        return self.head[offset : offset + count].ljust(count, b"\0")


@dataclass(frozen=True)
class InMemory:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self, offset: int, count: int) -> bytes:
        return self.data[offset : offset + count]


@dataclass(frozen=True)
class OnDisk:
    """A file on disk, read when it is asked for."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def read(self, offset: int, count: int) -> bytes:
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            return stream.read(min(count, _PIECE))


Content = SparseFile | InMemory | OnDisk
Given = bytes | Path | SparseFile


def content(given: Given) -> Content:
    match given:
        case bytes():
            return InMemory(given)
        case Path():
            return OnDisk(given)
    return given
