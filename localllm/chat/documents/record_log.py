"""Where the records of a collection are kept: encrypted in a file, or in memory alone.

An index is made of files that are still there. So what is damaged in it is no loss that anybody is
told of: those files are read again the next time.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from localllm.errors import DamagedData, NotFound, StoreError
from localllm.library.encryption.cipher import Cipher
from localllm.library.encryption.record_log import LogState, append, is_at, new_log, read_log
from localllm.library.files.names import printable
from localllm.translation import _


class RecordLog(Protocol):
    """Records in the order in which they were added. All raise EncryptionError."""

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
        self._state: LogState | None = None

    @property
    def size_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    @property
    def is_current(self) -> bool:
        if self._state is None:
            return not self._path.exists()
        return is_at(self._path, self._state)

    def read(self) -> Iterator[bytes]:
        self._state = None
        with contextlib.suppress(NotFound, DamagedData):
            content = read_log(self._path, self._cipher, self._at)
            self._state = content.state
            yield from content.records

    def append(self, record: bytes) -> None:
        if self._state is None:
            self.replace((record,))
        else:
            self._state = append(self._path, (record,), self._cipher, self._at, self._state)

    def replace(self, records: Iterable[bytes]) -> None:
        self._state = new_log(self._path, records, self._cipher, self._at)


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
