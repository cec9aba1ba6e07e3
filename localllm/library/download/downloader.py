"""The entry point: download the files of one call, one after the other.

One file at a time: the connections divide a file, so that a call that ends early leaves one
incomplete file and not several.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from localllm.core.units import format_bytes
from localllm.errors import DiskFull, StoreError, UsageError
from localllm.library.download.context import DownloadContext
from localllm.library.download.file_download import FileDownload
from localllm.library.download.journal import has_final_size, resumable_bytes
from localllm.library.download.progress import Progress, ProgressMeter
from localllm.library.download.target import (
    MAX_CONNECTIONS,
    DownloadedFile,
    DownloadOptions,
    DownloadTarget,
    part_path,
)
from localllm.library.files.names import printable
from localllm.library.http.client import Access


def _ignore(_: Progress) -> None:
    pass


def download(
    targets: Sequence[DownloadTarget],
    access: Access,
    *,
    connections: int = 1,
    on_progress: Callable[[Progress], None] = _ignore,
    stop: threading.Event | None = None,
    options: DownloadOptions | None = None,
) -> tuple[DownloadedFile, ...]:
    """Download files to their places, complete and verified; resume what is there of them.

    Blocks; `on_progress` is called in the calling thread, at most a few times a second. Each file
    gets its final name only when all of it is on the disk and its SHA-256 is the listed one. Ctrl+C
    and `stop` end it; whatever ends it, what came stays and the same call goes on from there.

    Raises Offline when the network is switched off and something is missing, AccessDenied,
    NotFound, DownloadFailed (of which DownloadStopped), other HubError for a response that leads
    where it should not, StoreError when the disk refuses, UsageError for unusable arguments.
    """
    if not 1 <= connections <= MAX_CONNECTIONS:
        raise UsageError(f"{connections} connections: give a number from 1 to {MAX_CONNECTIONS}.")
    if len({target.path for target in targets}) != len(targets):
        raise UsageError("Two files of one download have the same place.")
    stop_event = stop or threading.Event()

    # As Ctrl+C is raised in this thread: the app's stop takes the same way out.
    def check_stop() -> None:
        if stop_event.is_set():
            raise KeyboardInterrupt

    options = options or DownloadOptions()
    context = DownloadContext(
        access=access,
        connections=connections,
        options=options,
        meter=ProgressMeter(targets, on_progress, options.clock),
        check_stop=check_stop,
    )
    _require_free_space(targets, options)
    return tuple(FileDownload(target, context).run() for target in targets)


def _require_free_space(targets: Sequence[DownloadTarget], options: DownloadOptions) -> None:
    """Make the directories and check that all the files fit, less what is there of them."""
    needed: dict[int, int] = {}  # by device: two directories may share one disk
    for target in targets:
        directory = target.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            device = directory.stat().st_dev
            needed[device] = needed.get(device, 0) + _missing_bytes(target)
            free = options.free_bytes(directory)
        except OSError as error:
            raise StoreError(
                f"{printable(directory)} cannot be used: {error.strerror}. Choose another place."
            ) from error
        if needed[device] > free:
            raise DiskFull(
                _not_enough_space(directory, needed[device], free),
                needed_bytes=needed[device] - free,
                directory=printable(directory),
            )


def _missing_bytes(target: DownloadTarget) -> int:
    """Return the bytes that a file will yet take on the disk."""
    if has_final_size(target):
        return 0  # it may be another file of this size: then the disk says so when it is full
    part = part_path(target.path)
    if (resumable := resumable_bytes(target)) or not part.is_file():
        return target.size_bytes - resumable
    return max(0, target.size_bytes - part.stat().st_size)  # unusable bytes are overwritten


def _not_enough_space(directory: Path, needed: int, free: int) -> str:
    return (
        f"At least {format_bytes(needed)} more is needed in {printable(directory)} and"
        f" {format_bytes(free)} is free there. Nothing was downloaded. Make room (localllm rm) or"
        " choose another place (--dest)."
    )
