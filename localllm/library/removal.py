"""What leaves the disk when a model leaves the library: its own files that nothing else uses."""

import contextlib
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localllm.library import disk, links, paths
from localllm.library.installed import InstalledModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed. `deleted` are files of ours that are gone, `kept` those that another model
    uses, and its name; `freed_bytes` is 0 for files that were left or have another name."""

    model: InstalledModel
    freed_bytes: int
    deleted: tuple[Path, ...] = ()
    kept: tuple[tuple[Path, str], ...] = ()


def delete(model: InstalledModel, others: Iterable[InstalledModel], data: Path) -> Removed:
    """Delete the files of a model that are the library's own, what is left of their downloads and
    folders that this empties. A file outside the library is never touched. Raises StoreError.
    """
    if not model.owned:
        return Removed(model=model, freed_bytes=0)
    used = {_real(part.path): other.name for other in others for part in other.all_files}
    doomed = {part.path: part for part in model.all_files if _real(part.path) not in used}
    there = tuple(path for path in doomed if os.path.lexists(path))
    freed_bytes = links.delete(tuple(doomed.values()))
    freed_bytes += sum(_delete_leftovers(path) for path in doomed)
    for path in doomed:
        _prune(path.parent, paths.hub_dir(data))
    return Removed(
        model=model,
        freed_bytes=freed_bytes,
        deleted=there,
        kept=tuple(
            (part.path, used[_real(part.path)])
            for part in model.all_files
            if part.path not in doomed
        ),
    )


def _delete_leftovers(path: Path) -> int:
    """Delete what an unfinished download of a file left, unless one is running; the bytes that
    this freed."""
    from localllm.library.download import notes  # its imports are not for every verb

    torn = path.parent.glob(f"{glob.escape(notes.notes_of(path).name)}.*.tmp")
    left = [notes.part_of(path), notes.notes_of(path), *torn, notes.lock_of(path)]
    freed_bytes = 0
    if not any(each.exists() for each in left):
        return 0
    with contextlib.suppress(OSError), disk.locked(left[-1], wait_s=0.0):
        for each in left:
            with contextlib.suppress(FileNotFoundError):
                freed_bytes += _on_disk_bytes(each)
                each.unlink()
    return freed_bytes


def _on_disk_bytes(path: Path) -> int:
    """What a file takes, as far as the system says: a download with gaps takes less than its
    length."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


def _prune(folder: Path, root: Path) -> None:
    """Remove folders that became empty, below `root`."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _real(path: Path) -> str:
    return os.path.realpath(path)
