"""Downloading: the files of one call, one after the other."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from localllm.core.units import format_bytes
from localllm.errors import DownloadFailed, StoreError, UsageError
from localllm.library.download.context import Call, available
from localllm.library.download.file_download import SingleDownload
from localllm.library.download.journal import part_of
from localllm.library.download.progress import Board
from localllm.library.download.target import (
    MAX_CONNECTIONS,
    Conditions,
    Downloaded,
    DownloadTarget,
    Progress,
)
from localllm.library.files.names import printable
from localllm.library.http.client import Access


def _silent(_: Progress) -> None:
    pass


def download(
    wanted: Sequence[DownloadTarget],
    access: Access,
    *,
    connections: int = 1,
    on_progress: Callable[[Progress], None] = _silent,
    stop: threading.Event | None = None,
    conditions: Conditions | None = None,
) -> tuple[Downloaded, ...]:
    """Bring files to their places, complete and verified; go on with what is there of them.

    Blocks; `on_progress` is called in the calling thread, at most a few times a second. Each file
    gets its final name only when all of it is on the disk and its sha256 is the listed one. Ctrl+C
    and `stop` end it; whatever ends it, what came is kept and the same call goes on from there.

    Raises Offline when the network is switched off and something is missing, AccessDenied,
    NotFound, DownloadFailed (of which DownloadStopped), other HubError for an answer that leads
    where it should not, StoreError when the disk refuses, UsageError for unusable arguments.
    """
    if not 1 <= connections <= MAX_CONNECTIONS:
        raise UsageError(f"{connections} connections: give a number from 1 to {MAX_CONNECTIONS}.")
    if len({each.path for each in wanted}) != len(wanted):
        raise UsageError("Two files of one download have the same place.")
    stopped = stop or threading.Event()

    def check_stop() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    conditions = conditions or Conditions()
    call = Call(
        access=access,
        connections=connections,
        conditions=conditions,
        board=Board(wanted, on_progress, conditions.clock),
        check_stop=check_stop,
    )
    _require_room(wanted, conditions)
    return tuple(SingleDownload(each, call).run() for each in wanted)


def _require_room(wanted: Sequence[DownloadTarget], conditions: Conditions) -> None:
    """Make the directories and see that all the files fit, counting what is there of them."""
    needed: dict[int, int] = {}
    for each in wanted:
        directory = each.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            device = directory.stat().st_dev
            needed[device] = needed.get(device, 0) + _missing(each)
            free = conditions.free_bytes(directory)
        except OSError as error:
            raise StoreError(
                f"{printable(directory)} cannot be used: {error.strerror}. Choose another place."
            ) from error
        if needed[device] > free:
            raise DownloadFailed(_no_room(directory, needed[device], free))


def _missing(wanted: DownloadTarget) -> int:
    """How many bytes a file will yet take on the disk."""
    if wanted.path.is_file() and wanted.path.stat().st_size == wanted.size_bytes:
        return 0  # if it is another file after all, the disk says so when it is full
    part = part_of(wanted.path)
    if (there := available(wanted)) or not part.is_file():
        return wanted.size_bytes - there
    return max(0, wanted.size_bytes - part.stat().st_size)  # it is overwritten


def _no_room(directory: Path, needed: int, free: int) -> str:
    return (
        f"At least {format_bytes(needed)} more is needed in {printable(directory)} and"
        f" {format_bytes(free)} is free there. Nothing was downloaded. Make room (localllm rm) or"
        " choose another place (--dest)."
    )
