"""A file of encrypted records that grows at its end: what a crash may cost is the last record.

    magic  id of the log (16 random bytes)
    mark (8 bytes of the id)  number  length  encrypted record          ... and so on

The place of a record is that of the log, the log's id and its number: no record can be changed,
moved, exchanged or left out in the middle without being seen. The mark lets a reader find the next
record behind a damaged one, so one bad block costs the records in it and no more. A log that ends
inside a record was cut by a crash, and goes on before it. One that was cut between two records by
somebody looks whole: who needs to know keeps the number of records elsewhere.

Records are appended under a lock of the caller, by any process that has read the log to its end.
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DamagedData, EncryptionError, NotFound
from localllm.library.encryption.cipher import OVERHEAD_BYTES, Cipher, place
from localllm.library.files.atomic_write import sync, write_atomically

MAX_RECORD_BYTES = 2**28
MAX_LOG_BYTES = 2**30

_MAGIC = b"localllm-log\r\n\0\0"
_ID_BYTES, _MARK_BYTES = 16, 8
_START_BYTES = len(_MAGIC) + _ID_BYTES
_UNWRITTEN_BYTES = 512
"""A block of so many zeros, the smallest of a disk, is none of an encrypted record."""
_FRAME = struct.Struct("<8sII")  # mark, number, length


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """Where a log ends: what an append needs to know. One that was written anew has another id."""

    log_id: bytes
    end: int
    next_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """All records that could be read. `lost` counts those that are damaged in the middle, or
    missing; `is_torn`: the last one was not written to its end."""

    records: tuple[bytes, ...]
    state: LogState
    lost: int
    is_torn: bool


def read_log(path: Path, cipher: Cipher, at: bytes) -> LogContent:
    """Read a log. Raises NotFound when there is none, DamagedData when it is none or nothing in it
    can be read, EncryptionError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_LOG_BYTES:
                raise DamagedData(f"{path} is larger than anything that was written there.")
            data = file.read()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except EncryptionError:
        raise
    except OSError as error:
        raise EncryptionError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) < _START_BYTES or not data.startswith(_MAGIC):
        raise DamagedData(f"{path} is damaged or cut.")
    log_id = data[len(_MAGIC) : _START_BYTES]
    records: list[bytes] = []
    end, numbers = _START_BYTES, 0
    for number, record, after in _records(memoryview(data), log_id, cipher, at):
        records.append(record)
        end, numbers = after, number + 1
    torn = _is_torn(data[end:], log_id, numbers)
    if not torn and end < len(data):
        end, numbers = len(data), numbers + 1  # a whole record at the end that is damaged
    if not records and not torn and numbers:
        raise DamagedData(f"{path} is damaged, or was made with another key.")
    return LogContent(
        records=tuple(records),
        state=LogState(log_id=log_id, end=end, next_number=numbers),
        lost=numbers - len(records),
        is_torn=torn,
    )


def new_log(path: Path, records: Iterable[bytes], cipher: Cipher, at: bytes) -> LogState:
    """Write a log with these records in the place of whatever is there, atomically. Raises
    EncryptionError, and leaves what is there as it is."""
    log_id = os.urandom(_ID_BYTES)
    frames = list(_frames(records, 0, log_id, cipher, at))
    data = _MAGIC + log_id + b"".join(frames)
    with _errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, data, private=True)
    return LogState(log_id=log_id, end=len(data), next_number=len(frames))


def append(
    path: Path, records: Iterable[bytes], cipher: Cipher, at: bytes, state: LogState
) -> LogState:
    """Append records and force them to the disk. What is behind `state.end` (a torn record) is cut
    off. Raises EncryptionError, and then the log holds what it held: the next append cuts the rest
    off."""
    frames = list(_frames(records, state.next_number, state.log_id, cipher, at))
    data = b"".join(frames)
    with _errors(path), path.open("r+b", buffering=0) as file:
        file.truncate(state.end)
        file.seek(state.end)
        written = 0
        while written < len(data):
            written += file.write(data[written:])
        sync(file.fileno())
    return LogState(
        log_id=state.log_id,
        end=state.end + len(data),
        next_number=state.next_number + len(frames),
    )


def is_at(path: Path, state: LogState) -> bool:
    """Tell whether the file is as it was left: nobody appended to it, or replaced it."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size == state.end and file.read(_START_BYTES) == _MAGIC + state.log_id
    except OSError:
        return False


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EncryptionError(f"{path} cannot be written: {error.strerror or error}.") from error


def _frames(
    records: Iterable[bytes], first: int, log_id: bytes, cipher: Cipher, at: bytes
) -> Iterator[bytes]:
    for number, record in enumerate(records, first):
        if len(record) > MAX_RECORD_BYTES:
            raise EncryptionError("A record is larger than any may be.")
        encrypted = cipher.encrypt(record, place(at, log_id, number))
        yield _FRAME.pack(log_id[:_MARK_BYTES], number, len(encrypted)) + encrypted


def _records(
    data: memoryview, log_id: bytes, cipher: Cipher, at: bytes
) -> Iterator[tuple[int, bytes, int]]:
    """Yield number, record and end of each record that can be read, in the order of the numbers."""
    whole = data.obj
    assert isinstance(whole, bytes)
    position, expected, mark = _START_BYTES, 0, log_id[:_MARK_BYTES]
    while (position := whole.find(mark, position)) >= 0:
        found = _record_at(data, position, log_id, cipher, at)
        if found is None or found[0] < expected:  # damaged, or a record that was put in again
            position += 1
            continue
        yield found
        position, expected = found[2], found[0] + 1


def _record_at(
    data: memoryview, position: int, log_id: bytes, cipher: Cipher, at: bytes
) -> tuple[int, bytes, int] | None:
    start = position + _FRAME.size
    if start > len(data):
        return None
    _mark, number, length = _FRAME.unpack_from(data, position)
    end = start + length
    if not OVERHEAD_BYTES <= length <= MAX_RECORD_BYTES + OVERHEAD_BYTES or end > len(data):
        return None
    try:
        return number, cipher.decrypt(data[start:end], place(at, log_id, number)), end
    except DamagedData:
        return None


def _is_torn(rest: bytes, log_id: bytes, number: int) -> bool:
    """Tell whether the rest of a file is a record that was not written to its end, and not one that
    was damaged later. After a power cut its blocks may be zeros."""
    if not rest:
        return False
    was_never_written = rest.endswith(bytes(_UNWRITTEN_BYTES))
    written = rest.rstrip(b"\0") if was_never_written else rest
    frame = _FRAME.pack(log_id[:_MARK_BYTES], number, 0)[:-4]
    if not frame.startswith(written[: len(frame)]):
        return False
    if len(written) < _FRAME.size or was_never_written:
        return True
    length: int = _FRAME.unpack_from(rest)[2]
    return len(rest) < _FRAME.size + length
