"""What models are called, and how a name becomes a path."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from localllm.core.model.file_types import quant_in as quant_in
from localllm.core.model.file_types import split_name as split_name
from localllm.core.model.file_types import split_of as split_of
from localllm.core.model.file_types import without_quant as without_quant
from localllm.core.model.spec import ModelSpec
from localllm.core.text import single_line
from localllm.errors import StoreError, UsageError

MAX_NAME = 80
_MAX_SLUG = 60  # leaves room for a quant and a number that make a name unique
_MAX_FILE_NAME = 120
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
"""Devices: on Windows `nul.gguf` is no file, in any directory."""

_REPO = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""`ORG/REPO`, or `REPO` alone for a few of the oldest (huggingface_hub's `validate_repo_id`)."""
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_COMMIT_SHOWN = 12
_HUB_PART = re.compile(r"[\w(\[][\w .,+=@#~!&'%()\[\]-]*")
"""One folder or file of a repository: letters of any script, and what no file system refuses."""
_MAX_PART_BYTES = 240  # file systems take 255; a download in progress adds ".part.json"
_MAX_FILE = 1000
_MAX_FOLDERS = 8
_OURS = (".part", ".part.json", ".part.lock", ".lock", ".tmp")
"""Endings of the files that downloads and locks keep beside a model."""
_OURS_AT_END = re.compile(r"\.part(?:\.json|\.lock)?$")


def slug(text: str) -> str:
    """Make a name of outside text: "Qwen3 8B" -> "qwen3-8b"; "" when nothing is left of it."""
    decomposed = unicodedata.normalize("NFKD", single_line(text[:1000])).lower()
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    plain = re.sub(r"[^a-z0-9._-]+", "-", plain)
    plain = re.sub(r"[._-]{2,}", "-", plain).strip("._-")[:_MAX_SLUG].strip("._-")
    return plain if _well_formed(plain) else ""


def valid(name: str) -> bool:
    """Whether `name` can be a model's name, and so a file's."""
    return len(name) <= MAX_NAME and _well_formed(name)


def checked(name: str) -> str:
    """Give back a name that a person chose. Raises UsageError when it cannot be one."""
    if valid(name):
        return name
    raise UsageError(
        f"{single_line(name)[:80]!r} cannot be a model's name: at most {MAX_NAME} lowercase letters"
        f" and digits, with single . _ or - between them. Try {slug(name) or 'my-model'!r}."
    )


def path_in(root: Path, name: str, suffix: str = ".gguf") -> Path:
    """The file of `name` in `root`: the only way from a name to a path.

    Raises StoreError for a name that is none or that leads out of `root` (through a link).
    """
    path = root / f"{name}{suffix}"
    safe = len(name) <= _MAX_FILE_NAME and _well_formed(name)
    if not safe or not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{single_line(name)[:80]!r} cannot name a file in {root}.")
    return path


def is_repo(text: str) -> bool:
    """Whether `text` can be the name of a Hub repository: ORG/REPO."""
    return _REPO.fullmatch(text) is not None and ".." not in text


def unusable(file: str) -> str | None:
    """Why a repository's file can lie on no disk of ours under its name; None when it can."""
    return _unusable(file.split("/"))


def hub_path(root: Path, repo: str, file: str, *, commit: str | None = None) -> Path:
    """The place below `root` of a file of a Hub repository: the only way from the network's names
    to a path. With `commit` it is beside the usual one, for a file that is not as it was in the
    commit that lies there.

    Raises StoreError, with the name, for one that could lead elsewhere, that some file system
    cannot hold, that is ours, or that differs only in case from what is there already.
    """
    said = f"{single_line(repo)[:200]}: {single_line(file)[:200]!r}"
    if not is_repo(repo):
        raise StoreError(f"{single_line(repo)[:200]!r} cannot be the name of a Hub repository.")
    if commit is not None and _COMMIT.fullmatch(commit) is None:
        raise StoreError(f"{said} has no usable commit: {single_line(commit)[:80]!r}.")
    if len(file) > _MAX_FILE:
        raise StoreError(f"{said}... cannot be a file here: its name has {len(file)} characters.")
    folders = repo.split("/")
    if commit is not None:
        folders[-1] += f"@{commit[:_COMMIT_SHOWN]}"
    parts = (*folders, *file.split("/"))
    if (wrong := _unusable(parts)) is not None:
        raise StoreError(f"{said} cannot be a file here: {wrong}.")
    path = root.joinpath(*parts)
    if (wrong := _occupied(root, parts)) is not None:
        raise StoreError(f"{said} cannot be a file here: {wrong}.")
    return path


def plain_path(directory: Path, file_name: str) -> Path:
    """The place of a file of the Hub in a directory that a person chose. Raises StoreError, as
    `hub_path`."""
    said = repr(single_line(file_name)[:200])
    wrong = _unusable((file_name,)) or _occupied(directory, (file_name,))
    if wrong is not None:
        raise StoreError(f"{said} cannot be a file in {printable(directory)}: {wrong}.")
    return directory / file_name


def below(root: Path, relative: str) -> Path:
    """The file of a path that `hub_path` gave, written relative to its root. Raises StoreError."""
    parts = relative.split("/")
    path = root.joinpath(*parts)
    if _unusable(parts) is not None or not _leads_inside(root, path):
        raise StoreError(f"{single_line(relative)[:200]!r} cannot name a file in {root}.")
    return path


def candidates(spec: ModelSpec, stem: str) -> Iterator[str]:
    """Names for a model, best first: its own, its parts' (llama.cpp's naming convention), its
    file's, and one that is always possible."""
    yield from filter(None, (slug(spec.name or ""),))
    parts = (spec.metadata.get(f"general.{key}") for key in ("basename", "size_label", "finetune"))
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) > 1:
        yield from filter(None, (slug("-".join(texts)),))
    yield from filter(None, (slug(without_quant(stem)),))
    yield "model"


def printable(text: Path | str) -> str:
    """A path or a name as it may stand in a message: files' names are outside text."""
    return single_line(str(text))


def _well_formed(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def _unusable(parts: Sequence[str]) -> str | None:
    """Why the parts of a path cannot be one on every system; None when they can."""
    if len(parts) > _MAX_FOLDERS:
        return f"it is {len(parts)} folders deep"
    for part in parts:
        shown_part = repr(single_line(part)[:80])
        if _HUB_PART.fullmatch(part) is None or part != unicodedata.normalize("NFC", part):
            return f"{shown_part} holds what a name must not, or is none"
        if part.endswith((".", " ")):
            return f"{shown_part} ends in a dot or a blank, which Windows drops"
        if len(part.encode()) > _MAX_PART_BYTES:
            return f"{shown_part}... is longer than {_MAX_PART_BYTES} bytes"
        if _RESERVED.fullmatch(_folded(part).replace(" ", "")):
            return f"{shown_part} is a device on Windows"
        if part.lower().endswith(_OURS):
            return f"{shown_part} has the ending of a download in progress"
    return None


def _occupied(root: Path, parts: Sequence[str]) -> str | None:
    """What on the disk keeps these parts from being a path of their own; None when nothing."""
    folder = root
    for number, part in enumerate(parts):
        try:
            there = os.listdir(folder)  # noqa: PTH208  # names are all that is wanted
        except FileNotFoundError:
            break
        except NotADirectoryError:
            return f"{printable(folder)} is a file"
        except OSError as error:
            return f"{printable(folder)} cannot be read: {error.strerror}"
        for each in there:
            final = _OURS_AT_END.sub("", each)  # a download in progress has its place too
            if final != part and _folded(final) == _folded(part):
                return f"{printable(folder / final)} is there already and differs only in case"
        folder = folder / part
        if number == len(parts) - 1 and folder.is_dir():
            return f"{printable(folder)} is a directory"
    return None if _leads_inside(root, root.joinpath(*parts)) else "a link there leads elsewhere"


def _leads_inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _folded(name: str) -> str:
    """A name as a file system sees it that knows neither case nor two ways to write a letter."""
    return unicodedata.normalize("NFKC", name).casefold()
