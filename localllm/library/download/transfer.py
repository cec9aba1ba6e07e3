"""One run of the threads that bring a file: some fetch, one hashes, the calling one watches.

The threads share the part file and nothing else; the calling thread alone keeps the journal, shows
progress and notices a stop, so that none of these needs a lock.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from localllm.library.download.context import DownloadContext
from localllm.library.download.extents import Extents
from localllm.library.download.fetch import RangeFetcher, RangesUnsupported
from localllm.library.download.hash_thread import HashThread
from localllm.library.download.http_source import HttpSource
from localllm.library.download.journal import Journal, JournalWriter, boot_id
from localllm.library.download.part_file import DownloadThread, PartFile
from localllm.library.download.target import DownloadTarget, part_path

_PIECES_PER_CONNECTION = 4
_MIN_PIECE = 4 * 2**20
"""Each piece costs a round trip."""
_HASH_LAG_BYTES = 64 * 2**20
"""The hash thread is this far behind before the user is told that hashing goes on."""
_JOIN_S = 2.0
"""A thread that waits for a response's first byte cannot be woken. It is left behind, and writes
nothing any more."""


class Transfer:
    """Brings the missing bytes of one part file and hashes all of it. Runs once.

    `usable` are the bytes of the part file that can be trusted; it is truncated after them.
    """

    def __init__(
        self,
        target: DownloadTarget,
        context: DownloadContext,
        source: HttpSource,
        journal: Journal,
        usable: Extents,
    ) -> None:
        self._context = context
        self._source = source
        self._path = part_path(target.path)
        self._usable_end = usable.end
        self._part = PartFile(target.size_bytes, usable)
        self._hash_thread = HashThread(
            self._path,
            self._part,
            chunk_bytes=journal.chunk_bytes,
            known_digests=journal.digests,
        )
        self._writer = JournalWriter(
            target.path,
            replace(journal, boot=boot_id(), appending=context.connections == 1),
            part=self._part,
            source=source,
            hash_thread=self._hash_thread,
            options=context.options,
        )

    def run(self) -> tuple[Journal, str]:
        """Fetch and hash until the file is complete; return the journal and the SHA-256.

        Raises what ended a thread, and what the context's `check_stop` raises. What came stays.
        """
        self._path.touch()
        # Bytes after the usable ones must not count: with one connection the length is exact.
        os.truncate(self._path, self._usable_end)
        self._writer.save(sync=True)
        complete = self._part.present_bytes == self._part.size
        fetchers = range(0 if complete else self._context.connections)
        threads: list[DownloadThread] = [self._hash_thread]
        threads += [DownloadThread(self._part, f"fetch {each}", self._fetch) for each in fetchers]
        try:
            with running(threads, self._part, self._source):
                self._watch()
        finally:
            # On a full disk this fails, too. The older journal is true as well.
            with contextlib.suppress(OSError):
                self._writer.save(sync=True)
        assert self._hash_thread.sha256 is not None  # else the part file has a failure
        return self._writer.journal, self._hash_thread.sha256

    def _watch(self) -> None:
        while not self._part.closed.wait(self._context.options.tick_s):
            self._context.check_stop()
            self._writer.save_if_due()
            self._show_progress()
        if (failure := self._part.failure) is not None:
            raise failure
        self._show_progress()

    def _show_progress(self) -> None:
        meter, source = self._context.meter, self._source
        # Without a lock: a message that a thread sets in between is lost, and only shown anyway.
        message, source.message = source.message, None
        if message is not None:
            meter.set_message(message)
        present = self._part.present_bytes
        lag = present - self._hash_thread.hashed_bytes
        if present == self._part.size and lag > _HASH_LAG_BYTES:
            meter.set_message("all is here, checking it")
        meter.update(present, source.received_bytes)

    def _fetch(self) -> None:
        """Claim and fetch pieces until the part file closes: the work of a fetch thread."""
        single = self._context.connections == 1
        fetcher = RangeFetcher(
            self._source, self._context.options, self._part.closed, accept_whole_file=single
        )
        with self._context.options.open_part(self._path) as stream:

            def write(position: int, data: bytes) -> None:
                self._part.write(stream, position, data)

            max_bytes = None if single else self._piece_bytes()
            while (piece := self._part.claim(max_bytes)) is not None:
                stream.seek(piece[0])
                try:
                    fetcher.fetch(*piece, write)
                except RangesUnsupported:
                    # One thread reads the whole file from now on, the others find no claim.
                    fetcher.accept_whole_file = True
                    self._part.use_single_claim()
                finally:
                    self._part.release(*piece)

    def _piece_bytes(self) -> int:
        """Return the length of a claim: short enough that all connections have work to the end."""
        share = self._part.size // (self._context.connections * _PIECES_PER_CONNECTION)
        return min(self._context.options.piece_bytes, max(_MIN_PIECE, share))


@contextlib.contextmanager
def running(
    threads: Sequence[DownloadThread], part: PartFile, source: HttpSource
) -> Iterator[None]:
    """Run threads while the block runs, and end them with it."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        part.close()
        source.shut_down()
        for thread in threads:
            thread.join(_JOIN_S)
