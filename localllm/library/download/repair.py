"""Find and replace wrong bytes of a complete part file, instead of downloading all of it again.

A wrong SHA-256 does not say where the fault is. So a second copy is fetched chunk by chunk and
compared with the first; where they differ a third copy of the chunk decides. After a change the
rest of the file on the disk is hashed again: as a rule there is one fault, and the comparison ends
there.
"""

import hashlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from localllm.library.download.fetch import RangeFetcher
from localllm.library.download.part_file import PartFile, TransferClosed

_BLOCK = 2**20


class Repair:
    """Compares a complete part file with a second copy until its hash is `sha256`."""

    def __init__(
        self,
        path: Path,
        part: PartFile,
        fetcher: RangeFetcher,
        *,
        sha256: str,
        chunk_bytes: int,
        open_part: Callable[[Path], FileIO],
    ) -> None:
        self.compared_bytes = 0
        self.succeeded = False
        self._replaced_chunks = 0
        self._path = path
        self._part = part
        self._fetcher = fetcher
        self._sha256 = sha256
        self._chunk_bytes = chunk_bytes
        self._open_part = open_part

    def run(self) -> None:
        """Repair the file, if that is possible; `succeeded` says whether it was.

        Raises RangesUnsupported, TransferClosed, OSError and what a fetch raises.
        """
        size, file_hash = self._part.size, hashlib.sha256()
        with self._open_part(self._path) as stream:
            for start in range(0, size, self._chunk_bytes):
                end = min(size, start + self._chunk_bytes)
                changed = self._repair_chunk(stream, start, end, file_hash)
                self.compared_bytes = end
                if (
                    changed
                    and self._worth_hashing()
                    and self._rest_matches(stream, end, file_hash.copy())
                ):
                    self.succeeded = True
                    return
        self.succeeded = file_hash.hexdigest() == self._sha256

    def _repair_chunk(
        self, stream: FileIO, start: int, end: int, file_hash: "hashlib._Hash"
    ) -> bool:
        """Replace one chunk if it is wrong, and hash it; return true when it was replaced."""
        first = _read(stream, start, end)
        second = self._fetch(start, end)
        # The third copy is a vote of two against one: the fault may be in the second.
        correct = first if second == first else self._fetch(start, end)
        file_hash.update(correct)
        if correct == first:
            return False
        stream.seek(start)
        self._part.write(stream, start, correct)
        self._replaced_chunks += 1
        return True

    def _fetch(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        self._fetcher.fetch(start, end, lambda _, data: pieces.append(data))
        return b"".join(pieces)

    def _worth_hashing(self) -> bool:
        """After 1, 2, 4, 8, ... replacements: hashing the rest after each would be quadratic."""
        return self._replaced_chunks & (self._replaced_chunks - 1) == 0

    def _rest_matches(self, stream: FileIO, start: int, file_hash: "hashlib._Hash") -> bool:
        """Tell whether the file on the disk from `start` on completes the hash."""
        stream.seek(start)
        while block := stream.read(_BLOCK):
            if self._part.closed.is_set():
                raise TransferClosed
            file_hash.update(block)
        return file_hash.hexdigest() == self._sha256


def _read(stream: FileIO, start: int, end: int) -> bytes:
    stream.seek(start)
    pieces: list[bytes] = []
    while start < end and (piece := stream.read(end - start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
