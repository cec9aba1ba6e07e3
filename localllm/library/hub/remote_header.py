"""The header of a model that is not here: its file as a stream that is fetched as far as it is
read.

A header is from 100 KB to 15 MB long and says its length only bit by bit, so ranges grow: little
is asked for too much, and few requests are needed. What was read is kept by commit; a commit's
files never change.
"""

import contextlib
import hashlib
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core import gguf
from localllm.core.model.spec import ModelSpec
from localllm.core.text import single_line
from localllm.errors import GgufError, HubError
from localllm.library.download.fetch import Fetcher
from localllm.library.download.http_source import Source
from localllm.library.download.part_file import StartOver
from localllm.library.download.retry_policy import Patience
from localllm.library.download.target import Conditions, DownloadTarget
from localllm.library.files import atomic_write
from localllm.library.http.client import READ_S, Access
from localllm.library.hub.file_list import HubFile

MAX_MOVED_BYTES = 15 << 20
"""Of all parts of a model together. The longest header known is gemma 3's with 8 MB."""

_FIRST_BYTES = 256 << 10
_FIRST_OF_LATER_PARTS = 64 << 10
"""These hold tensors only, a hundred bytes each."""
_MOST_AT_ONCE = 2 << 20
_MAX_KEPT_BYTES = 256 << 20
_DIGEST_BYTES = 32
"""What is kept begins with the SHA-256 of the rest."""

IMPATIENT = Conditions(
    patience=Patience(waits_s=(0.5, 1.0, 2.0, 4.0), longest_s=60.0), stall_s=READ_S
)
"""A person waits for a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderCacheKey:
    """Where headers come from and where they are kept: a repository at a commit, the way to the
    endpoints, a directory."""

    repo: str
    commit: str
    access: Access
    kept: Path
    conditions: Conditions = IMPATIENT


def read_header(files: Sequence[HubFile], mark: HeaderCacheKey) -> ModelSpec:
    """Read the headers of all parts of a model as one.

    Raises GgufError for a file that is none, HubError when it cannot be had or would move more
    than MAX_MOVED_BYTES, and what the client of network.py raises.
    """
    left = MAX_MOVED_BYTES
    specs: list[ModelSpec] = []
    for file in files:
        spec, moved = _one(file, mark, _FIRST_OF_LATER_PARTS if specs else _FIRST_BYTES, left)
        specs.append(spec)
        left -= moved
    return replace(
        specs[0],
        tensors=tuple(tensor for spec in specs for tensor in spec.tensors),
        file_bytes=sum(spec.file_bytes for spec in specs),
    )


class Ahead(io.RawIOBase):
    """A file of the Hub as a stream; what is read next is fetched in ranges that grow.

    At most `most_bytes` are moved. Reading raises what `read_header` does.
    """

    def __init__(self, file: HubFile, mark: HeaderCacheKey, *, first_bytes: int, most_bytes: int):
        wanted = DownloadTarget(
            repo=mark.repo, commit=mark.commit, name=file.name, size_bytes=file.size_bytes,
            sha256=file.sha256, path=mark.kept,
        )  # fmt: skip
        self._source = Source(wanted, mark.access, stall_s=mark.conditions.stall_s)
        self._fetcher = Fetcher(self._source, mark.conditions, threading.Event(), alone=True)
        self._file = file
        self._most = most_bytes
        self._step = first_bytes
        self._position = 0
        self.held = bytearray()

    @property
    def moved_bytes(self) -> int:
        """What came over the network so far."""
        return self._source.received

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview | bytearray, /) -> int:  # type: ignore[override]
        if self._position == len(self.held):
            self._fetch_more()
        count = min(len(into), len(self.held) - self._position)
        into[:count] = self.held[self._position : self._position + count]
        self._position += count
        return count

    def close(self) -> None:
        self._source.close()
        super().close()

    def _fetch_more(self) -> None:
        start = len(self.held)
        end = min(self._file.size_bytes, start + self._step)
        self._step = min(_MOST_AT_ONCE, max(self._step, end))  # doubles what is held
        if end == start:
            return
        if self.moved_bytes + end - start > self._most:
            raise self._too_much()
        try:
            self._fetcher.fetch(start, end, self._put)
        except StartOver as error:
            name = single_line(self._file.name)[:120]
            raise HubError(f"{name} changed while its header was read. Try again.") from error

    def _put(self, position: int, data: bytes) -> None:
        self.held[position:] = data
        if self.moved_bytes > self._most:
            raise self._too_much()

    def _too_much(self) -> HubError:
        return HubError(
            f"The header of {single_line(self._file.name)[:120]} does not end within"
            f" {MAX_MOVED_BYTES >> 20} MiB, or the server does not give parts of a file. Download"
            " the model and look at it here."
        )


def _one(
    file: HubFile, mark: HeaderCacheKey, first_bytes: int, most_bytes: int
) -> tuple[ModelSpec, int]:
    """One file's header, and how many bytes were moved for it."""
    key = f"{mark.repo}\n{mark.commit}\n{file.name}\n{file.size_bytes}"
    kept = mark.kept / f"{hashlib.sha256(key.encode()).hexdigest()}.gguf-header"
    if (spec := _kept(kept, file)) is not None:
        return spec, 0
    with Ahead(file, mark, first_bytes=first_bytes, most_bytes=most_bytes) as ahead:
        try:
            with io.BufferedReader(ahead) as stream:
                spec = gguf.read(stream, file.size_bytes)
                moved = ahead.moved_bytes
        except GgufError as error:
            raise GgufError(
                f"{single_line(mark.repo)}: {single_line(file.name)[:120]} is not usable: {error}"
            ) from error
        _keep(kept, bytes(ahead.held))
    return spec, moved


def _kept(path: Path, file: HubFile) -> ModelSpec | None:
    """The header that was kept, if it still is what it was."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, header = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(header).digest() != digest:
        return None
    try:
        return gguf.read(io.BytesIO(header), file.size_bytes)
    except GgufError:
        return None  # kept by another version that knew less


def _keep(path: Path, header: bytes) -> None:
    """Keep a header for the next time; a cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write.locked(path.parent / "lock"):
            atomic_write.write_atomically(path, hashlib.sha256(header).digest() + header)
            _forget_old(path.parent)


def _forget_old(directory: Path) -> None:
    """Delete the oldest headers above what may be kept."""
    kept = sorted(
        directory.glob("*.gguf-header"), key=lambda each: each.stat().st_mtime, reverse=True
    )
    total = 0
    for each in kept:
        total += each.stat().st_size
        if total > _MAX_KEPT_BYTES:
            each.unlink(missing_ok=True)
