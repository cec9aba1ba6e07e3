"""What the files of one call share, and what a person is told when one of them stops."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from localllm.core.units import format_bytes
from localllm.errors import DownloadFailed, DownloadStopped, LocalLLMError, StoreError
from localllm.library.download import journal
from localllm.library.download.progress import Board
from localllm.library.download.target import Conditions, DownloadTarget
from localllm.library.files.names import printable
from localllm.library.http.client import Access

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of `download`. `check_stop` raises KeyboardInterrupt when it is to end."""

    access: Access
    connections: int
    conditions: Conditions
    board: Board
    check_stop: Callable[[], None]


def available(wanted: DownloadTarget) -> int:
    """How many bytes of a file that is not complete can be relied on. 0 when that is unknown."""
    try:
        notes = journal.read(journal.notes_of(wanted.path))
        if notes is None or not notes.about(wanted):
            return 0
        length = journal.part_of(wanted.path).stat().st_size
    except OSError:
        return 0
    return notes.there(boot=journal.boot(), length=length).total


@contextlib.contextmanager
def explained(wanted: DownloadTarget) -> Iterator[None]:
    """Make of whatever ends a file's download an error that says what is kept and what to do."""
    try:
        yield
    except KeyboardInterrupt:
        raise DownloadStopped(
            f"Stopped: {_kept(wanted)} is here. The same command goes on from there."
        ) from None
    except DownloadFailed as failure:
        raise DownloadFailed(
            f"{printable(wanted.path.name)} did not come. {failure} {_kept(wanted)} is here; the"
            " same command goes on from there."
        ) from failure
    except LocalLLMError:
        raise
    except OSError as error:
        raise _of_disk(wanted, error) from error


def _kept(wanted: DownloadTarget) -> str:
    return f"{format_bytes(available(wanted))} of {format_bytes(wanted.size_bytes)}"


def _of_disk(wanted: DownloadTarget, error: OSError) -> LocalLLMError:
    """What the system refused, in the place where the file was to be."""
    where, reason = printable(wanted.path.parent), error.strerror or type(error).__name__
    if error.errno in _FULL:
        return DownloadFailed(
            f"The disk is full: {printable(wanted.path.name)} needs"
            f" {format_bytes(wanted.size_bytes - available(wanted))} more in {where}. What came,"
            f" {_kept(wanted)}, is kept. Make room, then the same command goes on from there."
        )
    if error.errno == errno.EFBIG:
        return StoreError(
            f"The file system of {where} (or a limit of this user) does not take a file of"
            f" {format_bytes(wanted.size_bytes)}; FAT32 ends at 4 GiB. Choose another place."
        )
    return StoreError(f"{where} cannot be written to: {reason}. Choose another place.")
