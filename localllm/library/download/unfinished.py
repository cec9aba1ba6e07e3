"""Downloads that were not finished: found by their journals, and deleted.

Cheap to import: deleting a model needs it without an HTTP client, and so does the start of the app.
"""

import contextlib
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from localllm.library.download.target import DownloadTarget, journal_path, lock_path, part_path
from localllm.library.files.file_lock import locked

_MAX_FOUND = 500
_SUFFIX = ".part.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedFile:
    """A file of a repository of which `done_bytes` came; `path` is its final place."""

    repo: str
    commit: str
    file: str
    size_bytes: int
    done_bytes: int
    path: Path


def unfinished_files(hub_dir: Path) -> tuple[UnfinishedFile, ...]:
    """Find the files that can go on, by the journals in the folder of downloads. Blocks."""
    try:
        journals = sorted(islice(hub_dir.rglob(f"*{_SUFFIX}"), _MAX_FOUND))
    except OSError:
        return ()
    return tuple(_read(journals))


def _read(journals: list[Path]) -> Iterator[UnfinishedFile]:
    from localllm.library.download import journal

    for each in journals:
        path = each.with_name(each.name.removesuffix(_SUFFIX))
        try:
            found = journal.read(each)
        except OSError:
            continue
        if found is None or not part_path(path).is_file():
            continue
        target = DownloadTarget(
            repo=found.repo,
            commit=found.commit,
            name=found.file,
            size_bytes=found.size_bytes,
            sha256=found.sha256,
            path=path,
        )
        yield UnfinishedFile(
            repo=found.repo,
            commit=found.commit,
            file=found.file,
            size_bytes=found.size_bytes,
            done_bytes=journal.resumable_bytes(target),
            path=path,
        )


def delete_unfinished(path: Path) -> int:
    """Delete what an unfinished download of a file left, unless one is running; return the bytes
    that this freed."""
    journal, lock = journal_path(path), lock_path(path)
    torn = path.parent.glob(f"{glob.escape(journal.name)}.*.tmp")
    leftovers = [part_path(path), journal, *torn, lock]
    freed_bytes = 0
    # Before the lock, which would create its file.
    if not any(each.exists() for each in leftovers):
        return 0
    with contextlib.suppress(OSError), locked(lock, wait_s=0.0):
        for each in leftovers:
            with contextlib.suppress(FileNotFoundError):
                freed_bytes += _on_disk_bytes(each)
                each.unlink()
    return freed_bytes


def _on_disk_bytes(path: Path) -> int:
    """Return a file's blocks on the disk: a sparse part file takes less than its length."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)
