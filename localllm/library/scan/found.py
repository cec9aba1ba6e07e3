"""Models in another program's folders, and the bounded reading of such folders.

Nothing in them can be trusted: a file may be half written, huge, a link in a circle or made to
mislead. So every read here has a limit, and a name that was found becomes a path only after it
matches a strict pattern.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.core.model.file_types import label_in, split_of
from localllm.errors import LocalLLMError
from localllm.library.files.checksum import open_regular
from localllm.library.files.names import printable

MAX_JSON_BYTES = 4 * 2**20
_MAX_DEPTH = 6
_MAX_FOLDERS = 50_000
_MAX_FILES = 20_000
_MMPROJ_QUANTS = ("F16", "BF16", "Q8_0", "F32")
"""Best first. An mmproj is small: the precision that publishers test with, then the nearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model in another program's folder.

    `sha256s` are digests stated there, by path; `name` is the model's name there, None where only
    its header has one.
    """

    path: Path
    source: str
    sha256s: Mapping[Path, str] = field(default_factory=dict)
    mmproj: Path | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A file or folder that is no model. `reason` is a sentence without its end."""

    path: Path
    reason: str


def gguf_files(root: Path) -> Iterator[Path | SkippedFile]:
    """Yield every GGUF file below `root`, in order, through links too but never in a circle."""
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
        # By device and inode: a link may lead back to a folder under another path.
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
            yield SkippedFile(
                path=root, reason="it has too many folders or files; the rest was left"
            )
            return
    for each in unreadable:
        yield SkippedFile(path=Path(each.filename), reason=f"it cannot be read: {each.strerror}")


def models_among(
    files: Iterable[Path], to_model: Callable[[Path], FoundModel | SkippedFile | None]
) -> Iterator[FoundModel | SkippedFile]:
    """Yield the models among the files of one publisher: a split one once, each with the mmproj.

    `to_model` makes a model of a file; None leaves the file out.
    """
    files = tuple(files)
    mmprojs = sorted((each for each in files if _is_mmproj(each)), key=_preference)
    splits: set[tuple[Path, str, int]] = set()
    models = 0
    for file in files:
        if _is_mmproj(file):
            continue
        if (split := split_of(file.name)) is not None:
            model = (file.parent, split[0], split[2])
            if model in splits:
                continue
            splits.add(model)
        match to_model(file):
            case FoundModel() as found:
                models += 1
                yield _with_mmproj(found, mmprojs)
            case SkippedFile() as skipped:
                yield skipped
    if not models:
        for mmproj in mmprojs:
            yield SkippedFile(path=mmproj, reason="it is an encoder (mmproj) without its model")


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
    """Read a file of at most `limit_bytes`, never waiting for a pipe.

    Raises ValueError with the reason.
    """
    try:
        with open_regular(path) as (stream, _):
            data = stream.read(limit_bytes + 1)
    except (LocalLLMError, OSError) as error:
        raise ValueError(str(error).rstrip(".")) from error
    if len(data) > limit_bytes:
        raise ValueError(f"{printable(path)} is larger than {limit_bytes} bytes")
    return data


def folders_in(root: Path) -> Iterator[Path]:
    """Yield the folders directly in `root`, in order; none when it cannot be read."""
    try:
        with os.scandir(root) as entries:
            found = sorted(each.path for each in entries if each.is_dir())
    except OSError:
        return
    yield from map(Path, found[:_MAX_FOLDERS])


def _with_mmproj(found: FoundModel, mmprojs: list[Path]) -> FoundModel:
    """Add the mmproj of a model: from its own folder, else from anywhere of the publisher's."""
    if found.mmproj is not None or not mmprojs:
        return found
    near = [each for each in mmprojs if each.parent == found.path.parent]
    return replace(found, mmproj=(near or mmprojs)[0])


def _is_mmproj(file: Path) -> bool:
    return "mmproj" in file.name.lower()


def _preference(mmproj: Path) -> tuple[int, str]:
    label = label_in(mmproj.stem)
    known = label in _MMPROJ_QUANTS
    return (_MMPROJ_QUANTS.index(label) if known and label else len(_MMPROJ_QUANTS), mmproj.name)
