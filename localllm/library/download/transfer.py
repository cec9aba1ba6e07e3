"""The threads that bring one file: some fetch, one hashes, the calling one watches."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from localllm.library.download import journal
from localllm.library.download.checkpoint import Keeper
from localllm.library.download.context import Call
from localllm.library.download.extents import Extents
from localllm.library.download.fetch import Fetcher, WholeOnly
from localllm.library.download.hash_thread import Follower
from localllm.library.download.http_source import Source
from localllm.library.download.journal import Notes
from localllm.library.download.part_file import Lane, Part
from localllm.library.download.target import DownloadTarget

_PIECES_EACH = 4
_LEAST_PIECE = 4 * 2**20
"""Each piece costs a round trip."""
_BEHIND_BYTES = 64 * 2**20
_JOIN_S = 2.0
"""A thread that waits for an answer's first byte cannot be woken; it writes nothing any more."""


class Session:
    """Brings what is missing of one part file and hashes all of it. Used once.

    `there` are the bytes of the part file that can be relied on; it is cut after them.
    """

    def __init__(
        self, wanted: DownloadTarget, call: Call, source: Source, notes: Notes, there: Extents
    ) -> None:
        self._call = call
        self._source = source
        self._path = journal.part_of(wanted.path)
        self._end = there.end
        self._part = Part(wanted.size_bytes, there)
        self._follower = Follower(
            self._path, self._part, chunk_bytes=notes.chunk_bytes, known=notes.digests
        )
        self._keeper = Keeper(
            wanted.path,
            replace(notes, boot=journal.boot(), appending=call.connections == 1),
            part=self._part,
            source=source,
            follower=self._follower,
            conditions=call.conditions,
        )

    def run(self) -> tuple[Notes, str]:
        """Fetch and hash until the file is complete. Gives back the notes and the sha256.

        Raises what ended a thread, and what the call's `check_stop` raises. What came is kept.
        """
        self._path.touch()
        os.truncate(self._path, self._end)
        self._keeper.save(sync=True)
        fetching = range(self._call.connections if self._part.total < self._part.size else 0)
        lanes = [Lane(self._part, "hash", self._hash)]
        lanes += [Lane(self._part, f"fetch {each}", self._fetch) for each in fetching]
        try:
            with running(lanes, self._part, self._source):
                self._watch()
        finally:
            with contextlib.suppress(OSError):  # a full disk: the older notes are true, too
                self._keeper.save(sync=True)
        assert self._follower.sha256 is not None  # else the part has a failure
        return self._keeper.notes, self._follower.sha256

    def _watch(self) -> None:
        while not self._part.closed.wait(self._call.conditions.tick_s):
            self._call.check_stop()
            self._keeper.save_if_due()
            self._tell()
        if (failure := self._part.failure) is not None:
            raise failure
        self._tell()

    def _tell(self) -> None:
        board, source = self._call.board, self._source
        note, source.note = source.note, None
        if note is not None:
            board.note(note)
        here = self._part.total
        if here == self._part.size and here - self._follower.hashed > _BEHIND_BYTES:
            board.note("all is here, checking it")
        board.show(here, source.received)

    def _hash(self) -> None:
        self._follower.run()
        self._part.close()

    def _fetch(self) -> None:
        alone = self._call.connections == 1
        fetcher = Fetcher(self._source, self._call.conditions, self._part.closed, alone=alone)
        with self._call.conditions.open_part(self._path) as stream:

            def put(position: int, data: bytes) -> None:
                self._part.put(stream, position, data)

            most = None if alone else self._piece_bytes()
            while (piece := self._part.take(most)) is not None:
                stream.seek(piece[0])
                try:
                    fetcher.fetch(*piece, put)
                except WholeOnly:
                    fetcher.alone = True
                    self._part.go_alone()
                finally:
                    self._part.give_back(*piece)

    def _piece_bytes(self) -> int:
        """What a connection takes at a time: so little that all have something to do."""
        share = self._part.size // (self._call.connections * _PIECES_EACH)
        return min(self._call.conditions.piece_bytes, max(_LEAST_PIECE, share))


@contextlib.contextmanager
def running(lanes: Sequence[Lane], part: Part, source: Source) -> Iterator[None]:
    """Let threads run while the block does; end them with it."""
    for lane in lanes:
        lane.start()
    try:
        yield
    finally:
        part.close()
        source.shut_down()
        for lane in lanes:
            lane.join(_JOIN_S)
