"""What was measured on this machine, kept in one file of the library's directory.

A measurement can be made again, so a damaged file is set aside whole and a new one begun.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localllm.core.speed.measured import Measurement
from localllm.errors import StoreError
from localllm.library.files import atomic_write

SCHEMA = 1
MAX_FILE_BYTES = 16 * 2**20
"""A larger file is not one that we wrote: this holds some 30,000 measurements."""

_log = logging.getLogger("localllm.library")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema: int
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    schema: int


class _Damaged(ValueError):
    """The file is not one that we wrote."""


def load(path: Path, *, warn: Callable[[str], None] = _log.warning) -> tuple[Measurement, ...]:
    """Read every measurement, oldest first; none when there is no file.

    Never fails: an estimate without them is only less exact. `warn` gets a sentence when the
    file cannot be read, or is damaged and was set aside.
    """
    try:
        return _read(path)
    except _Damaged:
        pass
    except StoreError as error:
        warn(str(error))
        return ()
    try:
        with _changing(path):
            return _mended(path, warn)
    except StoreError as error:
        warn(f"The measurements in {path} are damaged and are ignored. {error}")
        return ()


def add(path: Path, *new: Measurement, warn: Callable[[str], None] = _log.warning) -> None:
    """Keep measurements, all or none; each takes the place of an older one of the same thing.

    Raises StoreError.
    """
    with _changing(path):
        kept = [
            old
            for old in _mended(path, warn)
            if not any(measurement.replaces(old) for measurement in new)
        ]
        atomic_write.write_atomically(path, _dump((*kept, *new)))


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Hold the file alone, among all processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write.locked(path.with_suffix(".lock")):
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


def _mended(path: Path, warn: Callable[[str], None]) -> tuple[Measurement, ...]:
    """Read under the lock; a damaged file is renamed, and there are none then."""
    try:
        return _read(path)
    except _Damaged as damage:
        aside = _unused(path.with_suffix(".damaged.json"))
        path.rename(aside)
        warn(
            f"The measurements in {path} were damaged ({damage}): the file is kept as "
            f"{aside.name}. Measure again with: localllm bench MODEL"
        )
        return ()


def _read(path: Path) -> tuple[Measurement, ...]:
    """Raises _Damaged, and StoreError for a file that cannot be read or is of a later version."""
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
    """One measurement a line, for people who look into the file."""
    lines = b",\n".join(msgspec.json.encode(one) for one in measurements)
    return b'{"schema":%d,"measurements":[\n%b\n]}\n' % (SCHEMA, lines)


def _unused(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(each for each in itertools.chain((path,), numbered) if not each.exists())
