"""The input of a batch: a JSONL file, checked whole before its first request runs.

Only places and short keys of its lines are remembered, so that a file may be larger than memory.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.core.text import single_line
from localllm.errors import NotFound, UsageError
from localllm.server.batch.lines import (
    MAX_LINE_BYTES,
    BatchLine,
    InvalidLine,
    LineResult,
    id_key,
    parse_line,
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a line is, and the key of its id."""

    model: str
    number: int
    offset: int
    size: int
    key: bytes


@dataclass(slots=True, kw_only=True)
class BatchInput:
    """The lines of `path`. `sha256` is of all its bytes; `invalid` are results already."""

    path: Path
    sha256: str
    endpoint: str | None = None
    model: str | None = None
    places: list[_Place] = field(default_factory=list)
    invalid: list[tuple[int, LineResult]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.places) + len(self.invalid)

    def pending(self, done: set[bytes]) -> Iterator[BatchLine]:
        """Yield the lines whose keys are not in `done`: those of one model together, so that models
        change places in memory as seldom as can be. Raises OSError,
        UsageError when the file has changed."""
        with self.path.open("rb") as file:
            for place in sorted(self.places, key=lambda place: (place.model, place.number)):
                if place.key in done:
                    continue
                file.seek(place.offset)
                try:
                    yield self.parse(file.read(place.size), place.number)
                except InvalidLine as error:
                    raise UsageError(
                        f"Line {place.number} of {self.path} has changed meanwhile: it {error}."
                    ) from None

    def parse(self, raw: bytes, number: int) -> BatchLine:
        """Read one of its lines. Raises InvalidLine."""
        return parse_line(raw, number, endpoint=self.endpoint, model=self.model)

    def keys(self) -> list[bytes]:
        """Return the keys of all lines in the order of the file."""
        numbered = [(place.number, place.key) for place in self.places]
        numbered += [(number, id_key(result.custom_id)) for number, result in self.invalid]
        return [key for _, key in sorted(numbered)]


def scan(path: Path, *, endpoint: str | None = None, model: str | None = None) -> BatchInput:
    """Check each line of a file; blank ones are passed over.

    `endpoint`: the only one that its lines may have; `model`: of lines that name none. Raises
    NotFound, UsageError.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            found = BatchInput(path=path, sha256="", endpoint=endpoint, model=model)
            seen: set[bytes] = set()
            offset = number = 0
            while raw := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                start, offset = offset, offset + len(raw)
                digest.update(raw)
                while not raw.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                    digest.update(rest)
                    offset += len(rest)
                    raw = raw[: MAX_LINE_BYTES + 1] + rest[-1:]
                if raw.strip():
                    _add(found, raw, _Place("", number, start, len(raw), b""), seen)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not found.total:
        raise UsageError(
            f"{path} holds no request. Each line is one, such as "
            '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
        )
    found.sha256 = digest.hexdigest()
    found.invalid = [(number, _named(result, seen)) for number, result in found.invalid]
    return found


def _named(result: LineResult, seen: set[bytes]) -> LineResult:
    """Give the result of an invalid line an id that no other line has."""
    custom_id = result.custom_id
    while id_key(custom_id) in seen:
        custom_id += "-invalid"
    seen.add(id_key(custom_id))
    return replace(result, custom_id=custom_id)


def _add(found: BatchInput, raw: bytes, place: _Place, seen: set[bytes]) -> None:
    try:
        line = found.parse(raw, place.number)
        key = id_key(line.custom_id)
        if key in seen:
            shown = single_line(line.custom_id)[:80]
            raise InvalidLine(f"has a `custom_id` that an earlier line has: {shown}")
    except InvalidLine as error:
        # Not the line's own id, which may be another's: each result has one.
        custom_id = f"line-{place.number}"
        result = LineResult(custom_id=custom_id, error=f"Line {place.number} {error}.")
        found.invalid.append((place.number, result))
        return
    seen.add(key)
    found.places.append(_Place(line.model, place.number, place.offset, place.size, key))
