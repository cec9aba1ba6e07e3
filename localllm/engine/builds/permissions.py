"""Who else could change a build: on a shared machine, a library that others can write is theirs.

POSIX modes and owners only. Windows keeps rights in lists that Python's standard library cannot
read: nothing is checked there.
"""

import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file or directory with its owner and mode (`stat.st_mode`)."""

    path: Path
    owner: int
    mode: int


def permission_problem(files: Iterable[Path]) -> str | None:
    """Say who else could change one of these files or a directory above it; None when nobody can.

    Raises OSError for a file that is gone.
    """
    if sys.platform == "win32":
        return None
    # whose files are run anyway: root's, ours, and those of the owner of this program
    trusted = {0, os.geteuid(), _PACKAGE.stat().st_uid}
    return problem_of(_entries(files), trusted)


def problem_of(entries: Iterable[Entry], trusted: Collection[int]) -> str | None:
    """Say what is wrong with the first entry that somebody else could change.

    A directory that all may write, but in which each may only replace what is theirs (the sticky
    bit of /tmp), is no problem: the owner of what lies in it is looked at, too.
    """
    for entry in entries:
        open_to_all = entry.mode & stat.S_IWOTH
        sticky_directory = stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX
        if open_to_all and not sticky_directory:
            return f"{entry.path} can be written by every user. Mend it: chmod o-w {entry.path}"
        if entry.owner not in trusted:
            return (
                f"{entry.path} belongs to user {entry.owner}, who could change it. Copy the build "
                "to a directory of your own"
            )
    return None


def _entries(files: Iterable[Path]) -> Iterator[Entry]:
    """Yield the files and each directory above them once, links resolved."""
    seen: set[Path] = set()
    for file in files:
        whole = file.resolve(strict=True)
        for path in (whole, *whole.parents):
            if path in seen:
                break
            seen.add(path)
            status = path.stat()
            yield Entry(path=path, owner=status.st_uid, mode=status.st_mode)
