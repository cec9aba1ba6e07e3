"""When all came and the sha256 is wrong: finding the bytes that are, and fetching only these.

The hash of the whole does not say where the fault is, so a second copy is fetched chunk by chunk
and compared with the first. Where they differ a third decides. After a change the rest of the file
on the disk is hashed again at once: as a rule there is one fault, and the search ends there.
"""

import hashlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from localllm.library.download.fetch import Fetcher
from localllm.library.download.part_file import Closed, Part

_BLOCK = 2**20


class Repair:
    """Compares a complete part file with a second copy until its hash is `sha256`."""

    def __init__(
        self,
        path: Path,
        part: Part,
        fetcher: Fetcher,
        *,
        sha256: str,
        chunk_bytes: int,
        open_part: Callable[[Path], FileIO],
    ) -> None:
        self.compared = 0
        self.replaced = 0
        self.right = False
        self._path = path
        self._part = part
        self._fetcher = fetcher
        self._sha256 = sha256
        self._chunk_bytes = chunk_bytes
        self._open_part = open_part

    def run(self) -> None:
        """Make the file right, if that can be done; `right` says whether it was.

        Raises WholeOnly, Closed, OSError and what a fetch raises.
        """
        size, whole = self._part.size, hashlib.sha256()
        with self._open_part(self._path) as stream:
            for start in range(0, size, self._chunk_bytes):
                end = min(size, start + self._chunk_bytes)
                changed = self._settle(stream, start, end, whole)
                self.compared = end
                if changed and self._worth_hashing() and self._rest(stream, end, whole.copy()):
                    self.right = True
                    return
        self.right = whole.hexdigest() == self._sha256

    def _settle(self, stream: FileIO, start: int, end: int, whole: "hashlib._Hash") -> bool:
        """Make one chunk right and hash it; whether it was wrong."""
        here = _read(stream, start, end)
        second = self._copy(start, end)
        right = here if second == here else self._copy(start, end)
        whole.update(right)
        if right == here:
            return False
        stream.seek(start)
        self._part.put(stream, start, right)
        self.replaced += 1
        return True

    def _copy(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        self._fetcher.fetch(start, end, lambda _, data: pieces.append(data))
        return b"".join(pieces)

    def _worth_hashing(self) -> bool:
        """After 1, 2, 4, 8, ... changes: hashing the rest after each would never end."""
        return self.replaced & (self.replaced - 1) == 0

    def _rest(self, stream: FileIO, start: int, whole: "hashlib._Hash") -> bool:
        """Whether the file from `start` on, as it is, completes the hash."""
        stream.seek(start)
        while block := stream.read(_BLOCK):
            if self._part.closed.is_set():
                raise Closed
            whole.update(block)
        return whole.hexdigest() == self._sha256


def _read(stream: FileIO, start: int, end: int) -> bytes:
    stream.seek(start)
    pieces: list[bytes] = []
    while start < end and (piece := stream.read(end - start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
