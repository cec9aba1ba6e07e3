"""Writing down what is there, often enough and never more than is true."""

import os
from dataclasses import replace
from pathlib import Path

from localllm.library.download import journal
from localllm.library.download.hash_thread import Follower
from localllm.library.download.http_source import Source
from localllm.library.download.journal import Notes
from localllm.library.download.part_file import Part
from localllm.library.download.target import Conditions

_PARTS = 256
"""With several connections the notes are replaced at most so often: a kill loses about that part
of the file, and what comes while they are being replaced."""
_LEAST_BYTES = 16 * 2**10


class Keeper:
    """Saves the notes of one part file. Used by the calling thread only."""

    def __init__(
        self,
        path: Path,
        notes: Notes,
        *,
        part: Part,
        source: Source,
        follower: Follower,
        conditions: Conditions,
    ) -> None:
        self.notes = notes
        self._path = path
        self._part = part
        self._source = source
        self._follower = follower
        self._conditions = conditions
        self._step = max(_LEAST_BYTES, part.size // _PARTS)
        self._synced_s = conditions.clock()
        self._saved = self._synced = part.total

    def save_if_due(self) -> None:
        """Save when enough came or enough time went by. Raises OSError."""
        now_s, total = self._conditions.clock(), self._part.total
        unsynced = abs(total - self._synced)
        if unsynced >= self._conditions.checkpoint_bytes or (
            unsynced and now_s - self._synced_s >= self._conditions.checkpoint_s
        ):
            self.save(sync=True)
        elif self._worth_it(total):
            self.save(sync=False)

    def save(self, *, sync: bool) -> None:
        """Write down what is there; with `sync` force it to the disk first. Raises OSError."""
        ranges, total = self._part.ranges, self._part.total
        changes = self.notes
        if sync:
            sync_file(journal.part_of(self._path))
            changes = replace(changes, synced=ranges)
        changes = replace(
            changes,
            written=ranges,
            endpoint=self._source.endpoint,
            etag=self._source.etag,
            digests=self._follower.noted,
        )
        journal.save(journal.notes_of(self._path), changes)
        self.notes = changes
        self._saved = total
        if sync:
            self._synced, self._synced_s = total, self._conditions.clock()

    def _worth_it(self, total: int) -> bool:
        """Whether the notes say too little. With one connection the file's length says the rest."""
        if self._source.etag != self.notes.etag:
            return True
        return not self.notes.appending and total - self._saved >= self._step


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
