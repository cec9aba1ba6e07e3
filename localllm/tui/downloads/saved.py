"""The downloads that are not done, kept on the disk so that the next start of the app finds them.

A list of names and sizes in the data directory; the bytes and what is known of them lie beside
their files (`library/download/journal.py`). What was begun elsewhere (`localllm pull`) is found by
its journal. A damaged list counts as none.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localllm.core.model.file_types import label_in, split_of
from localllm.library.download.unfinished import (
    UnfinishedFile,
    delete_unfinished,
    unfinished_files,
)
from localllm.library.files import atomic_write, paths
from localllm.library.files.file_lock import locked
from localllm.tui.downloads.source import DownloadRequest

SCHEMA = 1
_MAX_FILE_BYTES = 2**20
_LOCK_WAIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedDownload:
    """A download of before: what was wanted, and the bytes of it that are here."""

    request: DownloadRequest
    done_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema: int
    downloads: tuple[DownloadRequest, ...]


def save(data_dir: Path, requests: Iterable[DownloadRequest]) -> None:
    """Replace the list. Raises OSError."""
    path = paths.downloads_file(data_dir)
    requests = tuple(requests)
    if not requests and not path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), wait_s=_LOCK_WAIT_S):
        document = _Document(schema=SCHEMA, downloads=requests)
        atomic_write.write_atomically(path, msgspec.json.encode(document), private=True)


def load(data_dir: Path) -> tuple[StoppedDownload, ...]:
    """Return the downloads of before: those of the list in its order, then those that only their
    journals tell of. Blocks."""
    unfinished = unfinished_files(paths.hub_dir(data_dir))
    requests = list(_listed(paths.downloads_file(data_dir)))
    for file in unfinished:
        if not any(_belongs(file, request) for request in requests):
            requests.append(_request(file))
    return tuple(
        StoppedDownload(
            request=request,
            done_bytes=sum(file.done_bytes for file in unfinished if _belongs(file, request)),
        )
        for request in requests
    )


def discard(data_dir: Path, request: DownloadRequest) -> int:
    """Delete what came of a download; return the bytes that this freed. Blocks."""
    files = unfinished_files(paths.hub_dir(data_dir))
    return sum(delete_unfinished(file.path) for file in files if _belongs(file, request))


def _listed(path: Path) -> Iterator[DownloadRequest]:
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        document = msgspec.json.decode(content, type=_Document)
        if document.schema == SCHEMA and len(content) <= _MAX_FILE_BYTES:
            yield from document.downloads


def _belongs(file: UnfinishedFile, request: DownloadRequest) -> bool:
    """Tell whether a file is one of a download: the quant's, a part of it, or its encoder."""
    if file.repo.lower() != request.repository.lower():
        return False
    if _is_encoder(file):
        return True
    if "." in request.quant:
        return _stem(file.file) == _stem(request.quant)
    return (label_in(file.file) or "").upper() == request.quant.upper()


def _request(file: UnfinishedFile) -> DownloadRequest:
    name = file.file
    if _is_encoder(file):  # it is fetched after its model, which lies beside it
        beside = sorted(file.path.parent.glob("*.gguf"))
        models = [each.name for each in beside if "mmproj" not in each.name.lower()]
        name = next(iter(models), name)
    return DownloadRequest(
        repository=file.repo, quant=name, size_bytes=file.size_bytes, revision=file.commit
    )


def _is_encoder(file: UnfinishedFile) -> bool:
    return "mmproj" in file.file.lower()


def _stem(name: str) -> str:
    """Return a file's name without its number among the parts of a split model."""
    split = split_of(name)
    return split[0] if split is not None else name


def without_done(
    stopped: Sequence[StoppedDownload], present: Iterable[DownloadRequest]
) -> tuple[StoppedDownload, ...]:
    """Leave out the downloads that are in the queue already."""
    here = tuple(present)
    return tuple(
        each for each in stopped if not any(each.request.same_file(other) for other in here)
    )
