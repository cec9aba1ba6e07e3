"""The library's own hard links, and what leaves the disk when a model is removed.

A hard link is a second name for a file: it costs no space and keeps the bytes when the first name
is deleted. Only files of the library's own that nothing else uses are deleted.
"""

import contextlib
import errno
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.errors import StoreError
from localllm.library.files import atomic_write, names, paths
from localllm.library.files.names import printable
from localllm.library.store.installed import InstalledModel, Part

_REASONS = {
    errno.EXDEV: "they are on different file systems, and a hard link cannot cross from one to"
    " another",
    errno.EPERM: "the file system or the system's settings do not allow hard links to it",
    errno.EMLINK: "the file has as many hard links as its file system allows",
    errno.ENOTSUP: "the file system has no hard links",
}


def place(directory: Path, name: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Link the files of a model into `directory` and give back the parts at their new places.

    A file of another model that is there already is never replaced. Raises StoreError; then
    nothing was linked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{printable(directory)} cannot be made: {error.strerror}.") from error
    targets = next(each for each in _targets(directory, name, len(parts)) if _free(each, parts))
    made: list[Path] = []
    try:
        for part, target in zip(parts, targets, strict=True):
            if not target.exists():
                _link(part.path, target)
                made.append(target)
        atomic_write.sync_directory(directory)
    except OSError as error:
        for target in made:
            with contextlib.suppress(OSError):
                target.unlink()
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{printable(directory)} cannot be written: {error.strerror}.") from error
    return tuple(replace(part, path=target) for part, target in zip(parts, targets, strict=True))


def delete_links(parts: tuple[Part, ...]) -> int:
    """Delete hard links of ours; give back the bytes that this freed on the disk.

    None are freed where the file has another name somewhere. Raises StoreError.
    """
    freed_bytes = 0
    for part in parts:
        try:
            status = part.path.stat()
            part.path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(
                f"{printable(part.path)} cannot be deleted: {error.strerror}. If a model is loaded"
                " from it, unload it first."
            ) from error
        if status.st_nlink == 1:
            freed_bytes += status.st_size
    return freed_bytes


def _targets(directory: Path, name: str, count: int) -> Iterator[tuple[Path, ...]]:
    """File names for a model: its own name, then numbered ones."""
    for number in itertools.count(1):
        stem = name if number == 1 else f"{name}-{number}"
        if count == 1:
            yield (names.path_in(directory, stem),)
            continue
        yield tuple(
            names.path_in(directory, names.split_name(stem, each, count, suffix=""))
            for each in range(1, count + 1)
        )


def _free(targets: tuple[Path, ...], parts: tuple[Part, ...]) -> bool:
    """Whether each name is unused or already is the file itself (a crash left the link)."""
    return all(
        not os.path.lexists(target) or (target.exists() and target.samefile(part.path))
        for target, part in zip(targets, parts, strict=True)
    )


def _link(source: Path, target: Path) -> None:
    try:
        # The link's target, not the link: os.link follows none on Linux (bpo-37612).
        target.hardlink_to(source.resolve())
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise StoreError(
            f"{printable(source)} cannot be linked into {printable(target.parent)}: {reason}."
            " Import it where it is (without --link)."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed. `deleted` are files of ours that are gone, `kept` those that another model
    uses, and its name; `freed_bytes` is 0 for files that were left or have another name."""

    model: InstalledModel
    freed_bytes: int
    deleted: tuple[Path, ...] = ()
    kept: tuple[tuple[Path, str], ...] = ()


def delete_model(model: InstalledModel, others: Iterable[InstalledModel], data: Path) -> Removed:
    """Delete the files of a model that are the library's own, what is left of their downloads and
    folders that this empties. A file outside the library is never touched. Raises StoreError.
    """
    if not model.owned:
        return Removed(model=model, freed_bytes=0)
    used = {_real(part.path): other.name for other in others for part in other.all_files}
    doomed = {part.path: part for part in model.all_files if _real(part.path) not in used}
    there = tuple(path for path in doomed if os.path.lexists(path))
    freed_bytes = delete_links(tuple(doomed.values()))
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
    from localllm.library.download import journal as notes  # its imports are not for every verb

    torn = path.parent.glob(f"{glob.escape(notes.notes_of(path).name)}.*.tmp")
    left = [notes.part_of(path), notes.notes_of(path), *torn, notes.lock_of(path)]
    freed_bytes = 0
    if not any(each.exists() for each in left):
        return 0
    with contextlib.suppress(OSError), atomic_write.locked(left[-1], wait_s=0.0):
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
