"""The results of a batch on the disk, from the first on: what a kill leaves is where it goes on.

    OUT.partial    a line that names the input, then a result a line, as they come
    OUT            all of them, when the last one is there

A result is appended and handed to the system at once, and forced to the disk once a second: a
process that is killed loses nothing, a power cut a second. A torn last line is cut off.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from localllm.errors import StoreError, UsageError
from localllm.library.files.atomic_write import rename, sync, sync_directory
from localllm.server.batch.input_file import BatchInput
from localllm.server.batch.lines import LineResult, id_key, result_id

SYNC_EVERY_S = 1.0
_HEADER = "localllm_batch_input_sha256"


def partial_file(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


@dataclass(slots=True, kw_only=True)
class Journal:
    """The partial file of a batch. `done` has the keys of the results that it holds, `errors` those
    of them that are errors."""

    out: Path
    done: set[bytes] = field(default_factory=set)
    errors: set[bytes] = field(default_factory=set)
    clock: Callable[[], float] = time.monotonic
    _file: BinaryIO | None = None
    _synced: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, out: Path, batch: BatchInput, *, retry_failed: bool = False) -> "Journal":
        """Open the partial file of `out`, or begin one.

        `retry_failed`: results that are errors do not count; of a batch that has ended, too. Raises
        UsageError when it belongs to another input, StoreError when it cannot be written.
        """
        journal, path = cls(out=out), partial_file(out)
        try:
            if retry_failed and out.exists():
                _reopen(out, batch)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            file = os.fdopen(descriptor, "r+b")
            journal._file = file
            if not journal._read(file, batch, retry_failed=retry_failed):
                file.seek(0)
                file.truncate()
                file.write(json.dumps({_HEADER: batch.sha256}).encode() + b"\n")
                file.flush()
        except OSError as error:
            journal.close()
            raise _unwritable(path, error) from error
        except UsageError:
            journal.close()
            raise
        return journal

    def append(self, result: LineResult) -> None:
        """Keep a result. Raises StoreError; what was written of it is cut off at the next start."""
        with self._lock:
            if self._file is None:
                return  # closed meanwhile: it will be done again
            self._append(self._file, result)
        self._note(id_key(result.custom_id), failed=result.failed)

    def _note(self, key: bytes, *, failed: bool) -> None:
        """Count a result; the last one of a line is what it came to."""
        self.done.add(key)
        if failed:
            self.errors.add(key)
        else:
            self.errors.discard(key)

    @property
    def failed(self) -> int:
        """How many lines have an error as their result."""
        return len(self.errors)

    def _append(self, file: BinaryIO, result: LineResult) -> None:
        try:
            file.write(result.encode())
            file.flush()
            if self.clock() - self._synced >= SYNC_EVERY_S:
                sync(file.fileno())
                self._synced = self.clock()
        except OSError as error:
            raise _unwritable(partial_file(self.out), error) from error

    def finish(self, batch: BatchInput, *, in_order: bool) -> None:
        """Make `out` of the results: in the order of the input, or as they came. Raises StoreError,
        after which the partial file still has all of them."""
        path, file = partial_file(self.out), self._file
        assert file is not None
        temporary = self.out.with_name(self.out.name + ".tmp")
        try:
            places = self._places(file)
            keys = batch.keys() if in_order else places
            with _private_file(temporary) as out:
                for key in keys:
                    if key not in places:
                        continue  # a batch that was cancelled
                    start, size = places[key]
                    file.seek(start)
                    out.write(file.read(size))
                out.flush()
                sync(out.fileno())
            self.close()
            rename(temporary, self.out, self.out.exists)
            path.unlink()
            sync_directory(self.out.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _unwritable(self.out, error) from error

    def close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _read(self, file: BinaryIO, batch: BatchInput, *, retry_failed: bool) -> bool:
        """Read what is there; False when that is nothing. Leaves the file at its end."""
        header = file.readline(4096)
        if not header.endswith(b"\n"):
            return False
        try:
            sha256 = json.loads(header).get(_HEADER)
        except (ValueError, AttributeError):
            sha256 = None
        if sha256 != batch.sha256:
            path = partial_file(self.out)
            raise UsageError(
                f"{path} holds results of another input than {batch.path}. Choose another output, "
                "or delete that file."
            )
        end = file.tell()
        for raw in file:
            found = result_id(raw) if raw.endswith(b"\n") else None
            if found is None:
                break  # torn: the last, unless somebody else has written here
            end += len(raw)
            custom_id, failed = found
            self._note(id_key(custom_id), failed=failed)
        if retry_failed:
            self.done -= self.errors
            self.errors.clear()
        file.seek(end)
        file.truncate()
        return True

    @staticmethod
    def _places(file: BinaryIO) -> dict[bytes, tuple[int, int]]:
        """Return where the last result of each key is."""
        file.seek(0)
        start = len(file.readline())
        places = {}
        for raw in file:
            found = result_id(raw)
            if found is not None:
                places[id_key(found[0])] = (start, len(raw))
            start += len(raw)
        return places


def _reopen(out: Path, batch: BatchInput) -> None:
    """Make the partial file of results that are whole again, as before the last one came. Raises
    OSError, UsageError when they are of another input."""
    path, known = partial_file(out), set(batch.keys())
    if not path.exists():  # else a run that was killed between the two has done this already
        temporary = path.with_name(path.name + ".tmp")
        with _private_file(temporary) as file, out.open("rb") as results:
            file.write(json.dumps({_HEADER: batch.sha256}).encode() + b"\n")
            for raw in results:
                found = result_id(raw)
                if found is None or id_key(found[0]) not in known:
                    temporary.unlink()
                    raise UsageError(f"{out} holds no results of {batch.path}.")
                file.write(raw)
            file.flush()
            sync(file.fileno())
        rename(temporary, path, path.exists)
    out.unlink()


def _private_file(path: Path) -> BinaryIO:
    """Open a file for writing that its owner alone can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error.strerror or error}. What is done is kept; make room and "
        "start the same command again."
    )
