"""One model on disk: what was recorded of it, and what its files look like now."""

import errno
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from localllm.library.files.names import printable

_MTIME_GRAIN_NS = 2_000_000_000
"""FAT stores times in steps of two seconds, and a system that has the file cached shows finer
ones until it forgets them: a smaller difference says nothing."""


class State(StrEnum):
    """What became of a model's files since they were recorded."""

    OK = "ok"
    MISSING = "missing"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a model, as it was when it was recorded. `mtime_ns` None: not compared;
    `damaged`: its bytes were not those of `sha256` when they were last hashed."""

    path: Path
    size_bytes: int
    mtime_ns: int | None = None
    sha256: str | None = None
    damaged: bool = False

    def look(self) -> tuple[State, str]:
        """Compare the file with what was recorded; the text says what is wrong with it."""
        try:
            now = self.path.stat()
        except (OSError, ValueError) as error:
            return State.MISSING, _unreachable(self.path, error)
        if not stat.S_ISREG(now.st_mode):
            return State.CHANGED, f"{printable(self.path)} is not a file any more"
        if now.st_size != self.size_bytes:
            return State.CHANGED, (
                f"{printable(self.path)} was replaced: it has {now.st_size} bytes and had"
                f" {self.size_bytes} when it was recorded"
            )
        if self.mtime_ns is not None and abs(now.st_mtime_ns - self.mtime_ns) > _MTIME_GRAIN_NS:
            return State.CHANGED, (
                f"{printable(self.path)} was replaced or written to since it was recorded"
                " (same size, another modification time)"
            )
        if self.damaged:
            return State.CHANGED, (
                f"{printable(self.path)} is damaged: when it was last verified its SHA-256 was not"
                f" {self.sha256}"
            )
        return State.OK, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """One model on disk.

    `source` says where it came from ("starter", "import", "hub:org/repo@commit", "ollama:name:tag",
    "lm-studio:org/repo", "llama.cpp:file"; "path" for a file that was named and is not in the
    library). `path` is the first file of a split model, `size_bytes` the sum of all its `parts`;
    `mmproj` is its mmproj file (what sees or hears), counted apart: the model answers text
    without it, so that `state` does not look at it.
    `sha256` is None until it is known, `verified_at` (ISO 8601, UTC) until the files were hashed;
    the parts of a split model have a digest each and the model has none. `owned` is true when the
    files are the library's own: downloads and hard links. The files may have been moved or
    replaced since: see `state`.
    """

    name: str
    quant: str | None
    path: Path
    size_bytes: int
    sha256: str | None = None
    license: str | None = None
    source: str = "import"
    verified_at: str | None = None
    parts: tuple[Part, ...] = ()
    owned: bool = False
    mmproj: Part | None = None

    @property
    def files(self) -> tuple[Part, ...]:
        """Every file of the model itself; one, unless it is split."""
        return self.parts or (Part(path=self.path, size_bytes=self.size_bytes, sha256=self.sha256),)

    @property
    def all_files(self) -> tuple[Part, ...]:
        """The files of the model and that of its encoder."""
        return (*self.files, self.mmproj) if self.mmproj else self.files

    @property
    def state(self) -> State:
        """What became of the files: the first that is not as it was decides."""
        return self._look()[0]

    @property
    def whole(self) -> bool:
        """Whether every file, its encoder's too, is as it was recorded."""
        return all(part.look()[0] is State.OK for part in self.all_files)

    @property
    def problem(self) -> str | None:
        """What is wrong with the files, as a sentence without its end; None when they are fine."""
        return self._look()[1] or None

    @property
    def missing(self) -> bool:
        return self.state is State.MISSING

    def _look(self) -> tuple[State, str]:
        for part in self.files:
            state, problem = part.look()
            if state is not State.OK:
                return state, problem
        return State.OK, ""


def of_file(status: os.stat_result, path: Path, *, sha256: str | None = None) -> Part:
    """Record a file as it is now."""
    return Part(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256)


def _unreachable(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"{printable(path)} cannot be reached ({error.strerror})"
    return f"{printable(path)} is not there any more: it was moved, renamed or deleted"
