"""The library's own hard links: a second name for a file, which costs no space and keeps the
bytes when the first name is deleted."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from localllm.errors import StoreError
from localllm.library import disk, names
from localllm.library.installed import Part
from localllm.library.names import shown

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
        raise StoreError(f"{shown(directory)} cannot be made: {error.strerror}.") from error
    targets = next(each for each in _targets(directory, name, len(parts)) if _free(each, parts))
    made: list[Path] = []
    try:
        for part, target in zip(parts, targets, strict=True):
            if not target.exists():
                _link(part.path, target)
                made.append(target)
        disk.sync_directory(directory)
    except OSError as error:
        for target in made:
            with contextlib.suppress(OSError):
                target.unlink()
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{shown(directory)} cannot be written: {error.strerror}.") from error
    return tuple(replace(part, path=target) for part, target in zip(parts, targets, strict=True))


def delete(parts: tuple[Part, ...]) -> int:
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
                f"{shown(part.path)} cannot be deleted: {error.strerror}. If a model is loaded"
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
            f"{shown(source)} cannot be linked into {shown(target.parent)}: {reason}. Import it"
            " where it is (without --link)."
        ) from error
