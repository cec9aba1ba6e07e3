"""The state that the files of one download share, and the errors that a person sees.

Threads and file systems raise bare errors; here each becomes a message that says how much of the
file is here and what to do.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from localllm.core.units import format_bytes
from localllm.errors import DiskFull, DownloadFailed, DownloadStopped, LocalLLMError, StoreError
from localllm.library.download.journal import resumable_bytes
from localllm.library.download.progress import ProgressMeter
from localllm.library.download.target import DownloadOptions, DownloadTarget
from localllm.library.files.names import printable
from localllm.library.http.client import Access

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadContext:
    """The arguments and shared state of one call of `download`.

    `check_stop` raises KeyboardInterrupt when the call is to end.
    """

    access: Access
    connections: int
    options: DownloadOptions
    meter: ProgressMeter
    check_stop: Callable[[], None]


@contextlib.contextmanager
def resume_hints(target: DownloadTarget) -> Iterator[None]:
    """Turn whatever ends a file's download into an error that says what is here and what to do."""
    try:
        yield
    except KeyboardInterrupt:
        raise DownloadStopped(
            f"Stopped: {_progress(target)} is here. The same command goes on from there."
        ) from None
    except DownloadFailed as failure:
        raise DownloadFailed(
            f"{printable(target.path.name)} did not come. {failure} {_progress(target)} is here;"
            " the same command goes on from there."
        ) from failure
    except LocalLLMError:
        raise  # its message is complete: the bytes that are here do not help
    except OSError as error:
        raise _disk_error(target, error) from error


def _progress(target: DownloadTarget) -> str:
    return f"{format_bytes(resumable_bytes(target))} of {format_bytes(target.size_bytes)}"


def _disk_error(target: DownloadTarget, error: OSError) -> LocalLLMError:
    where, reason = printable(target.path.parent), error.strerror or type(error).__name__
    if error.errno in _FULL:
        missing_bytes = target.size_bytes - resumable_bytes(target)
        return DiskFull(
            f"The disk is full: {printable(target.path.name)} needs"
            f" {format_bytes(missing_bytes)} more in {where}. What"
            f" came, {_progress(target)}, is kept. Make room, then the same command goes on from"
            " there.",
            needed_bytes=missing_bytes,
            directory=where,
        )
    if error.errno == errno.EFBIG:
        return StoreError(
            f"The file system of {where} (or a limit of this user) does not take a file of"
            f" {format_bytes(target.size_bytes)}; FAT32 ends at 4 GiB. Choose another place."
        )
    return StoreError(f"{where} cannot be written to: {reason}. Choose another place.")
