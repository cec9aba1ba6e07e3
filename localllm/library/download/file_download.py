"""One file of a download, from its lock to its final name."""

import contextlib
import threading

from localllm.core.units import format_bytes
from localllm.errors import DownloadFailed, HubError, NotFound, StoreError
from localllm.library.download import journal
from localllm.library.download.checkpoint import sync_file
from localllm.library.download.context import Call, available, explained
from localllm.library.download.extents import Extents
from localllm.library.download.fetch import Fetcher
from localllm.library.download.http_source import Source
from localllm.library.download.journal import Notes, lock_of, notes_of, part_of
from localllm.library.download.part_file import Lane, Part, StartOver
from localllm.library.download.repair import Repair
from localllm.library.download.target import Downloaded, DownloadTarget
from localllm.library.download.transfer import Session, running
from localllm.library.files import atomic_write
from localllm.library.files.checksum import sha256_of
from localllm.library.files.names import printable

_MOST_RESTARTS = 3
_OTHER_POLL_S = 0.3


class SingleDownload:
    """Brings one file to its place. Used once, by the calling thread."""

    def __init__(self, wanted: DownloadTarget, call: Call) -> None:
        self._wanted = wanted
        self._call = call
        self._part_path = part_of(wanted.path)
        self._resumed = 0
        self._restarts = 0

    def run(self) -> Downloaded:
        """Download the file unless it is there; wait while another process does.

        Raises what `download` does.
        """
        self._call.board.begin(self._wanted.name)
        with explained(self._wanted):
            if self._is_there():  # also where nothing can be written, a lock neither
                return self._result(self._wanted.sha256 or "", 0)
            while True:
                with contextlib.ExitStack() as held:
                    try:
                        held.enter_context(
                            atomic_write.locked(lock_of(self._wanted.path), wait_s=0)
                        )
                    except TimeoutError:
                        self._watch_the_other()
                        continue
                    return self._run_alone()

    def _run_alone(self) -> Downloaded:
        with contextlib.ExitStack() as undone:
            undone.callback(self._leave_nothing_empty)
            if self._is_there():
                self._clear_away()
                return self._result(self._wanted.sha256 or "", 0)
            stall_s = self._call.conditions.stall_s
            source = Source(self._wanted, self._call.access, stall_s=stall_s)
            undone.callback(source.close)
            sha256 = self._bring(source)
        sync_file(self._part_path)
        self._part_path.replace(self._wanted.path)
        atomic_write.sync_directory(self._wanted.path.parent)
        self._clear_away()
        return self._result(sha256, source.received)

    def _result(self, sha256: str, received: int) -> Downloaded:
        self._call.board.finish(self._wanted.size_bytes, received)
        return Downloaded(
            path=self._wanted.path,
            size_bytes=self._wanted.size_bytes,
            sha256=sha256,
            resumed_from=self._resumed,
            transferred_bytes=received,
        )

    def _watch_the_other(self) -> None:
        """Show how far the process is that has the lock."""
        self._call.check_stop()
        self._call.board.show(available(self._wanted), 0)
        self._call.board.note("waiting for another localllm")
        self._call.conditions.wait(threading.Event(), _OTHER_POLL_S)

    def _is_there(self) -> bool:
        """Whether the file is in its place already, with the hash that it must have.

        Of one without a known hash the size alone does not say that it is of this commit.
        """
        wanted, board = self._wanted, self._call.board
        if wanted.path.is_dir():
            raise StoreError(f"{printable(wanted.path)} is a directory: nothing can be put there.")
        if wanted.sha256 is None or not wanted.path.is_file():
            return False
        if wanted.path.stat().st_size == wanted.size_bytes:
            board.note("checking what is here")
            if sha256_of(wanted.path, read=_Reading(self._call)) == wanted.sha256:
                self._resumed = wanted.size_bytes
                return True
        board.note("another file is here; it is replaced when this one is complete")
        return False

    def _bring(self, source: Source) -> str:
        """Have all bytes in the part file, verified. Gives back their sha256."""
        notes, there = self._pick_up()
        if notes.endpoint is not None and notes.etag is not None:
            source.etags[notes.endpoint] = notes.etag
        repaired = False
        while True:
            try:
                session = Session(self._wanted, self._call, source, notes, there)
                notes, sha256 = session.run()
                if self._wanted.sha256 is None or sha256 == self._wanted.sha256:
                    return sha256
                tried, repaired = repaired, True  # once: a fault that comes again is the server's
                if not tried and self._repair(source):
                    return self._wanted.sha256
                raise DownloadFailed(self._wrong(sha256))
            except StartOver as reason:
                notes, there = self._start_over(source, str(reason))

    def _pick_up(self) -> tuple[Notes, Extents]:
        """What is known and there from earlier runs."""
        notes = journal.read(notes_of(self._wanted.path))
        length = self._part_path.stat().st_size if self._part_path.exists() else 0
        if notes is not None and notes.about(self._wanted):
            there = notes.there(boot=journal.boot(), length=length)
            if there.total:
                self._call.board.note(f"resumed at {format_bytes(there.total)}")
            self._resumed = there.total
            return notes, there
        if length:
            self._call.board.note("what is here is of another version of it; starting over")
        return self._fresh_notes(), Extents()

    def _start_over(self, source: Source, why: str) -> tuple[Notes, Extents]:
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            raise DownloadFailed(f"It was started over {_MOST_RESTARTS} times: {why}.")
        source.etags.clear()
        self._resumed = 0
        self._call.board.note(f"{why}; starting over")
        return self._fresh_notes(), Extents()

    def _repair(self, source: Source) -> bool:
        """Find and replace the bytes that are wrong; whether that was possible.

        A second copy comes from another endpoint if there is one: an endpoint that has a damaged
        file would give the same again.
        """
        self._call.board.note("the sha256 is wrong: comparing with a second copy")
        turns = range(len(self._call.access.endpoints))
        problem: HubError | NotFound | None = None
        for turn in (*turns[1:], *turns[:1]):
            source.start_with(turn)
            try:
                if self._compare(source):
                    return True
                problem = None
            except (HubError, NotFound) as error:
                problem = error
        if problem is not None:
            raise problem
        return False

    def _compare(self, source: Source) -> bool:
        wanted, conditions = self._wanted, self._call.conditions
        part = Part(wanted.size_bytes, Extents([(0, wanted.size_bytes)]))
        repair = Repair(
            self._part_path,
            part,
            Fetcher(source, conditions, part.closed),
            sha256=wanted.sha256 or "",
            chunk_bytes=journal.chunk_size(wanted.size_bytes),
            open_part=conditions.open_part,
        )

        def work() -> None:
            repair.run()
            part.close()

        with running([Lane(part, "repair", work)], part, source):
            while not part.closed.wait(conditions.tick_s):
                self._call.check_stop()
                self._call.board.show(repair.compared, source.received)
        if part.failure is not None:
            raise part.failure
        return repair.right

    def _leave_nothing_empty(self) -> None:
        """When nothing came, leave nothing."""
        with contextlib.suppress(OSError):
            empty = not self._part_path.exists() or not self._part_path.stat().st_size
            if empty and self._wanted.size_bytes:
                self._clear_away()

    def _clear_away(self) -> None:
        """Remove what is of no use beside the complete file; what stays does no harm."""
        for path in (self._part_path, notes_of(self._wanted.path), lock_of(self._wanted.path)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _fresh_notes(self) -> Notes:
        wanted = self._wanted
        return Notes(
            repo=wanted.repo,
            commit=wanted.commit,
            file=wanted.name,
            size_bytes=wanted.size_bytes,
            sha256=wanted.sha256,
            chunk_bytes=journal.chunk_size(wanted.size_bytes),
        )

    def _wrong(self, sha256: str) -> str:
        return (
            f"Its sha256 is {sha256[:16]}... and the repository lists"
            f" {(self._wanted.sha256 or '')[:16]}...; a second copy did not help, so the server has"
            f" another file. To start from nothing, delete {printable(self._part_path)}."
        )


class _Reading:
    """Shows how far a file has been read, and ends that when the call ends."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._read = 0

    def __call__(self, came: int) -> None:
        self._call.check_stop()
        self._read += came
        self._call.board.show(self._read, 0)
