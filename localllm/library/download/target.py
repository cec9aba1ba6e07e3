"""The inputs and results of a download, and the files that it keeps beside its target.

The bottom of the package, and cheap to import: deleting a model needs to know these paths without
loading an HTTP client.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from localllm.library.http.retry_policy import RetryPolicy

MAX_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTarget:
    """One file of a repository, and its final place (the store chooses it).

    `sha256` is the checksum that the repository lists; None for a small file that it keeps without
    one (not in LFS): of these only the size is verified.
    """

    repo: str
    commit: str
    name: str
    size_bytes: int
    sha256: str | None
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadedFile:
    """A file that is complete, verified and in its place.

    `sha256` was computed from the bytes on the disk. `resumed_from` is the number of bytes that
    earlier runs had left, `transferred_bytes` what came over the network now, repairs included.
    """

    path: Path
    size_bytes: int
    sha256: str
    resumed_from: int
    transferred_bytes: int


def part_path(path: Path) -> Path:
    """Return the place of a file's bytes while it is incomplete."""
    return path.with_name(f"{path.name}.part")


def journal_path(path: Path) -> Path:
    """Return the place of the journal of an incomplete file."""
    return path.with_name(f"{path.name}.part.json")


def lock_path(path: Path) -> Path:
    """Return the file that is locked by the process that downloads `path`."""
    return path.with_name(f"{path.name}.part.lock")


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _open_for_writing(path: Path) -> FileIO:
    return FileIO(path, "r+")


def _wait(stop: threading.Event, seconds: float) -> bool:
    return stop.wait(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """Retries, limits and intervals of a download, and the system calls that tests replace.

    A connection that brings fewer than `stall_bytes` in `stall_s` is opened again. At most
    `checkpoint_bytes`, and those of `checkpoint_s`, are not yet forced to the disk. `piece_bytes`
    is the longest range that one of several connections requests at a time. `tick_s` is how often
    the calling thread looks after the others. `wait(event, seconds)` waits for an event.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    stall_bytes: int = 256 * 2**10
    stall_s: float = 30.0
    tick_s: float = 0.05
    checkpoint_bytes: int = 128 * 2**20
    checkpoint_s: float = 5.0
    piece_bytes: int = 32 * 2**20
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], bool] = _wait
    free_bytes: Callable[[Path], int] = _free_bytes
    open_part: Callable[[Path], FileIO] = _open_for_writing
