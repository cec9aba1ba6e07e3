"""A model on the disk: what was recorded of its files, and what they look like now.

The bottom of the store: values without an index, so that everything that shows or loads a model
can import them.
"""

import errno
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localllm.library.files.names import printable

_MTIME_TOLERANCE_NS = 2_000_000_000
"""FAT stores times in steps of two seconds, and a system that has the file cached shows finer
ones until it forgets them: a smaller difference proves nothing."""


class FileState(StrEnum):
    """The result of comparing files with what was recorded of them."""

    OK = "ok"
    MISSING = "missing"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFile:
    """One file of a model, as it was when it was recorded.

    `mtime_ns` None: the time is not compared. `damaged`: its SHA-256 was not `sha256` when it was
    last hashed.
    """

    path: Path
    size_bytes: int
    mtime_ns: int | None = None
    sha256: str | None = None
    damaged: bool = False

    @classmethod
    def from_stat(cls, path: Path, status: os.stat_result) -> "InstalledFile":
        """Record a file as it is now."""
        return cls(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)

    def check(self) -> tuple[FileState, str]:
        """Compare the file with what was recorded; the text says what is wrong with it."""
        try:
            now = self.path.stat()
        except (OSError, ValueError) as error:
            return FileState.MISSING, _unreachable(self.path, error)
        if not stat.S_ISREG(now.st_mode):
            return FileState.CHANGED, f"{printable(self.path)} is not a file any more"
        if now.st_size != self.size_bytes:
            return FileState.CHANGED, (
                f"{printable(self.path)} was replaced: it has {now.st_size} bytes and had"
                f" {self.size_bytes} when it was recorded"
            )
        if self.mtime_ns is not None and abs(now.st_mtime_ns - self.mtime_ns) > _MTIME_TOLERANCE_NS:
            return FileState.CHANGED, (
                f"{printable(self.path)} was replaced or written to since it was recorded"
                " (same size, another modification time)"
            )
        if self.damaged:
            return FileState.CHANGED, (
                f"{printable(self.path)} is damaged: when it was last verified its SHA-256 was not"
                f" {self.sha256}"
            )
        return FileState.OK, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """One model on the disk.

    `source` is where it came from ("starter", "import", "hub:org/repo@commit", "ollama:name:tag",
    "lm-studio:org/repo", "llama.cpp:file"; "path" for a file that was named and is not in the
    library). `path` is the first file of a split model, `size_bytes` the sum of all its `parts`.
    `mmproj` is its mmproj file (vision, audio), counted apart: the model answers text without it,
    so `state` ignores it. `sha256` is None until it is known, `verified_at` (ISO 8601, UTC) until
    the files were hashed; the parts of a split model have a digest each and the model has none.
    `owned` is true when the files are the library's own: downloads and hard links. The files may
    have been moved or replaced since they were recorded: see `state`.
    """

    name: str
    quant: str | None
    path: Path
    size_bytes: int
    sha256: str | None = None
    license: str | None = None
    source: str = "import"
    verified_at: str | None = None
    parts: tuple[InstalledFile, ...] = ()
    owned: bool = False
    mmproj: InstalledFile | None = None

    @property
    def files(self) -> tuple[InstalledFile, ...]:
        """Every file of the model itself; one, unless it is split."""
        if self.parts:
            return self.parts
        return (InstalledFile(path=self.path, size_bytes=self.size_bytes, sha256=self.sha256),)

    @property
    def all_files(self) -> tuple[InstalledFile, ...]:
        """The files of the model and its mmproj file."""
        return (*self.files, self.mmproj) if self.mmproj else self.files

    @property
    def state(self) -> FileState:
        """The state of the first file that is not as it was recorded, else OK."""
        return self._check()[0]

    @property
    def intact(self) -> bool:
        """True when every file, the mmproj's too, is as it was recorded."""
        return all(file.check()[0] is FileState.OK for file in self.all_files)

    @property
    def problem(self) -> str | None:
        """The fault of the files, as a sentence without its end; None when they are fine."""
        return self._check()[1] or None

    @property
    def missing(self) -> bool:
        """True when a file is not where it was."""
        return self.state is FileState.MISSING

    def _check(self) -> tuple[FileState, str]:
        for file in self.files:
            state, problem = file.check()
            if state is not FileState.OK:
                return state, problem
        return FileState.OK, ""


def _unreachable(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"{printable(path)} cannot be reached ({error.strerror})"
    return f"{printable(path)} is not there any more: it was moved, renamed or deleted"
