"""The file of the measurements that `bench` made on this machine, in the library's directory.

A measurement can be made again, so a damaged file is renamed and a new one begun, without the
salvage that the index gets.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localllm.core.speed.measured import MeasuredModel, Measurement
from localllm.errors import StoreError
from localllm.library.files import atomic_write
from localllm.library.files.file_lock import locked

SCHEMA = 1
MAX_FILE_BYTES = 16 * 2**20
"""Enough for some 30,000 measurements: a larger file is damaged."""

_log = logging.getLogger("localllm.library")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema: int
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    schema: int


class _Damaged(ValueError):
    """The content is not what `add` writes."""


def load(path: Path, *, warn: Callable[[str], None] = _log.warning) -> tuple[Measurement, ...]:
    """Read every measurement, oldest first; none when there is no file.

    Never fails: an estimate without measurements is only less exact. `warn` gets a sentence when
    the file cannot be read, or is damaged and was renamed.
    """
    try:
        return _read(path)
    except _Damaged:
        pass
    except StoreError as error:
        warn(str(error))
        return ()
    try:
        with _locked(path):
            return _read_or_set_aside(path, warn)
    except StoreError as error:
        warn(f"The measurements in {path} are damaged and are ignored. {error}")
        return ()


def add(path: Path, *new: Measurement, warn: Callable[[str], None] = _log.warning) -> None:
    """Add measurements, all or none; each replaces an older one of the same thing.

    Raises StoreError.
    """
    with _locked(path):
        others = [
            old
            for old in _read_or_set_aside(path, warn)
            if not any(measurement.replaces(old) for measurement in new)
        ]
        atomic_write.write_atomically(path, _dump((*others, *new)))


def forget(path: Path, model: MeasuredModel, warn: Callable[[str], None] = _log.warning) -> None:
    """Take out every measurement of a model. Raises StoreError."""
    with _locked(path):
        kept = (each for each in _read_or_set_aside(path, warn) if each.model != model)
        atomic_write.write_atomically(path, _dump(tuple(kept)))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file against other processes; turn what fails in the block into StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            yield
    except TimeoutError as error:
        raise StoreError(f"The measurements are in use: {error}. Try again.") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"The measurements in {path} cannot be changed: {error.strerror or error}. "
            "They are as they were."
        ) from error


def _read_or_set_aside(path: Path, warn: Callable[[str], None]) -> tuple[Measurement, ...]:
    """Read under the lock; rename a damaged file and return no measurements."""
    try:
        return _read(path)
    except _Damaged as damage:
        aside = atomic_write.unused_path(path.with_suffix(".damaged.json"))
        path.rename(aside)
        warn(
            f"The measurements in {path} were damaged ({damage}): the file is kept as "
            f"{aside.name}. Measure again with: localllm bench MODEL"
        )
        return ()


def _read(path: Path) -> tuple[Measurement, ...]:
    """Read and parse the file.

    Raises _Damaged, and StoreError for a file that cannot be read or has a later schema.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(
            f"The measurements in {path} cannot be read: {error.strerror or error}."
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise _Damaged(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        schema = msgspec.json.decode(data, type=_Version).schema
        if schema > SCHEMA:
            raise StoreError(
                f"{path} was written by a later localllm: it has schema {schema}, this version "
                f"reads {SCHEMA}. Update localllm."
            )
        return msgspec.json.decode(data, type=_Document).measurements
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Damaged(str(error)) from error


def _dump(measurements: tuple[Measurement, ...]) -> bytes:
    """Write one measurement a line, for people who look into the file."""
    lines = b",\n".join(msgspec.json.encode(each) for each in measurements)
    return b'{"schema":%d,"measurements":[\n%b\n]}\n' % (SCHEMA, lines)
