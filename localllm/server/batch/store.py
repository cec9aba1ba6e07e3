"""Files and batches of the API on this disk: JSON documents, and the bytes of files beside them.

    files/file-....json    what the file is        files/file-....jsonl    its lines
    batches/batch_....json what the batch is       batches/batch_....out   its results, for a moment

Everything is readable by its owner alone. An id becomes part of a path only after it was checked to
be one that this module makes. Each key (`Caller.identity`) sees what it has made and nothing else;
the owner of the server sees all.
"""

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from localllm.errors import NotFound, StoreError
from localllm.library.files.atomic_write import write_atomically
from localllm.policy.active import active_policy, require

_ID = re.compile(r"(?:file-|batch_)[0-9a-f]{24}")

T = TypeVar("T", "StoredFile", "StoredBatch")

MAX_FILES = 1000
"""Of all keys together."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded, or that a batch has written. Times are seconds since the epoch."""

    id: str
    owner: str
    filename: str
    bytes: int
    created_at: int
    purpose: str
    expires_at: int | None = None


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an input that is no request."""

    line: int
    message: str


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, its counts and its files. `status` is one of OpenAI's words."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    status: str = "validating"
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[LineError, ...] = ()
    output_expires_s: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def ended(self) -> bool:
        return self.status in {"completed", "failed", "cancelled", "expired"}


@dataclass(slots=True, kw_only=True)
class BatchStore:
    """The documents under `directory`, which is made when something is written."""

    directory: Path
    clock: Callable[[], float] = time.time
    _batches: dict[str, StoredBatch] = field(default_factory=dict)

    # --- files ---

    def files(self, owner: str | None) -> list[StoredFile]:
        """List the files of a key (None: of all), newest first. Raises StoreError."""
        found = [each for each in self._all_files() if owner in (None, each.owner)]
        return sorted(found, key=lambda each: (each.created_at, each.id), reverse=True)

    def file(self, file_id: str, owner: str | None) -> StoredFile:
        """Return a file of a key (None: of any). Raises NotFound."""
        found = self._read(self._files, file_id, StoredFile)
        if found is None or owner not in (None, found.owner) or self._expired(found):
            raise NotFound("There is no file with that id.")
        return found

    def content(self, file: StoredFile) -> Path:
        return self._files / f"{file.id}.jsonl"

    @contextlib.contextmanager
    def new_file(
        self, *, owner: str, filename: str = "", purpose: str = "batch"
    ) -> Iterator["NewFile"]:
        """Write a file, which is there when the block ends without an error. Raises StoreError, and
        PolicyRefused where nothing is kept on the disk."""
        require(active_policy().allows_keeping("disk"))
        with store_errors():
            self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sum(1 for _ in self._files.glob("file-*.json")) >= MAX_FILES:
                raise StoreError(
                    f"{MAX_FILES} files are stored already. Delete some: DELETE /v1/files/ID."
                )
            file_id = f"file-{secrets.token_hex(12)}"
            path = self._files / f"{file_id}.jsonl"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            new = NewFile(
                id=file_id, file=os.fdopen(descriptor, "wb"), filename=filename, purpose=purpose
            )
        try:
            with store_errors():
                yield new
                new.file.close()
                document = StoredFile(
                    id=file_id,
                    owner=owner,
                    filename=new.filename,
                    bytes=path.stat().st_size,
                    created_at=int(self.clock()),
                    purpose=new.purpose,
                    expires_at=new.expires_at,
                )
                self._write(self._files, file_id, document)
        except BaseException:
            with contextlib.suppress(OSError):
                new.file.close()
            path.unlink(missing_ok=True)
            raise

    def delete_file(self, file: StoredFile) -> None:
        """Delete a file. Raises StoreError."""
        with store_errors():
            (self._files / f"{file.id}.json").unlink(missing_ok=True)
            self.content(file).unlink(missing_ok=True)

    def delete_expired(self) -> None:
        """Delete the files whose time is over, and those whose upload was killed. To be called at
        the start, when nothing is being written. Raises StoreError."""
        with store_errors():
            known = {each.id for each in self._all_files() if not self._expired(each)}
            for path in self._files.glob("file-*"):
                if path.stem not in known:
                    path.unlink(missing_ok=True)

    # --- batches ---

    def batches(self, owner: str | None = None) -> list[StoredBatch]:
        """List the batches of a key (None: of all), newest first. Raises StoreError."""
        with store_errors():
            ids = [path.stem for path in self._batch_dir.glob("batch_*.json")]
        found = [self._batch(batch_id) for batch_id in ids]
        owned = [each for each in found if each and owner in (None, each.owner)]
        return sorted(owned, key=lambda each: (each.created_at, each.id), reverse=True)

    def batch(self, batch_id: str, owner: str | None) -> StoredBatch:
        """Return a batch of a key (None: of any). Raises NotFound."""
        found = self.batch_of_any(batch_id)
        if owner not in (None, found.owner):
            raise NotFound("There is no batch with that id.")
        return found

    def batch_of_any(self, batch_id: str) -> StoredBatch:
        """Return a batch, whoever has made it. Raises NotFound."""
        if (found := self._batch(batch_id)) is None:
            raise NotFound("There is no batch with that id.")
        return found

    def put_batch(self, batch: StoredBatch, *, keep: bool = True) -> StoredBatch:
        """Replace a batch; `keep` False: in memory alone, for counts that a journal has anyway.
        Raises StoreError."""
        if keep:
            with store_errors():
                self._batch_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._write(self._batch_dir, batch.id, batch)
        self._batches[batch.id] = batch
        return batch

    def results(self, batch: StoredBatch) -> Path:
        return self._batch_dir / f"{batch.id}.out"

    # --- inside ---

    @property
    def _files(self) -> Path:
        return self.directory / "files"

    @property
    def _batch_dir(self) -> Path:
        return self.directory / "batches"

    def _batch(self, batch_id: str) -> StoredBatch | None:
        return self._batches.get(batch_id) or self._read(self._batch_dir, batch_id, StoredBatch)

    def _all_files(self) -> list[StoredFile]:
        with store_errors():
            ids = [path.stem for path in self._files.glob("file-*.json")]
        found = (self._read(self._files, file_id, StoredFile) for file_id in ids)
        return [each for each in found if each is not None]

    def _expired(self, file: StoredFile) -> bool:
        return file.expires_at is not None and file.expires_at <= self.clock()

    @staticmethod
    def _read(folder: Path, name: str, kind: type[T]) -> T | None:
        if _ID.fullmatch(name) is None:
            return None
        try:
            return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError):
            return None

    @staticmethod
    def _write(folder: Path, name: str, document: StoredFile | StoredBatch) -> None:
        write_atomically(folder / f"{name}.json", msgspec.json.encode(document), private=True)


@dataclass(slots=True, kw_only=True)
class NewFile:
    """A file that is being written; what it is called may be known at its end only."""

    id: str
    file: BinaryIO
    filename: str
    purpose: str
    expires_at: int | None = None


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Make a StoreError of an OSError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"The files of batches cannot be read or written: {error.strerror or error}."
        ) from error


def is_success(raw: bytes) -> bool:
    """Tell whether a line of results is an answer, and not an error."""
    response = json.loads(raw)["response"]
    return response is not None and response["status_code"] < 400
