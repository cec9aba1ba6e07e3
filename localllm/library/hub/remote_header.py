"""Read the header of a model on the Hub by range requests, as far as it must be read, and cache it.

A header is from 100 KB to 15 MB long and does not state its length, so the ranges grow while it is
parsed: few requests are sent and few bytes too many. Headers are cached by commit, because the
files of a commit never change.
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
from localllm.library.download.fetch import RangeFetcher
from localllm.library.download.http_source import HttpSource
from localllm.library.download.part_file import RestartRequired
from localllm.library.download.target import DownloadOptions, DownloadTarget
from localllm.library.files import atomic_write
from localllm.library.files.file_lock import locked
from localllm.library.http.client import READ_S, Access
from localllm.library.http.connection_file import Purpose
from localllm.library.http.retry_policy import INTERACTIVE
from localllm.library.hub.file_list import HubFile

MAX_TRANSFER_BYTES = 15 << 20
"""For all parts of a model together. The longest header known is gemma 3's with 8 MB."""

_FIRST_BYTES = 256 << 10
_FIRST_BYTES_OF_LATER_PARTS = 64 << 10
"""Later parts of a split model have tensors only, a hundred bytes each."""
_MAX_RANGE_BYTES = 2 << 20
_MAX_CACHE_BYTES = 256 << 20
_DIGEST_BYTES = 32
"""A cache file begins with the SHA-256 of the rest."""

HEADER_OPTIONS = DownloadOptions(retry=INTERACTIVE, stall_s=READ_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderReader:
    """Reads headers of a repository at a commit, through a cache directory."""

    repo: str
    commit: str
    access: Access
    cache_dir: Path
    options: DownloadOptions = HEADER_OPTIONS

    def read(self, files: Sequence[HubFile]) -> ModelSpec:
        """Read the headers of all parts of a model as one.

        Raises GgufError for a file that is no GGUF, HubError when it cannot be fetched or would
        take more than MAX_TRANSFER_BYTES, and what `http/client.py` raises.
        """
        budget_bytes = MAX_TRANSFER_BYTES
        specs: list[ModelSpec] = []
        for file in files:
            first_bytes = _FIRST_BYTES_OF_LATER_PARTS if specs else _FIRST_BYTES
            spec, received = self._read_part(file, first_bytes, budget_bytes)
            specs.append(spec)
            budget_bytes -= received
        return replace(
            specs[0],
            tensors=tuple(tensor for spec in specs for tensor in spec.tensors),
            file_bytes=sum(spec.file_bytes for spec in specs),
        )

    def _read_part(self, file: HubFile, first_bytes: int, max_bytes: int) -> tuple[ModelSpec, int]:
        """Read one file's header; return it with the number of bytes that were received."""
        key = f"{self.repo}\n{self.commit}\n{file.name}\n{file.size_bytes}"
        cached = self.cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()}.gguf-header"
        if (spec := _from_cache(cached, file)) is not None:
            return spec, 0
        with RangeStream(file, self, first_bytes=first_bytes, max_bytes=max_bytes) as ranges:
            try:
                with io.BufferedReader(ranges) as stream:
                    spec = gguf.read(stream, file.size_bytes)
                    received = ranges.received_bytes
            except GgufError as error:
                raise GgufError(
                    f"{single_line(self.repo)}: {single_line(file.name)[:120]} is not usable:"
                    f" {error}"
                ) from error
            _to_cache(cached, bytes(ranges.fetched))
        return spec, received


class RangeStream(io.RawIOBase):
    """A file of the Hub as a stream: reading fetches ranges that grow.

    At most `max_bytes` are received. Reading raises what `HeaderReader.read` does.
    """

    def __init__(
        self, file: HubFile, reader: HeaderReader, *, first_bytes: int, max_bytes: int
    ) -> None:
        target = DownloadTarget(
            repo=reader.repo,
            commit=reader.commit,
            name=file.name,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            path=reader.cache_dir,  # nothing is written there: this only fetches
        )
        self._source = HttpSource(
            target, reader.access, stall_s=reader.options.stall_s, purpose=Purpose.METADATA
        )
        self._fetcher = RangeFetcher(
            self._source, reader.options, threading.Event(), accept_whole_file=True
        )
        self._file = file
        self._max_bytes = max_bytes
        self._step = first_bytes
        self._position = 0
        self.fetched = bytearray()

    @property
    def received_bytes(self) -> int:
        """The bytes that came over the network so far."""
        return self._source.received_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview | bytearray, /) -> int:  # type: ignore[override]
        if self._position == len(self.fetched):
            self._fetch_more()
        count = min(len(into), len(self.fetched) - self._position)
        into[:count] = self.fetched[self._position : self._position + count]
        self._position += count
        return count

    def close(self) -> None:
        self._source.close()
        super().close()

    def _fetch_more(self) -> None:
        start = len(self.fetched)
        end = min(self._file.size_bytes, start + self._step)
        self._step = min(_MAX_RANGE_BYTES, max(self._step, end))  # doubles what is fetched
        if end == start:
            return
        if self.received_bytes + end - start > self._max_bytes:
            raise self._too_long()
        try:
            self._fetcher.fetch(start, end, self._append)
        except RestartRequired as error:
            name = single_line(self._file.name)[:120]
            raise HubError(f"{name} changed while its header was read. Try again.") from error

    def _append(self, position: int, data: bytes) -> None:
        self.fetched[position:] = data
        # A server that ignores ranges sends the whole file: that must end, too.
        if self.received_bytes > self._max_bytes:
            raise self._too_long()

    def _too_long(self) -> HubError:
        return HubError(
            f"The header of {single_line(self._file.name)[:120]} does not end within"
            f" {MAX_TRANSFER_BYTES >> 20} MiB, or the server does not give parts of a file."
            " Download the model and look at it here."
        )


def _from_cache(path: Path, file: HubFile) -> ModelSpec | None:
    """Read a cached header; None when it is missing, damaged, or of an older parser."""
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
        return None  # an older version needed fewer bytes of the header


def _to_cache(path: Path, header: bytes) -> None:
    """Cache a header. A cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / "lock"):
            atomic_write.write_atomically(path, hashlib.sha256(header).digest() + header)
            _evict_oldest(path.parent)


def _evict_oldest(directory: Path) -> None:
    cached = sorted(
        directory.glob("*.gguf-header"), key=lambda each: each.stat().st_mtime, reverse=True
    )
    total = 0
    for each in cached:
        total += each.stat().st_size
        if total > _MAX_CACHE_BYTES:
            each.unlink(missing_ok=True)
