"""Names of models, and the only ways from a name to a path.

Names come from headers, file lists and users, none of which may choose where a file is written. So
every path that is made of a name is made here, by `path_in`, `hub_path`, `plain_path` or `below`.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from localllm.core.text import single_line
from localllm.errors import StoreError, UsageError


class DiffersInCase(StoreError):
    """A file cannot have its place, because one whose name differs in case alone is there."""


MAX_NAME = 80
_MAX_SLUG = 60  # leaves room for a quant and a number that make a name unique
_MAX_FILE_NAME = 120
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
"""Devices on Windows: `nul.gguf` is not a file there, in any directory."""

_WORD_SEPARATORS = re.compile(r"[\s._:@/-]+")
_ENDINGS = re.compile(r"(?:\.gguf|:latest)\Z", re.IGNORECASE)

_REPO = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""`ORG/REPO`, or `REPO` alone for a few of the oldest (huggingface_hub's `validate_repo_id`)."""
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_COMMIT_LENGTH = 12
_HUB_PART = re.compile(r"[\w(\[][\w .,+=@#~!&'%()\[\]-]*")
"""One folder or file of a repository: letters of any script, and what no file system refuses."""
_MAX_PART_BYTES = 240  # file systems take 255; a download in progress adds ".part.json"
_DIFFERS_IN_CASE = "is there already and differs only in case"
_MAX_FILE = 1000
_MAX_FOLDERS = 8
_RESERVED_SUFFIXES = (".part", ".part.json", ".part.lock", ".lock", ".lock.held", ".tmp")
"""Endings of the files that downloads and locks make beside a model."""
_DOWNLOAD_SUFFIX = re.compile(r"\.part(?:\.json|\.lock(?:\.held)?)?$")


def slug(text: str) -> str:
    """Make a name of untrusted text: "Qwen3 8B" -> "qwen3-8b"; "" when nothing is left of it."""
    decomposed = unicodedata.normalize("NFKD", single_line(text[:1000])).lower()
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    plain = re.sub(r"[^a-z0-9._-]+", "-", plain)
    plain = re.sub(r"[._-]{2,}", "-", plain).strip("._-")[:_MAX_SLUG].strip("._-")
    return plain if _well_formed(plain) else ""


def spelling_key(text: str) -> str:
    """Return what all spellings of a name have in common: "Qwen3_8B.gguf" -> "qwen3-8b"."""
    return _WORD_SEPARATORS.sub("-", _ENDINGS.sub("", text.strip())).strip("-").casefold()


def valid(name: str) -> bool:
    """Tell whether `name` can be a model's name, and so a file's."""
    return len(name) <= MAX_NAME and _well_formed(name)


def checked(name: str) -> str:
    """Return a name that a user chose. Raises UsageError when it is not valid."""
    if valid(name):
        return name
    raise UsageError(
        f"{single_line(name)[:80]!r} cannot be a model's name: at most {MAX_NAME} lowercase letters"
        f" and digits, with single . _ or - between them. Try {slug(name) or 'my-model'!r}."
    )


def path_in(root: Path, name: str, suffix: str = ".gguf") -> Path:
    """Return the file of the model `name` in `root`.

    Raises StoreError for an invalid name, or one that leads out of `root` (through a link).
    """
    path = root / f"{name}{suffix}"
    safe = len(name) <= _MAX_FILE_NAME and _well_formed(name)
    if not safe or not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{single_line(name)[:80]!r} cannot name a file in {root}.")
    return path


def is_repo(text: str) -> bool:
    """Tell whether `text` can be the name of a Hub repository: ORG/REPO."""
    return _REPO.fullmatch(text) is not None and ".." not in text


def path_problem(file: str) -> str | None:
    """Say why a repository's file cannot have its name on every system; None when it can."""
    return _path_problem(file.split("/"))


def hub_path(root: Path, repo: str, file: str, *, commit: str | None = None) -> Path:
    """Return the place below `root` of a file of a Hub repository.

    With `commit` it is beside the usual place, for a file that differs from the one of another
    commit that is there. Raises StoreError, with the name, for one that could lead elsewhere, that
    some file system cannot hold, that has an ending of our own files, or that differs only in case
    from what is there already.
    """
    label = f"{single_line(repo)[:200]}: {single_line(file)[:200]!r}"
    if not is_repo(repo):
        raise StoreError(f"{single_line(repo)[:200]!r} cannot be the name of a Hub repository.")
    if commit is not None and _COMMIT.fullmatch(commit) is None:
        raise StoreError(f"{label} has no usable commit: {single_line(commit)[:80]!r}.")
    if len(file) > _MAX_FILE:
        raise StoreError(f"{label}... cannot be a file here: its name has {len(file)} characters.")
    folders = repo.split("/")
    if commit is not None:
        folders[-1] += f"@{commit[:_COMMIT_LENGTH]}"
    parts = (*folders, *file.split("/"))
    if (problem := _path_problem(parts)) is not None:
        raise StoreError(f"{label} cannot be a file here: {problem}.")
    path = root.joinpath(*parts)
    if (problem := _occupied(root, parts)) is not None:
        kind = DiffersInCase if problem.endswith(_DIFFERS_IN_CASE) else StoreError
        raise kind(f"{label} cannot be a file here: {problem}.")
    return path


def repo_here(root: Path, repo: str) -> str:
    """Return the name of a repository as its folders below `root` spell it; `repo` without any.

    The Hub's names differ in more than case, so another spelling is the same repository.
    """
    folder, spelled = root, []
    for part in repo.split("/"):
        try:
            entries = os.listdir(folder)  # noqa: PTH208  # only names are needed
        except OSError:
            entries = []
        spelled.append(part if part in entries else _twin(entries, part) or part)
        folder = folder / spelled[-1]
    return "/".join(spelled)


def plain_path(directory: Path, file_name: str) -> Path:
    """Return the place of a Hub file in a directory that the user chose.

    Raises StoreError as `hub_path` does.
    """
    label = repr(single_line(file_name)[:200])
    problem = _path_problem((file_name,)) or _occupied(directory, (file_name,))
    if problem is not None:
        raise StoreError(f"{label} cannot be a file in {printable(directory)}: {problem}.")
    return directory / file_name


def below(root: Path, relative: str) -> Path:
    """Return the path of a file that the index names relative to `root`, checked as in `hub_path`.

    Raises StoreError.
    """
    parts = relative.split("/")
    path = root.joinpath(*parts)
    if _path_problem(parts) is not None or not _leads_inside(root, path):
        raise StoreError(f"{single_line(relative)[:200]!r} cannot name a file in {root}.")
    return path


def printable(text: Path | str) -> str:
    """Make a path or a name fit for a message: files' names are untrusted text."""
    return single_line(str(text))


def _well_formed(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def _path_problem(parts: Sequence[str]) -> str | None:
    """Say why the parts of a path are not valid on every system; None when they are."""
    if len(parts) > _MAX_FOLDERS:
        return f"it is {len(parts)} folders deep"
    for part in parts:
        label = repr(single_line(part)[:80])
        if _HUB_PART.fullmatch(part) is None or part != unicodedata.normalize("NFC", part):
            return f"{label} holds what a name must not, or is none"
        if part.endswith((".", " ")):
            return f"{label} ends in a dot or a blank, which Windows drops"
        if len(part.encode()) > _MAX_PART_BYTES:
            return f"{label}... is longer than {_MAX_PART_BYTES} bytes"
        if _RESERVED.fullmatch(_folded(part).replace(" ", "")):
            return f"{label} is a device on Windows"
        if part.lower().endswith(_RESERVED_SUFFIXES):
            return f"{label} has the ending of a download in progress"
    return None


def _occupied(root: Path, parts: Sequence[str]) -> str | None:
    """Say what on the disk conflicts with a new path of these parts; None when nothing does."""
    folder = root
    for number, part in enumerate(parts):
        try:
            entries = os.listdir(folder)  # noqa: PTH208  # only names are needed
        except FileNotFoundError:
            break
        except NotADirectoryError:
            return f"{printable(folder)} is a file"
        except OSError as error:
            return f"{printable(folder)} cannot be read: {error.strerror}"
        if (twin := _twin(entries, part)) is not None:
            return f"{printable(folder / twin)} {_DIFFERS_IN_CASE}"
        folder = folder / part
        if number == len(parts) - 1 and folder.is_dir():
            return f"{printable(folder)} is a directory"
    return None if _leads_inside(root, root.joinpath(*parts)) else "a link there leads elsewhere"


def _twin(entries: Iterable[str], name: str) -> str | None:
    """Return the entry of a folder that differs from `name` in case alone, or will when it is
    downloaded; None when there is none."""
    finals = (_DOWNLOAD_SUFFIX.sub("", each) for each in entries)
    return next((each for each in finals if each != name and _folded(each) == _folded(name)), None)


def _leads_inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _folded(name: str) -> str:
    """Fold a name as a file system does that ignores case and the form of letters."""
    return unicodedata.normalize("NFKC", name).casefold()
