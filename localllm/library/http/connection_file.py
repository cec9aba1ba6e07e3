"""The file of the connections that were made: what the privacy page shows of other days and verbs.

A private file in the data directory with the newest `MAX_CONNECTIONS`, whichever process made them.
It holds hosts, times, sizes and the names of repositories; no token, no address, no file and no
words that were searched for. It can be erased at any time, and a damaged one is replaced.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from localllm.library.files import atomic_write
from localllm.library.files.file_lock import locked

SCHEMA = 1
MAX_CONNECTIONS = 200
MAX_FILE_BYTES = 2**20
"""A connection takes some 250 bytes: a larger file is damaged."""
_LOCK_WAIT_S = 1.0
"""A download does not wait longer than this for another process that writes."""


class Purpose(StrEnum):
    """What a connection was for."""

    SEARCH = "search"
    METADATA = "metadata"
    DOWNLOAD = "download"
    TRACES = "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Requests of one process to one host for one purpose, close to each other in time.

    `name` is the repository whose name went out, None: no name did. Times are seconds since 1970.
    Bytes are those of HTTP, headers included and TLS not; `bytes_out` is 0 when nothing but the
    attempt to connect was made. `proxy` is the host of the proxy between.
    """

    id: str
    host: str
    purpose: Purpose
    name: str | None
    proxy: str | None
    started_at: float
    ended_at: float
    requests: int = 0
    failures: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema: int
    connections: tuple[Connection, ...]


def merged(
    stored: Iterable[Connection], new: Iterable[Connection], *, limit: int = MAX_CONNECTIONS
) -> tuple[Connection, ...]:
    """Return the newest `limit` of both, newest first; a new one replaces that of the same id."""
    by_id = {each.id: each for each in (*stored, *new)}

    def age(each: Connection) -> tuple[float, float, str]:
        return each.ended_at, each.started_at, each.id

    return tuple(sorted(by_id.values(), key=age, reverse=True)[:limit])


def read(path: Path) -> tuple[Connection, ...]:
    """Read the connections, newest first; none when there is no file or it is damaged.

    Raises OSError for a file that is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return ()
    if len(content) > MAX_FILE_BYTES:
        return ()
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return merged((), document.connections) if document.schema == SCHEMA else ()


def add(path: Path, new: Sequence[Connection]) -> None:
    """Add connections to the file, or replace those of the same id. Raises OSError.

    TimeoutError (an OSError) when another process writes for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), wait_s=_LOCK_WAIT_S):
        document = _Document(schema=SCHEMA, connections=merged(read(path), new))
        atomic_write.write_atomically(path, msgspec.json.encode(document), private=True)


def erase(path: Path) -> None:
    """Delete the file. Raises OSError."""
    if path.parent.is_dir():
        with locked(path.with_suffix(".lock"), wait_s=_LOCK_WAIT_S):
            path.unlink(missing_ok=True)
