"""Validate a repository's list of files.

A name in it becomes a path one day. One GGUF file with a hostile name rejects the whole list, by
name: a publisher of such a file is not trusted with the others. A file whose name is only unusable
on some system is left out.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from localllm.core.model.file_types import split_name, split_of
from localllm.errors import HubError, NotFound
from localllm.library.files import names

MAX_NAME = 400
MAX_BYTES = 1 << 50
MAX_PARTS = 500
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]*[A-Za-z0-9_-]")
_MAX_REPO = 96  # huggingface_hub's `validate_repo_id`


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository; `name` is its path there.

    `sha256` is the Hub's for a large file (LFS), None for a small one.
    """

    name: str
    size_bytes: int
    sha256: str | None


def repo_problem(name: object) -> str | None:
    """Say why something cannot be a repository's name (ORG/REPO); None when it can."""
    if not isinstance(name, str) or _REPO.fullmatch(name) is None:
        return "one is written ORG/REPO, in plain letters, digits and - _ ."
    if len(name) > _MAX_REPO:
        return f"it has {len(name)} characters and may have {_MAX_REPO}"
    if "--" in name or ".." in name or name.endswith(".git"):
        return "it holds -- or .., or ends in .git"
    return None


def validated(repo: str, entries: Iterable[tuple[object, object, object]]) -> tuple[HubFile, ...]:
    """Return the usable files of a list of names, sizes and SHA-256 sums.

    Raises HubError with the name of the file that rejects the list.
    """
    files: list[HubFile] = []
    models: set[str] = set()
    for name, size, sha256 in entries:
        if not isinstance(name, str):
            raise HubError(f"{repo} lists a file without a name. Nothing of it is used.")
        model = ".gguf" in name.lower()
        if model and (problem := _hostile(name, models)) is not None:
            raise _rejected(repo, name, problem)
        if len(name) > MAX_NAME or names.path_problem(name) is not None:
            continue
        file = _file(name, size, sha256)
        if file is not None:
            files.append(file)
        elif model:
            raise _rejected(repo, name, "its size or its SHA-256 is none")
    return tuple(files)


def parts(files: Sequence[HubFile], file: str, repo: str) -> tuple[HubFile, ...]:
    """Return the file of that name, or all parts of its split model in order.

    Raises NotFound for one that is not listed.
    """
    listed = {each.name: each for each in files}
    part_names, split = [file], split_of(file)
    if split is not None:
        stem, _, count = split
        if not 1 <= count <= MAX_PARTS:
            raise NotFound(f"{repo}: {_quoted(file)} is called a part of {count}; nothing is.")
        part_names = [split_name(stem, number, count, file[-5:]) for number in range(1, count + 1)]
    missing = next((name for name in part_names if name not in listed), None)
    if missing is not None:
        raise NotFound(f"{repo} has no file {_quoted(missing)}.")
    return tuple(listed[name] for name in part_names)


def _hostile(name: str, models: set[str]) -> str | None:
    """Say why a model's file name is dangerous; None when it is not.

    `models` are the names before it. Two that differ in case alone are one file on macOS and
    Windows; the store finds a place for each (`names.hub_path`).
    """
    if len(name) > MAX_NAME:
        return f"the name has {len(name)} characters"
    if not name.isprintable():
        return "the name holds characters that are not shown"
    if "\\" in name or name[1:2] == ":":
        return "the name is a path on Windows"
    if name.startswith(("/", "~")) or ".." in name.split("/"):
        return "the name leads out of the repository"
    if name in models:
        return "it is listed twice"
    models.add(name)
    return None


def _file(name: str, size: object, sha256: object) -> HubFile | None:
    """Return the file; None when its size or its SHA-256 is not valid."""
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BYTES:
        return None
    if sha256 is None:
        return HubFile(name=name, size_bytes=size, sha256=None)
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
        return HubFile(name=name, size_bytes=size, sha256=sha256)
    return None


def _rejected(repo: str, name: str, problem: str) -> HubError:
    return HubError(f"{repo} lists the file {_quoted(name)}: {problem}. Nothing of it is used.")


def _quoted(name: str) -> str:
    """Quote a name for a message with every character visible."""
    return repr(name[:120])
