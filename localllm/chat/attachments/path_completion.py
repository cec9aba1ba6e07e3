"""The files and folders that a path which is being typed can become.

A folder may have a million entries, or lie on a network that answers slowly: so many are looked at
and no more, and only those that are offered are asked whether they are folders. Call it in a
thread.
"""

import os
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from localllm.core.text import strip_controls

MAX_ENTRIES = 20_000
"""Of one folder that are looked at: names alone, some 20 ms."""
MAX_COMPLETIONS = 200

_SEPARATORS = ("/", "\\") if sys.platform == "win32" else ("/",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCompletion:
    """What a typed path can become. `text` is the whole path as it is typed then, a folder's with
    a separator at its end; `name` is its last part."""

    text: str
    name: str
    is_folder: bool
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCompletions:
    """Completions, folders first, then by name. `incomplete`: there may be more."""

    completions: tuple[PathCompletion, ...] = ()
    incomplete: bool = False


def complete_path(typed: str, *, base: Path, folders_only: bool = False) -> PathCompletions:
    """Complete a path that is relative to `base`, absolute, or begins with ~.

    Case does not matter. Hidden entries are offered when the name begins with a dot. A folder that
    cannot be read has no completions.
    """
    folder_text, prefix = _split(typed)
    folder = Path(os.path.join(base, os.path.expanduser(folder_text)))  # noqa: PTH111, PTH118
    wanted = prefix.casefold()
    try:
        with os.scandir(folder) as entries:
            looked_at = list(islice(entries, MAX_ENTRIES + 1))
    except (OSError, ValueError):
        return PathCompletions()
    incomplete = len(looked_at) > MAX_ENTRIES
    matching = [entry for entry in looked_at if _matches(entry.name, wanted)]
    matching.sort(key=lambda entry: entry.name.casefold())
    incomplete = incomplete or len(matching) > MAX_COMPLETIONS
    made = [_completion(folder_text, entry) for entry in matching[: 5 * MAX_COMPLETIONS]]
    offered = [each for each in made if each.is_folder or not folders_only]
    offered.sort(key=lambda each: (not each.is_folder, each.name.casefold()))
    return PathCompletions(completions=tuple(offered[:MAX_COMPLETIONS]), incomplete=incomplete)


def _split(typed: str) -> tuple[str, str]:
    """Cut a path into its folder, with the separator, and the beginning of a name."""
    if typed == "~":
        return "~/", ""
    at = max(typed.rfind(separator) for separator in _SEPARATORS) + 1
    if not at and sys.platform == "win32" and typed[1:2] == ":":
        return typed[:2], typed[2:]
    return typed[:at], typed[at:]


def _matches(name: str, wanted: str) -> bool:
    if name.startswith(".") and not wanted.startswith("."):
        return False
    # A name with controls could not be shown as it is, nor typed.
    return name.casefold().startswith(wanted) and name == strip_controls(name) and "\n" not in name


def _completion(folder_text: str, entry: os.DirEntry[str]) -> PathCompletion:
    try:
        is_folder = entry.is_dir()
        size_bytes = None if is_folder else entry.stat().st_size
    except OSError:  # a link that leads nowhere
        is_folder, size_bytes = False, None
    separator = "\\" if "\\" in folder_text and "/" not in folder_text else "/"
    text = folder_text + entry.name + (separator if is_folder else "")
    return PathCompletion(text=text, name=entry.name, is_folder=is_folder, size_bytes=size_bytes)
