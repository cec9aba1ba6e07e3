"""What is asked of the downloader, and what it says and gives back."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from localllm.library.download.retry_policy import Patience

MAX_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTarget:
    """One file of a repository, and its final place (the store chooses it).

    `sha256` is the one that the repository lists; None for small files that it keeps without one:
    of these only the size is verified.
    """

    repo: str
    commit: str
    name: str
    size_bytes: int
    sha256: str | None
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a download. Bytes are totals over all the files of one call.

    `done_bytes` counts what is on the disk, also from earlier runs; `rate_bytes_per_s` only what
    comes over the network now. `note` says what is not plain progress: "resumed at 3.2 GiB",
    "stalled, reconnecting", "waiting for another localllm", "checking what is here".
    """

    file: str
    done_bytes: int
    total_bytes: int
    rate_bytes_per_s: float | None
    remaining_s: float | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A file that is complete, verified and in its place.

    `sha256` was computed from what is on the disk. `resumed_from` is how many bytes were there
    from earlier runs, `transferred_bytes` how many came now (repairs included).
    """

    path: Path
    size_bytes: int
    sha256: str
    resumed_from: int
    transferred_bytes: int


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _open_for_writing(path: Path) -> FileIO:
    return FileIO(path, "r+")


def _wait(stop: threading.Event, seconds: float) -> bool:
    return stop.wait(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the world is like; tests make it worse.

    A connection that brings fewer than `stall_bytes` in `stall_s` is opened again. `checkpoint_*`
    is how much may come, and how long it may take, before what came is forced to the disk.
    `piece_bytes` is what one of several connections asks for at a time. `wait(event, seconds)`
    waits for an event.
    """

    patience: Patience = field(default_factory=Patience)
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
