"""The files of a folder that can be indexed, and what is left out, counted by its reason.

Nothing is followed that leads out of the folder, nothing is opened but .gitignore files, and a
folder that changes meanwhile is no error.
"""

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from localllm.chat.documents.ignore_rules import IgnoreRules, is_ignored
from localllm.core.text import strip_controls
from localllm.errors import UsageError
from localllm.library.files.names import printable
from localllm.translation import N_, _

MAX_FILES = 20_000
MAX_TEXT_BYTES = 4 * 2**20
"""Of one text: a book has 1 MB. More is a log or data."""
MAX_PDF_BYTES = 256 * 2**20
_MAX_RULES_BYTES = 256 * 1024
_RULE_FILES = (".gitignore", ".ignore")  # .ignore: as ripgrep reads it

_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})
_NOT_TEXT = frozenset(
    {".7z", ".a", ".apk", ".avi", ".bin", ".bmp", ".bz2", ".class", ".dat", ".db", ".deb", ".dll",
     ".dmg", ".doc", ".docx", ".dylib", ".ear", ".eot", ".exe", ".flac", ".gguf", ".gif", ".gz",
     ".ico", ".iso", ".jar", ".jpeg", ".jpg", ".lib", ".m4a", ".mkv", ".mov", ".mp3", ".mp4",
     ".npy", ".npz", ".o", ".obj", ".ods", ".odp", ".odt", ".ogg", ".onnx", ".otf", ".parquet",
     ".pickle", ".pkl", ".png", ".ppt", ".pptx", ".pt", ".pyc", ".rar", ".rpm", ".safetensors",
     ".so", ".sqlite", ".tar", ".tgz", ".tif", ".tiff", ".ttf", ".war", ".wasm", ".wav", ".webm",
     ".webp", ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".xz", ".zip", ".zst"}
)  # fmt: skip


class Skipped(StrEnum):
    """Why a file is not in a collection. The values are what people read."""

    HIDDEN = N_("hidden")
    IGNORED = N_("left out by .gitignore")
    TOO_LARGE = N_("too large")
    NOT_TEXT = N_("neither text nor PDF")
    LINK = N_("links")
    UNREADABLE = N_("cannot be read")
    EMPTY = N_("empty")
    TOO_MANY = N_("beyond the first 20,000")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file to index: its path below the root with slashes, and how it stands on the disk."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderScan:
    """What a folder holds. A skipped folder counts as one."""

    files: tuple[FoundFile, ...]
    skipped: Mapping[Skipped, int] = field(default_factory=dict)


def scan_folder(root: Path, *, stopped: Callable[[], bool] = lambda: False) -> FolderScan:
    """Find the files below a folder, by path. `stopped` is asked often; what was found is
    returned then. Raises UsageError when the folder cannot be read."""
    scan = _Scan(stopped)
    try:
        os.scandir(root).close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            _("The folder {path} cannot be read: {reason}.").format(
                path=printable(root), reason=reason
            )
        ) from error
    found = sorted(scan.walk(root, "", ()), key=lambda each: each.path)
    if len(found) > MAX_FILES:
        scan.skipped[Skipped.TOO_MANY] += len(found) - MAX_FILES
    return FolderScan(files=tuple(found[:MAX_FILES]), skipped=dict(scan.skipped))


def skipped_sentence(skipped: Mapping[Skipped, int]) -> str:
    """Say what was left out: "12 hidden, 3 too large"; "" for nothing."""
    ordered = sorted(skipped.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {_(reason.value)}" for reason, count in ordered if count)


class _Scan:
    def __init__(self, stopped: Callable[[], bool]) -> None:
        self.skipped: Counter[Skipped] = Counter()
        self._stopped = stopped

    def walk(self, folder: Path, base: str, outer: tuple[IgnoreRules, ...]) -> Iterator[FoundFile]:
        """Yield the files below a folder, whose path below the root is `base`."""
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            self.skipped[Skipped.UNREADABLE] += 1
            return
        rules = (*_rules_in(folder, base, {entry.name for entry in entries}), *outer)
        for entry in entries:
            if self._stopped():
                return
            path = base + entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                reason = self._reason(entry, path, rules, is_folder=is_folder)
                if reason is not None:
                    self.skipped[reason] += 1
                elif is_folder:
                    yield from self.walk(folder / entry.name, f"{path}/", rules)
                else:
                    status = entry.stat(follow_symlinks=False)
                    yield FoundFile(
                        path=path, size_bytes=status.st_size, modified_ns=status.st_mtime_ns
                    )
            except OSError:  # gone meanwhile
                self.skipped[Skipped.UNREADABLE] += 1
            except RecursionError:  # a thousand folders in each other
                self.skipped[Skipped.UNREADABLE] += 1

    def _reason(
        self,
        entry: os.DirEntry[str],
        path: str,
        rules: tuple[IgnoreRules, ...],
        *,
        is_folder: bool,
    ) -> Skipped | None:
        name = entry.name
        if name.startswith("."):
            return Skipped.HIDDEN
        if name != strip_controls(name) or "\n" in name:  # bytes that are no text, or escapes
            return Skipped.UNREADABLE
        if entry.is_symlink() or _is_junction(entry):
            return Skipped.LINK
        if is_folder and name in _SKIPPED_FOLDERS:
            return Skipped.IGNORED
        if is_ignored(path, rules, is_folder=is_folder):
            return Skipped.IGNORED
        return None if is_folder else _file_reason(entry)


def _is_junction(entry: os.DirEntry[str]) -> bool:
    if sys.platform != "win32":
        return False
    tag = entry.stat(follow_symlinks=False).st_reparse_tag
    return tag == stat.IO_REPARSE_TAG_MOUNT_POINT


def _file_reason(entry: os.DirEntry[str]) -> Skipped | None:
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or suffix in _NOT_TEXT:
        return Skipped.NOT_TEXT
    if status.st_size == 0:
        return Skipped.EMPTY
    limit = MAX_PDF_BYTES if suffix == ".pdf" else MAX_TEXT_BYTES
    return Skipped.TOO_LARGE if status.st_size > limit else None


def _rules_in(folder: Path, base: str, names: set[str]) -> Iterator[IgnoreRules]:
    for name in reversed(_RULE_FILES):
        if name not in names:
            continue
        try:
            with (folder / name).open("rb") as file:
                text = file.read(_MAX_RULES_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        yield IgnoreRules.parse(text, base)
