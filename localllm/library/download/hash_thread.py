"""SHA-256 of what is on the disk, close behind whoever writes it.

Reading the bytes back (from the system's cache, as a rule) costs a copy and buys much: the same
thread hashes what came before a restart, what several connections wrote out of order, and what
really is in the file instead of what was meant to be.
"""

import hashlib
from io import FileIO
from pathlib import Path

from localllm.library.download.part_file import Part

_BLOCK = 2**20


class Follower:
    """Hashes a part file from its start as far as it reaches, until it is complete.

    `known` are digests from an earlier run: the hash's value after every `chunk_bytes`. A chunk
    whose value is another now changed on the disk since; it is given up and fetched again.
    """

    def __init__(
        self, path: Path, part: Part, *, chunk_bytes: int, known: tuple[str, ...] = ()
    ) -> None:
        self.hashed = 0
        self.sha256: str | None = None
        self.damaged = 0
        self.digests: list[str] = []
        self._path = path
        self._part = part
        self._chunk_bytes = chunk_bytes
        self._known = known
        self._hash = hashlib.sha256()
        self._at_chunk = self._hash.copy()

    @property
    def noted(self) -> tuple[str, ...]:
        """The digests to remember: those of this run, then what is known beyond it."""
        mine = tuple(self.digests)
        return mine + self._known[len(mine) :]

    def run(self) -> None:
        """Hash all of it. Returns early when the download ends; raises OSError."""
        block = memoryview(bytearray(min(_BLOCK, max(1, self._part.size))))
        with FileIO(self._path) as stream:
            while self.hashed < self._part.size:
                ready = self._part.reach(
                    self.hashed, min(self.hashed + len(block), self._part.size)
                )
                if ready is None:
                    return
                self._read(stream, block, ready)
        self.sha256 = self._hash.hexdigest()

    def _read(self, stream: FileIO, block: memoryview, ready: int) -> None:
        end = min(ready, self._chunk_end())
        count = stream.readinto(block[: min(len(block), end - self.hashed)])
        if not count:  # somebody made the file shorter
            self._again(stream)
            return
        self._hash.update(block[:count])
        self.hashed += count
        if self.hashed == self._chunk_end():
            self._end_chunk(stream)

    def _end_chunk(self, stream: FileIO) -> None:
        digest = self._hash.hexdigest()
        index = len(self.digests)
        if index < len(self._known) and self._known[index] != digest:
            self._again(stream)
            return
        self.digests.append(digest)
        self._at_chunk = self._hash.copy()

    def _again(self, stream: FileIO) -> None:
        """Have the current chunk fetched again; what is known beyond it is not relied on."""
        start, end = len(self.digests) * self._chunk_bytes, self._chunk_end()
        self._known = self._known[: len(self.digests)]
        self._hash = self._at_chunk.copy()
        self.hashed = start
        self.damaged += 1
        stream.seek(start)
        self._part.lose(start, end)

    def _chunk_end(self) -> int:
        return min(self._part.size, (len(self.digests) + 1) * self._chunk_bytes)
