"""`<name>.part.json`: what is known about the bytes in `<name>.part`.

What it claims stays true: `synced` was forced to the disk before it was written down, so it holds
after a power cut; `written` reached the system, which keeps it until the machine restarts, and
`boot` says whether it has. With one connection (`appending`) even that need not be up to date:
bytes are only ever added at the end, so the length of the file says what is there, to the byte.

SHA-256 in progress cannot be saved in Python, so what is here is hashed again on a resume, while
the rest comes. `digests` are the hash's values after every `chunk_bytes`: with them a chunk that
changed on the disk since is found and fetched again alone.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from localllm.library.download.extents import Extents, Range
from localllm.library.download.target import DownloadTarget
from localllm.library.files import atomic_write

VERSION: Final = 1
_MAX_BYTES: Final = 16 * 2**20  # of a note; a real one has at most a few hundred KiB
_MAX_CHUNKS: Final = 2048
_LEAST_CHUNK: Final = 256 * 2**10
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """The contents of a `.part.json`; the module says what the fields promise."""

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
    chunk_bytes: int = _LEAST_CHUNK
    digests: tuple[str, ...] = field(default=(), repr=False)

    def about(self, wanted: DownloadTarget) -> bool:
        """Whether the bytes are of the wanted file: by its hash, or by its commit without one."""
        if self.size_bytes != wanted.size_bytes or self.sha256 != wanted.sha256:
            return False
        place = (self.repo, self.commit, self.file)
        return self.sha256 is not None or place == (wanted.repo, wanted.commit, wanted.name)

    def there(self, *, boot: str, length: int) -> Extents:
        """The bytes that can be relied on in a part file of `length` bytes."""
        restarted = not boot or boot != self.boot
        there = Extents(self.synced if restarted else self.written)
        if self.appending and not restarted:
            there.add(there.end, min(length, self.size_bytes))
        there.remove(length, self.size_bytes)
        return there


def part_of(path: Path) -> Path:
    """Where a file is while it is not complete."""
    return path.with_name(f"{path.name}.part")


def notes_of(path: Path) -> Path:
    """Where the notes about an incomplete file are."""
    return path.with_name(f"{path.name}.part.json")


def lock_of(path: Path) -> Path:
    """What is locked by the process that downloads a file."""
    return path.with_name(f"{path.name}.part.lock")


def chunk_size(size_bytes: int) -> int:
    """How far apart the digests of a file are: a power of two, at most `_MAX_CHUNKS` of them."""
    chunk = _LEAST_CHUNK
    while chunk * _MAX_CHUNKS < size_bytes:
        chunk *= 2
    return chunk


def boot() -> str:
    """What changes when the machine restarts."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def read(path: Path) -> Notes | None:
    """Read notes; None when there are none, or none that can be believed. Raises OSError."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    return parse(text)


def save(path: Path, notes: Notes) -> None:
    """Replace the notes, so that a crash leaves the old or the new. Raises OSError."""
    atomic_write.write_atomically(path, serialize(notes))


def serialize(notes: Notes) -> bytes:
    """Write notes as JSON."""
    return json.dumps({"version": VERSION, **_fields(notes)}, indent=1).encode()


def parse(text: bytes) -> Notes | None:
    """Read what `serialize` wrote; None for anything else."""
    try:
        return _parse(json.loads(text)) if len(text) <= _MAX_BYTES else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _fields(notes: Notes) -> dict[str, object]:
    return {name: getattr(notes, name) for name in Notes.__slots__}


def _parse(found: object) -> Notes:
    if not isinstance(found, dict) or found.pop("version", None) != VERSION:
        raise ValueError("not notes of this version")
    if set(found) != set(Notes.__slots__):
        raise ValueError("other fields")
    size = _count(found["size_bytes"])
    digests = tuple(_text(each) for each in _list(found["digests"]))
    if len(digests) > _MAX_CHUNKS or not all(_DIGEST.fullmatch(each) for each in digests):
        raise ValueError("bad digests")
    if found["chunk_bytes"] != chunk_size(size) or not isinstance(found["appending"], bool):
        raise ValueError("bad chunks")
    return Notes(
        repo=_text(found["repo"]),
        commit=_text(found["commit"]),
        file=_text(found["file"]),
        size_bytes=size,
        sha256=None if found["sha256"] is None else _text(found["sha256"]),
        endpoint=None if found["endpoint"] is None else _text(found["endpoint"]),
        etag=None if found["etag"] is None else _text(found["etag"]),
        boot=_text(found["boot"]),
        appending=found["appending"],
        synced=_ranges(found["synced"], size),
        written=_ranges(found["written"], size),
        chunk_bytes=chunk_size(size),
        digests=digests,
    )


def _ranges(found: object, size: int) -> tuple[Range, ...]:
    ranges = []
    for pair in _list(found):
        start, end = _list(pair)
        ranges.append((_count(start), _count(end)))
    if any(not start < end <= size for start, end in ranges):
        raise ValueError("a range outside the file")
    return Extents(ranges).ranges


def _list(found: object) -> list[object]:
    if not isinstance(found, list):
        raise TypeError("no list")
    return found


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError("no text")
    return found


def _count(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**63:
        raise ValueError("no count")
    return found
