"""One file of a download, from its lock to its final name.

The states, and what leads from one to the next:

    waiting    another process has the lock; poll it, and show its progress
    present    a file with the listed checksum is in its place: done, nothing is requested
    resuming   read the journal; keep the bytes that it vouches for, or none
    bringing   a Transfer fetches and hashes; RestartRequired (another ETag, no ranges) goes back
               to resuming with no bytes, at most three times
    repairing  the checksum is wrong: compare with a second copy, once per file
    renaming   sync, rename, sync the directory; delete journal and lock

KeyboardInterrupt, a lost network and OSError leave every state but `renaming` with the part file
and its journal in place. A part file without bytes is deleted, so that a failed request leaves
nothing.
"""

import contextlib
import os
import threading

from localllm.core.units import format_bytes
from localllm.errors import DownloadFailed, HubError, NotFound, StoreError
from localllm.library.download import journal
from localllm.library.download.context import DownloadContext, resume_hints
from localllm.library.download.extents import Extents
from localllm.library.download.fetch import RangeFetcher
from localllm.library.download.http_source import HttpSource
from localllm.library.download.journal import Journal
from localllm.library.download.part_file import DownloadThread, PartFile, RestartRequired
from localllm.library.download.repair import Repair
from localllm.library.download.target import (
    DownloadedFile,
    DownloadTarget,
    journal_path,
    lock_path,
    part_path,
)
from localllm.library.download.transfer import Transfer, running
from localllm.library.files import atomic_write
from localllm.library.files.checksum import sha256_of
from localllm.library.files.file_lock import LockHeld, locked
from localllm.library.files.names import printable

_MAX_RESTARTS = 3
_LOCK_POLL_S = 0.3
_SIZE_POLL_S = 0.2
_SIZE_POLLS = 25
"""NFS clients remember attributes for 3 s at first (acregmin)."""


class FileDownload:
    """Brings one file to its place. Runs once, in the calling thread."""

    def __init__(self, target: DownloadTarget, context: DownloadContext) -> None:
        self._target = target
        self._context = context
        self._part_path = part_path(target.path)
        self._resumed_bytes = 0
        self._restarts = 0

    def run(self) -> DownloadedFile:
        """Download the file unless it is present; wait while another process does.

        Raises what `download` does.
        """
        self._context.meter.begin(self._target.name)
        with resume_hints(self._target):
            # Before the lock: a file may be present on a read-only disk, where no lock can be made.
            if self._is_present():
                return self._result(self._target.sha256 or "", 0)
            while True:
                with contextlib.ExitStack() as stack:
                    try:
                        stack.enter_context(locked(lock_path(self._target.path), wait_s=0))
                    except LockHeld as held:
                        self._await_other_process(held)
                        continue
                    return self._run_locked()

    def _run_locked(self) -> DownloadedFile:
        try:
            return self._bring()
        except FileNotFoundError as error:
            # Only where the file system's locks keep nobody out: whoever came first is done.
            if self._is_present():
                self._context.meter.set_message("another localllm has brought it")
                return self._result(self._target.sha256 or "", 0)
            raise StoreError(
                f"Another program took {printable(self._part_path.name)} away while it was being"
                f" written, and {printable(self._target.path)} is not complete. Let one process"
                " download at a time, then give the same command again."
            ) from error

    def _bring(self) -> DownloadedFile:
        with contextlib.ExitStack() as stack:
            stack.callback(self._delete_if_empty)
            self._look_afresh()
            if self._is_present():  # the process that had the lock has finished it
                self._delete_leftovers()
                return self._result(self._target.sha256 or "", 0)
            stall_s = self._context.options.stall_s
            source = HttpSource(self._target, self._context.access, stall_s=stall_s)
            stack.callback(source.close)
            sha256 = self._complete_part(source)
        # In this order a power cut leaves either the part file or the whole file under its name.
        journal.sync_file(self._part_path)
        atomic_write.rename(
            self._part_path, self._target.path, lambda: journal.has_final_size(self._target)
        )
        atomic_write.sync_directory(self._target.path.parent)
        self._await_final_size()
        self._delete_leftovers()
        return self._result(sha256, source.received_bytes)

    def _look_afresh(self) -> None:
        """Make a network file system ask its server which names there are.

        It remembers for a while that a file was not there; opening its directory ends that.
        """
        with contextlib.suppress(OSError):
            os.listdir(self._target.path.parent)  # noqa: PTH208

    def _await_final_size(self) -> None:
        """Wait until the file is seen with its size: a network file system may show it late.

        Raises StoreError when it is not by then.
        """
        for _ in range(_SIZE_POLLS):
            if journal.has_final_size(self._target):
                return
            self._look_afresh()
            self._context.options.wait(threading.Event(), _SIZE_POLL_S)
        raise StoreError(
            f"{printable(self._target.path)} was written and renamed, and its file system does not"
            f" show it with its {self._target.size_bytes} bytes. If it is a network drive, give the"
            " same command again later, or set LOCALLLM_DATA_DIR to a local disk."
        )

    def _result(self, sha256: str, received: int) -> DownloadedFile:
        self._context.meter.finish(self._target.size_bytes, received)
        return DownloadedFile(
            path=self._target.path,
            size_bytes=self._target.size_bytes,
            sha256=sha256,
            resumed_from=self._resumed_bytes,
            transferred_bytes=received,
        )

    def _await_other_process(self, held: LockHeld) -> None:
        """Show the progress of the process that has the lock, and wait a moment."""
        self._context.check_stop()
        self._context.meter.update(journal.resumable_bytes(self._target), 0)
        who = f" ({held.holder})" if held.holder else ""
        self._context.meter.set_message(f"waiting for another localllm{who}")
        self._context.options.wait(threading.Event(), _LOCK_POLL_S)

    def _is_present(self) -> bool:
        """Tell whether the file is in its place with the listed checksum.

        False for a file without a listed checksum: its size alone does not prove the commit.
        """
        target, meter = self._target, self._context.meter
        if target.path.is_dir():
            raise StoreError(f"{printable(target.path)} is a directory: nothing can be put there.")
        if target.sha256 is None or not target.path.is_file():
            return False
        if target.path.stat().st_size == target.size_bytes:
            meter.set_message("checking what is here")
            if sha256_of(target.path, on_read=_HashProgress(self._context)) == target.sha256:
                self._resumed_bytes = target.size_bytes
                return True
        meter.set_message("another file is here; it is replaced when this one is complete")
        return False

    def _complete_part(self, source: HttpSource) -> str:
        """Bring all bytes into the part file and verify them; return their SHA-256."""
        known, usable = self._resume()
        # The server must still have the file whose first bytes are here: `If-Range` asks for it.
        if known.endpoint is not None and known.etag is not None:
            source.etags[known.endpoint] = known.etag
        repair_tried = False
        while True:
            try:
                known, sha256 = Transfer(self._target, self._context, source, known, usable).run()
                if self._target.sha256 is None or sha256 == self._target.sha256:
                    return sha256
                if repair_tried:  # a fault that comes again is the server's
                    raise DownloadFailed(self._wrong_checksum(sha256))
                repair_tried = True
                if self._repair(source):
                    return self._target.sha256
                raise DownloadFailed(self._wrong_checksum(sha256))
            except RestartRequired as reason:  # also from a repair: a server without ranges
                known, usable = self._restart(source, str(reason))

    def _resume(self) -> tuple[Journal, Extents]:
        """Read what earlier runs left: the journal, and the bytes that can be trusted."""
        known = journal.read(journal_path(self._target.path))
        length = self._part_path.stat().st_size if self._part_path.exists() else 0
        if known is not None and known.describes(self._target):
            usable = known.usable(boot=journal.boot_id(), length=length)
            if usable.total:
                self._context.meter.set_message(f"resumed at {format_bytes(usable.total)}")
            self._resumed_bytes = usable.total
            return known, usable
        if length:
            self._context.meter.set_message(
                "what is here is of another version of it; starting over"
            )
        return journal.new_journal(self._target), Extents()

    def _restart(self, source: HttpSource, reason: str) -> tuple[Journal, Extents]:
        """Begin again with no bytes. Raises DownloadFailed after `_MAX_RESTARTS` times."""
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise DownloadFailed(f"It was started over {_MAX_RESTARTS} times: {reason}.")
        source.etags.clear()
        self._resumed_bytes = 0
        self._context.meter.set_message(f"{reason}; starting over")
        return journal.new_journal(self._target), Extents()

    def _repair(self, source: HttpSource) -> bool:
        """Find and replace the wrong bytes; return true when the checksum is right then.

        The second copy comes from another endpoint if there is one: an endpoint with a damaged file
        would give the same again.
        """
        self._context.meter.set_message("the sha256 is wrong: comparing with a second copy")
        indices = range(len(self._context.access.endpoints))
        failure: HubError | NotFound | None = None
        # The first endpoint last: as a rule the damaged bytes came from it.
        for index in (*indices[1:], *indices[:1]):
            source.use_endpoint(index)
            try:
                if self._repair_from(source):
                    return True
                failure = None
            except (HubError, NotFound) as error:
                failure = error
        if failure is not None:
            raise failure
        return False

    def _repair_from(self, source: HttpSource) -> bool:
        target, options = self._target, self._context.options
        part = PartFile(target.size_bytes, Extents([(0, target.size_bytes)]))
        repair = Repair(
            self._part_path,
            part,
            RangeFetcher(source, options, part.closed),
            sha256=target.sha256 or "",
            chunk_bytes=journal.chunk_size(target.size_bytes),
            open_part=options.open_part,
        )

        def work() -> None:
            repair.run()
            part.close()

        with running([DownloadThread(part, "repair", work)], part, source):
            while not part.closed.wait(options.tick_s):
                self._context.check_stop()
                self._context.meter.update(repair.compared_bytes, source.received_bytes)
        if part.failure is not None:
            raise part.failure
        return repair.succeeded

    def _delete_if_empty(self) -> None:
        """Delete part file, journal and lock when no byte came."""
        with contextlib.suppress(OSError):
            empty = not self._part_path.exists() or not self._part_path.stat().st_size
            if empty and self._target.size_bytes:
                self._delete_leftovers()

    def _delete_leftovers(self) -> None:
        """Delete the files beside the target; one that cannot be deleted does no harm."""
        path = self._target.path
        for leftover in (self._part_path, journal_path(path), lock_path(path)):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)

    def _wrong_checksum(self, sha256: str) -> str:
        return (
            f"Its sha256 is {sha256[:16]}... and the repository lists"
            f" {(self._target.sha256 or '')[:16]}...; a second copy did not help, so the server has"
            f" another file. To start from nothing, delete {printable(self._part_path)}."
        )


class _HashProgress:
    """Shows the bytes of a file that were hashed, and ends that when the call ends."""

    def __init__(self, context: DownloadContext) -> None:
        self._context = context
        self._hashed = 0

    def __call__(self, count: int) -> None:
        self._context.check_stop()
        self._hashed += count
        self._context.meter.update(self._hashed, 0)
