"""Who could change a policy file: it binds a user only where that user cannot write it.

POSIX: owner and mode of the file and of every directory above it. Windows: the owner and the list
of rights, as SDDL. Both are pure functions of what a reader finds; where the rights cannot be read,
the file is refused.
"""

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPath:
    """A file or directory with its owner's id and its mode (`stat.st_mode`)."""

    path: str
    owner: int
    mode: int


def posix_problem(paths: Iterable[OwnedPath], *, root: int = 0) -> str | None:
    """Say which of these, the file or a directory above it, somebody but root could change; None:
    none of them.

    A directory in which each may only replace what is theirs (the sticky bit of /tmp) is no
    problem: what lies in it is looked at, too.
    """
    for each in paths:
        if each.owner != root:
            return f"{each.path} belongs to user {each.owner} and not to root"
        sticky = stat.S_ISDIR(each.mode) and each.mode & stat.S_ISVTX
        if each.mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return f"others than root can write {each.path} (mode {stat.S_IMODE(each.mode):04o})"
    return None


_TRUSTED = {
    "SY": "the system",
    "BA": "the administrators",
    "S-1-5-18": "the system",
    "S-1-5-32-544": "the administrators",
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464": "TrustedInstaller",
}
"""Who may own or write a policy on Windows: well-known SIDs and their SDDL abbreviations."""
_ONLY_INHERITED = ("CO", "S-1-3-0")
"""CREATOR OWNER: a pattern for what is made later; it gives nobody a right to this file."""
_ACE = re.compile(r"\(([^()]*)\)")
_WRITING_WORDS = frozenset({"GA", "GW", "FA", "FW", "WD", "WO", "SD", "DC", "LC", "SW", "WP", "DT"})
"""Rights of SDDL that change a file or a directory, its owner or its rights (sddl.h)."""
_READING_WORDS = frozenset({"GR", "GX", "FR", "FX", "RC", "CC", "RP", "LO", "CR"})
_WRITING_BITS = 0x500D0156
"""GENERIC_ALL, GENERIC_WRITE, WRITE_OWNER, WRITE_DAC, DELETE, FILE_WRITE_ATTRIBUTES,
FILE_DELETE_CHILD, FILE_WRITE_EA, FILE_APPEND_DATA and FILE_WRITE_DATA (winnt.h)."""


def windows_problem(sddl: str, path: str) -> str | None:
    """Say who else could change a file or directory with these rights (SDDL); None: nobody.

    An owner and writers other than the system, the administrators and TrustedInstaller are a
    problem, and so is everything that is not understood.
    """
    owner = re.match(r"O:(S-[\d-]+|[A-Z]{2})", sddl)
    if owner is None or owner[1] not in _TRUSTED:
        who = "nobody that is known" if owner is None else owner[1]
        return f"{path} belongs to {who} and not to the administrators"
    _before, found, dacl = sddl.partition("D:")
    if not found or dacl.startswith("NO_ACCESS_CONTROL"):
        return f"{path} has no list of rights: every user can write it"
    for text in _ACE.findall(dacl.partition("S:(")[0]):
        fields = text.split(";")
        if len(fields) < 6:
            return f"{path} has a right that is not understood: ({text})"
        kind, flags, rights, sid = fields[0], fields[1], fields[2], fields[5]
        if kind in ("D", "OD", "XD") or "IO" in flags or sid in _ONLY_INHERITED:
            continue
        if sid not in _TRUSTED and _writes(rights):
            return f"{sid} can write {path}"
    return None


def _writes(rights: str) -> bool:
    """Tell whether rights of SDDL, a number or words of two letters, change something."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", rights):
        return bool(int(rights, 16) & _WRITING_BITS)
    words = {rights[at : at + 2] for at in range(0, len(rights), 2)}
    return bool(words & _WRITING_WORDS) or not words <= _READING_WORDS
