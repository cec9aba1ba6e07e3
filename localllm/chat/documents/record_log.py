"""Records that are only ever added, encrypted one by one: what an index is kept as.

    magic  id of the file (16 random bytes)  records: length (4 bytes), encrypted bytes

The place of a record is that of the file, the file's id and its number, so records cannot be
exchanged, moved or left out; only the end can be missing. That is what a crash does too, so reading
ends at the first record that is not whole and the next one is written over it: an index is made of
files that are still there, and is made again from where it ends.
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from localllm.errors import DamagedData, StoreError
from localllm.library.encryption.cipher import OVERHEAD_BYTES, Cipher, place
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.names import printable
from localllm.translation import _

_MAGIC = b"localllm-log\r\n\0\0"
_ID_BYTES = 16
_START_BYTES = len(_MAGIC) + _ID_BYTES
_LENGTH = struct.Struct("<I")
MAX_RECORD_BYTES = 2**30


class RecordLog(Protocol):
    """Records in the order in which they were added. All raise StoreError."""

    @property
    def size_bytes(self) -> int:
        """The size of all of it where it is kept."""

    @property
    def is_current(self) -> bool:
        """Tell whether nobody else has added records since they were read."""

    def read(self) -> Iterator[bytes]:
        """Yield all records, from the first on."""

    def append(self, record: bytes) -> None:
        """Add a record. Call it when `read` has come to its end."""

    def replace(self, records: Iterable[bytes]) -> None:
        """Put these in the place of all records."""


class MemoryLog:
    """Records that end with the program."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self._records))

    @property
    def is_current(self) -> bool:
        return True

    def read(self) -> Iterator[bytes]:
        yield from tuple(self._records)

    def append(self, record: bytes) -> None:
        self._records.append(record)

    def replace(self, records: Iterable[bytes]) -> None:
        self._records = list(records)


class EncryptedLog:
    """Records in the file `path`. `at` says what the file is (`cipher.place`).

    One process at a time may add (the caller holds a lock); others may read meanwhile.
    """

    def __init__(self, path: Path, cipher: Cipher, at: bytes) -> None:
        self._path = path
        self._cipher = cipher
        self._at = at
        self._id = b""
        self._count = 0
        self._end = 0

    @property
    def size_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    @property
    def is_current(self) -> bool:
        return self.size_bytes == self._end

    def read(self) -> Iterator[bytes]:
        self._id, self._count, self._end = b"", 0, 0
        try:
            with self._path.open("rb") as file:
                start = file.read(_START_BYTES)
                if len(start) < _START_BYTES or not start.startswith(_MAGIC):
                    return
                self._id, self._end = start[len(_MAGIC) :], _START_BYTES
                while (record := self._next(file.read)) is not None:
                    yield record
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(_("{path} cannot be read: {reason}."), error) from error

    def _next(self, read: "_Read") -> bytes | None:
        """Read and decrypt a record; None at the end, and where one is not whole."""
        prefix = read(_LENGTH.size)
        if len(prefix) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(prefix)
        if not OVERHEAD_BYTES <= length <= MAX_RECORD_BYTES:
            return None
        try:
            record = self._cipher.decrypt(read(length), self._place(self._count))
        except DamagedData:
            return None
        self._count += 1
        self._end += _LENGTH.size + length
        return record

    def append(self, record: bytes) -> None:
        if not self._id:
            self.replace((record,))
            return
        data = self._framed(record, self._count)
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._end)  # what a crash has left of a record
                file.seek(self._end)
                file.write(data)
        except OSError as error:
            raise self._error(_("{path} cannot be written: {reason}."), error) from error
        self._count += 1
        self._end += len(data)

    def replace(self, records: Iterable[bytes]) -> None:
        self._id = os.urandom(_ID_BYTES)
        framed = [self._framed(record, number) for number, record in enumerate(records)]
        data = b"".join((_MAGIC, self._id, *framed))
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, data, private=True)
        except OSError as error:
            raise self._error(_("{path} cannot be written: {reason}."), error) from error
        self._count, self._end = len(framed), len(data)

    def _framed(self, record: bytes, number: int) -> bytes:
        encrypted = self._cipher.encrypt(record, self._place(number))
        return _LENGTH.pack(len(encrypted)) + encrypted

    def _place(self, number: int) -> bytes:
        return place(self._at, self._id, number)

    def _error(self, message: str, error: OSError) -> StoreError:
        return StoreError(
            message.format(path=printable(self._path), reason=error.strerror or error)
        )


class _Read(Protocol):
    def __call__(self, size: int, /) -> bytes: ...


def delete_file(path: Path) -> None:
    """Delete a file; one that is not there is deleted. Raises StoreError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    except OSError as error:
        raise StoreError(
            _("{path} cannot be deleted: {reason}.").format(
                path=printable(path), reason=error.strerror or error
            )
        ) from error
