"""The journal of an incomplete download, NAME.part.json: which bytes of NAME.part can be trusted.

What it claims stays true. `synced` ranges were forced to the disk before the journal was written,
so they hold after a power cut. `written` ranges reached the system, which keeps them until the
machine restarts; `boot` tells whether it has. With one connection (`appending`) even that need not
be up to date: bytes are only ever added at the end, so the length of the part file is exact.

The state of a SHA-256 cannot be saved in Python, so a resume hashes what is here again, while the
rest comes. `digests` are the hash's values after every `chunk_bytes`: with them a chunk that
changed on the disk since is found and fetched again alone.

The format has a version and no unknown fields: a journal that does not parse counts as none, and
the download begins at zero. A damaged journal must never make wrong bytes look right.
"""

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import psutil

from localllm.library.download.extents import Extents, Range
from localllm.library.download.hash_thread import HashThread
from localllm.library.download.http_source import HttpSource
from localllm.library.download.part_file import PartFile
from localllm.library.download.target import (
    DownloadOptions,
    DownloadTarget,
    journal_path,
    part_path,
)
from localllm.library.files import atomic_write

VERSION: Final = 1
_MAX_JOURNAL_BYTES: Final = 16 * 2**20  # a real one has at most a few hundred KiB
_MAX_CHUNKS: Final = 2048
_MIN_CHUNK: Final = 256 * 2**10
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SAVES_PER_FILE: Final = 256
"""With several connections the journal is replaced at most this often: a kill loses about that
part of the file, and the bytes that come while it is being replaced."""
_MIN_SAVE_BYTES: Final = 16 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The contents of a `.part.json`. The module says what the fields promise.

    The names of the fields are those in the file: users have journals on their disks.
    """

    repo: str
    commit: str
    file: str
    size_bytes: int
    sha256: str | None
    endpoint: str | None = None
    etag: str | None = None
    boot: str = ""
    appending: bool = False
    synced: tuple[Range, ...] = ()
    written: tuple[Range, ...] = ()
    chunk_bytes: int = _MIN_CHUNK
    digests: tuple[str, ...] = field(default=(), repr=False)

    def describes(self, target: DownloadTarget) -> bool:
        """Tell whether the bytes are the target's: by its hash, or by its commit without one."""
        if self.size_bytes != target.size_bytes or self.sha256 != target.sha256:
            return False
        origin = (self.repo, self.commit, self.file)
        return self.sha256 is not None or origin == (target.repo, target.commit, target.name)

    def usable(self, *, boot: str, length: int) -> Extents:
        """Return the bytes that can be trusted in a part file of `length` bytes."""
        restarted = not boot or boot != self.boot  # a boot id that cannot be read proves nothing
        extents = Extents(self.synced if restarted else self.written)
        if self.appending and not restarted:
            extents.add(extents.end, min(length, self.size_bytes))
        extents.remove(length, self.size_bytes)  # another program may have truncated the file
        return extents


def new_journal(target: DownloadTarget) -> Journal:
    """Return the journal of a download that has no byte yet."""
    return Journal(
        repo=target.repo,
        commit=target.commit,
        file=target.name,
        size_bytes=target.size_bytes,
        sha256=target.sha256,
        chunk_bytes=chunk_size(target.size_bytes),
    )


def chunk_size(size_bytes: int) -> int:
    """Return the distance of a file's digests: a power of two, for at most `_MAX_CHUNKS`."""
    chunk = _MIN_CHUNK
    while chunk * _MAX_CHUNKS < size_bytes:
        chunk *= 2
    return chunk


def boot_id() -> str:
    """Return a text that changes when the machine restarts."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        # Not Linux. In whole seconds: adjusting the clock moves the fraction.
        return f"{psutil.boot_time():.0f}"


# --- how much of a file is here ---


def resumable_bytes(target: DownloadTarget) -> int:
    """Count the bytes of an incomplete file that the next run will not fetch again.

    0 when that cannot be told: without a journal, or with one of another file.
    """
    try:
        journal = read(journal_path(target.path))
        if journal is None or not journal.describes(target):
            return 0
        length = part_path(target.path).stat().st_size
    except OSError:
        return 0
    return journal.usable(boot=boot_id(), length=length).total


def bytes_on_disk(target: DownloadTarget) -> int:
    """Count the bytes of a file that are here, complete in its place or from an earlier run."""
    if has_final_size(target):
        return target.size_bytes
    return resumable_bytes(target)


def has_final_size(target: DownloadTarget) -> bool:
    """Tell whether a file of the target's size is in its place; its bytes are not looked at."""
    try:
        return target.path.is_file() and target.path.stat().st_size == target.size_bytes
    except OSError:
        return False


# --- the file format ---


def read(path: Path) -> Journal | None:
    """Read a journal; None when there is none, or none that can be trusted. Raises OSError."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return None
    return parse(text)


def save(path: Path, journal: Journal) -> None:
    """Replace the journal, so that a crash leaves the old or the new one. Raises OSError."""
    atomic_write.write_atomically(path, serialize(journal))


def serialize(journal: Journal) -> bytes:
    """Write a journal as JSON."""
    fields = {name: getattr(journal, name) for name in Journal.__slots__}
    return json.dumps({"version": VERSION, **fields}, indent=1).encode()


def parse(text: bytes) -> Journal | None:
    """Read what `serialize` wrote; None for anything else."""
    try:
        return _parse(json.loads(text)) if len(text) <= _MAX_JOURNAL_BYTES else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _parse(document: object) -> Journal:
    if not isinstance(document, dict) or document.pop("version", None) != VERSION:
        raise ValueError("not a journal of this version")
    if set(document) != set(Journal.__slots__):
        raise ValueError("other fields")
    size = _count(document["size_bytes"])
    digests = tuple(_string(each) for each in _list(document["digests"]))
    if len(digests) > _MAX_CHUNKS or not all(_DIGEST.fullmatch(each) for each in digests):
        raise ValueError("bad digests")
    # Digests at other distances would compare unequal chunks.
    if document["chunk_bytes"] != chunk_size(size) or not isinstance(document["appending"], bool):
        raise ValueError("bad chunks")
    return Journal(
        repo=_string(document["repo"]),
        commit=_string(document["commit"]),
        file=_string(document["file"]),
        size_bytes=size,
        sha256=_optional_string(document["sha256"]),
        endpoint=_optional_string(document["endpoint"]),
        etag=_optional_string(document["etag"]),
        boot=_string(document["boot"]),
        appending=document["appending"],
        synced=_ranges(document["synced"], size),
        written=_ranges(document["written"], size),
        chunk_bytes=chunk_size(size),
        digests=digests,
    )


def _ranges(value: object, size: int) -> tuple[Range, ...]:
    ranges = []
    for pair in _list(value):
        start, end = _list(pair)
        ranges.append((_count(start), _count(end)))
    if any(not start < end <= size for start, end in ranges):
        raise ValueError("a range outside the file")
    return Extents(ranges).ranges


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no string")
    return value


def _optional_string(value: object) -> str | None:
    return None if value is None else _string(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("no count")
    return value


# --- saving it while bytes come ---


class JournalWriter:
    """Saves the journal of one part file often enough, and never with a claim that is not true.

    Used by the calling thread only; the other threads write bytes meanwhile.
    """

    def __init__(
        self,
        path: Path,
        journal: Journal,
        *,
        part: PartFile,
        source: HttpSource,
        hash_thread: HashThread,
        options: DownloadOptions,
    ) -> None:
        self.journal = journal
        self._path = path
        self._part = part
        self._source = source
        self._hash_thread = hash_thread
        self._options = options
        self._step = max(_MIN_SAVE_BYTES, part.size // _SAVES_PER_FILE)
        self._synced_s = options.clock()
        self._saved_bytes = self._synced_bytes = part.present_bytes

    def save_if_due(self) -> None:
        """Save when enough bytes came or enough time passed. Raises OSError."""
        now_s, present = self._options.clock(), self._part.present_bytes
        unsynced = abs(present - self._synced_bytes)
        if unsynced >= self._options.checkpoint_bytes or (
            unsynced and now_s - self._synced_s >= self._options.checkpoint_s
        ):
            self.save(sync=True)
        elif self._outdated(present):
            self.save(sync=False)

    def save(self, *, sync: bool) -> None:
        """Save what is present; with `sync` force it to the disk first. Raises OSError."""
        # The ranges before the sync: bytes that come during it are not yet safe.
        ranges, present = self._part.ranges, self._part.present_bytes
        journal = self.journal
        if sync:
            sync_file(part_path(self._path))
            journal = replace(journal, synced=ranges)
        journal = replace(
            journal,
            written=ranges,
            endpoint=self._source.endpoint,
            etag=self._source.etag,
            digests=self._hash_thread.digests,
        )
        save(journal_path(self._path), journal)
        self.journal = journal
        self._saved_bytes = present
        if sync:
            self._synced_bytes, self._synced_s = present, self._options.clock()

    def _outdated(self, present: int) -> bool:
        """Tell whether a kill now would lose much: with one connection the part file's length
        says what came, so that only a new ETag is worth a save."""
        if self._source.etag != self.journal.etag:
            return True
        return not self.journal.appending and present - self._saved_bytes >= self._step


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        atomic_write.sync(descriptor)
    finally:
        os.close(descriptor)
