"""Make and delete the library's own files: hard links, and the files of a removed model.

A hard link is a second name for a file: it costs no space and keeps the bytes when the first name
is deleted. The only module that deletes models; it deletes files of the library's own that no other
model uses, and nothing else.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.model.file_types import split_name
from localllm.errors import StoreError
from localllm.library.download.unfinished import delete_unfinished
from localllm.library.files import atomic_write, names, paths
from localllm.library.files.names import printable
from localllm.library.store.installed import InstalledFile, InstalledModel

_REASONS = {
    errno.EXDEV: "they are on different file systems, and a hard link cannot cross from one to"
    " another",
    errno.EPERM: "the file system or the system's settings do not allow hard links to it",
    errno.EMLINK: "the file has as many hard links as its file system allows",
    errno.ENOTSUP: "the file system has no hard links",
}


def link_files(
    directory: Path, name: str, parts: tuple[InstalledFile, ...]
) -> tuple[InstalledFile, ...]:
    """Link the files of a model into `directory`; return the parts at their new places.

    A file of another model that is there already is never replaced. Raises StoreError, and leaves
    no link then.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{printable(directory)} cannot be made: {error.strerror}.") from error
    targets = next(each for each in _targets(directory, name, len(parts)) if _usable(each, parts))
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


def delete_links(parts: tuple[InstalledFile, ...]) -> int:
    """Delete files of the library; return the bytes that this freed on the disk.

    A file with another hard link somewhere frees none. Raises StoreError.
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
        if status.st_nlink == 1:  # counted before the deletion: it was the last name
            freed_bytes += status.st_size
    return freed_bytes


def _targets(directory: Path, name: str, count: int) -> Iterator[tuple[Path, ...]]:
    """Yield file names for a model: its own name, then numbered ones."""
    for number in itertools.count(1):
        stem = name if number == 1 else f"{name}-{number}"
        if count == 1:
            yield (names.path_in(directory, stem),)
            continue
        yield tuple(
            names.path_in(directory, split_name(stem, each, count, suffix=""))
            for each in range(1, count + 1)
        )


def _usable(targets: tuple[Path, ...], parts: tuple[InstalledFile, ...]) -> bool:
    """Tell whether each name is unused, or is the file itself (a crash left the link)."""
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
class Removal:
    """The result of removing a model.

    `deleted` are the library's files that are gone, `still_used` those that another model uses,
    with its name. `freed_bytes` is 0 for files that were left or have another hard link.
    """

    model: InstalledModel
    freed_bytes: int
    deleted: tuple[Path, ...] = ()
    still_used: tuple[tuple[Path, str], ...] = ()


def delete_model(model: InstalledModel, others: Iterable[InstalledModel], data: Path) -> Removal:
    """Delete the library's own files of a model, with leftovers of downloads and emptied folders.

    A file outside the library is never touched. Raises StoreError.
    """
    if not model.owned:
        return Removal(model=model, freed_bytes=0)
    used = {_real(part.path): other.name for other in others for part in other.all_files}
    unused = {part.path: part for part in model.all_files if _real(part.path) not in used}
    existing = tuple(path for path in unused if os.path.lexists(path))
    freed_bytes = delete_links(tuple(unused.values()))
    freed_bytes += sum(delete_unfinished(path) for path in unused)
    for path in unused:
        _remove_empty_folders(path.parent, paths.hub_dir(data))
    return Removal(
        model=model,
        freed_bytes=freed_bytes,
        deleted=existing,
        still_used=tuple(
            (part.path, used[_real(part.path)])
            for part in model.all_files
            if part.path not in unused
        ),
    )


def _remove_empty_folders(folder: Path, root: Path) -> None:
    """Remove `folder` and its parents below `root` as far as they are empty."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _real(path: Path) -> str:
    return os.path.realpath(path)
