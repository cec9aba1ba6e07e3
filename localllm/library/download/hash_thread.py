"""SHA-256 of the part file, computed from the disk close behind the threads that write it.

Reading the bytes back (as a rule from the system's cache) costs a copy. It makes one path of three:
hashing what an earlier run left, hashing what several connections wrote out of order, and checking
the bytes that really are in the file instead of those that were meant to be.
"""

import hashlib
from io import FileIO
from pathlib import Path

from localllm.library.download.part_file import DownloadThread, PartFile

_BLOCK = 2**20


class HashThread(DownloadThread):
    """Hashes a part file from its start until it is complete, then closes it.

    `known_digests` are checkpoints of an earlier run: the hash's value after every `chunk_bytes`.
    A chunk whose value differs now changed on the disk since; it is invalidated and fetched again.
    """

    def __init__(
        self,
        path: Path,
        part: PartFile,
        *,
        chunk_bytes: int,
        known_digests: tuple[str, ...] = (),
    ) -> None:
        super().__init__(part, "hash", self._hash_file)
        self.hashed_bytes = 0
        self.sha256: str | None = None
        self._path = path
        self._chunk_bytes = chunk_bytes
        self._known_digests = known_digests
        self._digests: list[str] = []
        self._hash = hashlib.sha256()
        self._hash_at_chunk = self._hash.copy()

    @property
    def digests(self) -> tuple[str, ...]:
        """The checkpoints for the journal: those of this run, then the known ones beyond it."""
        mine = tuple(self._digests)
        return mine + self._known_digests[len(mine) :]

    def _hash_file(self) -> None:
        block = memoryview(bytearray(min(_BLOCK, max(1, self._part.size))))
        with FileIO(self._path) as stream:
            while self.hashed_bytes < self._part.size:
                # A whole block at a time, so that a slow link does not wake this for each packet.
                end = self._part.wait_for(
                    self.hashed_bytes, min(self.hashed_bytes + len(block), self._part.size)
                )
                if end is None:
                    return
                self._read(stream, block, end)
        self.sha256 = self._hash.hexdigest()
        self._part.close()

    def _read(self, stream: FileIO, block: memoryview, available_end: int) -> None:
        end = min(available_end, self._chunk_end())
        count = stream.readinto(block[: min(len(block), end - self.hashed_bytes)])
        if not count:  # another program truncated the file
            self._refetch_chunk(stream)
            return
        self._hash.update(block[:count])
        self.hashed_bytes += count
        if self.hashed_bytes == self._chunk_end():
            self._end_chunk(stream)

    def _end_chunk(self, stream: FileIO) -> None:
        digest = self._hash.hexdigest()
        index = len(self._digests)
        if index < len(self._known_digests) and self._known_digests[index] != digest:
            self._refetch_chunk(stream)
            return
        self._digests.append(digest)
        self._hash_at_chunk = self._hash.copy()

    def _refetch_chunk(self, stream: FileIO) -> None:
        """Invalidate the current chunk and the digests beyond it, and go back to its start."""
        start, end = len(self._digests) * self._chunk_bytes, self._chunk_end()
        self._known_digests = self._known_digests[: len(self._digests)]
        self._hash = self._hash_at_chunk.copy()
        self.hashed_bytes = start
        stream.seek(start)
        self._part.invalidate(start, end)

    def _chunk_end(self) -> int:
        return min(self._part.size, (len(self._digests) + 1) * self._chunk_bytes)
