"""What a list shows of every conversation on the disk, so that starting reads one file and not ten
thousand.

It is a cache: an entry counts as long as its conversation's file has the size and time that it had,
and is made again from the file otherwise. It also remembers how many records a file had: that tells
one that was cut later from one that ended so.
"""

from pathlib import Path

import msgspec

from localllm.chat.history.store import ConversationSummary
from localllm.errors import EncryptionError, NotFound
from localllm.library.encryption.cipher import Cipher, place
from localllm.library.encryption.encrypted_file import read_encrypted, write_encrypted

_PLACE = place("index of conversations", 1)


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file's size and time (ns), what is in it, and what is wrong with it.

    `summary` None: it cannot be read, and `problem` says why. `expired_s`: when it was first found
    to be older than conversations are kept.
    """

    size_bytes: int
    changed_ns: int
    summary: ConversationSummary | None = None
    log_id: bytes = b""
    records: int = 0
    problem: str = ""
    expired_s: float | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True):
    entries: dict[str, IndexEntry] = {}


def read_index(path: Path, cipher: Cipher) -> dict[str, IndexEntry]:
    """Return the entries by the conversations' ids; none when the file cannot be used."""
    try:
        index = msgspec.msgpack.decode(read_encrypted(path, cipher, _PLACE), type=Index)
    except (NotFound, EncryptionError, msgspec.MsgspecError, ValueError):
        return {}
    return dict(index.entries)


def write_index(path: Path, cipher: Cipher, entries: dict[str, IndexEntry]) -> None:
    """Replace the index. Raises EncryptionError."""
    write_encrypted(path, msgspec.msgpack.encode(Index(entries=entries)), cipher, _PLACE)


def was_cut(known: IndexEntry | None, log_id: bytes, records: int) -> bool:
    """Tell whether a log has fewer records than it had."""
    return known is not None and known.log_id == log_id and records < known.records
