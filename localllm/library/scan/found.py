"""What a look into another program's folders gives: models, and files that are none and why.

These folders are not ours. Whatever is in them may be half written, huge, a link in a circle or
made to mislead: everything that is read here has a limit, and names found in it become a path
only after they match a strict pattern.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localllm.core.model.file_types import label_in, split_of
from localllm.errors import LocalLLMError
from localllm.library.files.checksum import open_regular
from localllm.library.files.names import printable

MAX_JSON_BYTES = 4 * 2**20
_MAX_DEPTH = 6
_MAX_FOLDERS = 50_000
_MAX_FILES = 20_000
_ENCODER_QUANTS = ("F16", "BF16", "Q8_0", "F32")
"""Encoders are small: the precision that their publishers test with, then the nearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model in another program's folder. `sha256s` are digests stated there, by path; `name` is
    what it is called there, None where only its header names it."""

    path: Path
    source: str
    sha256s: Mapping[Path, str] = field(default_factory=dict)
    mmproj: Path | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A file or folder that was passed over. `reason` is a sentence without its end."""

    path: Path
    reason: str


def gguf_files(root: Path) -> Iterator[Path | Passed]:
    """Every GGUF file below `root`, in order, through links too but never in a circle."""
    seen: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    files = 0
    for folder, folders, file_names in os.walk(root, followlinks=True, onerror=unreadable.append):
        here = Path(folder)
        try:
            status = here.stat()
        except OSError as error:  # it went away meanwhile
            unreadable.append(error)
            continue
        deep = len(here.parts) - len(root.parts) >= _MAX_DEPTH
        if (status.st_dev, status.st_ino) in seen or deep:
            folders.clear()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for file_name in sorted(file_names):
            if file_name.lower().endswith(".gguf"):
                files += 1
                yield here / file_name
        if len(seen) > _MAX_FOLDERS or files > _MAX_FILES:
            yield Passed(path=root, reason="it has too many folders or files; the rest was left")
            return
    for each in unreadable:
        yield Passed(path=Path(each.filename), reason=f"it cannot be read: {each.strerror}")


def together(
    files: Iterable[Path], made: Callable[[Path], Found | Passed | None]
) -> Iterator[Found | Passed]:
    """Models among files of one publisher's folder: parts of a split one once, the encoder (mmproj)
    with each model. `made` makes a file a model."""
    files = tuple(files)
    encoders = sorted((each for each in files if _is_encoder(each)), key=_preference)
    stems: set[tuple[Path, str, int]] = set()
    models = 0
    for file in files:
        if _is_encoder(file):
            continue
        if (split := split_of(file.name)) is not None:
            whole = (file.parent, split[0], split[2])
            if whole in stems:
                continue
            stems.add(whole)
        match made(file):
            case Found() as found:
                models += 1
                yield _with_encoder(found, encoders)
            case Passed() as passed:
                yield passed
    if not models:
        for mmproj in encoders:
            yield Passed(path=mmproj, reason="it is an encoder (mmproj) without its model")


def read_json(path: Path) -> Mapping[str, object]:
    """Read a small JSON object. Raises ValueError with the reason."""
    data = read_small(path, MAX_JSON_BYTES)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(path)} is no JSON") from error
    if not isinstance(document, dict):
        raise ValueError(f"{printable(path)} is no JSON object")
    return document


def read_small(path: Path, limit_bytes: int) -> bytes:
    """Read a file of at most `limit_bytes`, never waiting for a pipe. Raises ValueError with the
    reason."""
    try:
        with open_regular(path) as (stream, _):
            data = stream.read(limit_bytes + 1)
    except (LocalLLMError, OSError) as error:
        raise ValueError(str(error).rstrip(".")) from error
    if len(data) > limit_bytes:
        raise ValueError(f"{printable(path)} is larger than {limit_bytes} bytes")
    return data


def folders_in(root: Path) -> Iterator[Path]:
    """The folders directly in `root`, in order; none when it cannot be read."""
    try:
        with os.scandir(root) as entries:
            found = sorted(each.path for each in entries if each.is_dir())
    except OSError:
        return
    yield from map(Path, found[:_MAX_FOLDERS])


def _with_encoder(found: Found, encoders: list[Path]) -> Found:
    """The encoder of a model: in its own folder, else anywhere in the publisher's."""
    if found.mmproj is not None or not encoders:
        return found
    near = [each for each in encoders if each.parent == found.path.parent]
    return Found(
        path=found.path,
        source=found.source,
        sha256s=found.sha256s,
        mmproj=(near or encoders)[0],
        name=found.name,
    )


def _is_encoder(file: Path) -> bool:
    return "mmproj" in file.name.lower()


def _preference(mmproj: Path) -> tuple[int, str]:
    label = label_in(mmproj.stem)
    known = label in _ENCODER_QUANTS
    return (_ENCODER_QUANTS.index(label) if known and label else len(_ENCODER_QUANTS), mmproj.name)
