"""Files that are named in a question with @: `@notes.md`, `@"my notes.md"`, `@~/a/b.pdf`.

A name begins where a word begins, so that an address of mail is none. Names with blanks stand in
quotation marks; on POSIX a blank may be written with a backslash too, as terminals do when a file
is dropped on them. What is no file stays text: people are addressed with @ as well.
"""

import re
import sys
from dataclasses import dataclass

_BARE = r"(?:\\.|[^\s\"'\\])(?:\\.|[^\s\\])*" if sys.platform != "win32" else r"[^\s\"'][^\s]*"
_REFERENCE = re.compile(
    rf"""(?<!\S)@(?:"(?P<double>[^"\n]*)"?|'(?P<single>[^'\n]*)'?|(?P<bare>{_BARE}))"""
)
_TRAILING = ".,;:!?)]}"
"""Of a sentence and not of the name, where a file of the whole name does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReference:
    """A name behind @ in a text: `path` as it was meant, from `start` up to `end` in the text,
    the @ and the quotation marks included."""

    path: str
    start: int
    end: int


def file_references(text: str) -> tuple[FileReference, ...]:
    """Find the names behind @, in their order."""
    return tuple(_reference(match) for match in _REFERENCE.finditer(text) if _name(match))


def reference_at(text: str, cursor: int) -> FileReference | None:
    """Return the name that is being typed: it begins before the cursor and ends at it. None where
    there is none. The path may be empty: only @ was typed."""
    before = text[:cursor]
    if re.search(r"(?<!\S)@\Z", before):
        return FileReference(path="", start=cursor - 1, end=cursor)
    for match in _REFERENCE.finditer(before):
        if match.end() == len(before):
            closed = match["bare"] is None and len(match[0]) > 2 and match[0][-1] == match[0][1]
            return None if closed else _reference(match)
    return None


def spelled(path: str, *, unfinished: bool = False) -> str:
    """Write a path behind @ so that it is read back as it is. `unfinished`: it goes on, so its
    quotation mark is left open."""
    if re.fullmatch(_BARE, path) and "\\" not in path:
        return f"@{path}"
    if sys.platform == "win32" and re.fullmatch(_BARE, path):
        return f"@{path}"
    quote = "'" if '"' in path else '"'
    return f"@{quote}{path}{'' if unfinished else quote}"


def without_punctuation(path: str) -> str:
    """Return a name without the end of the sentence that it stands in."""
    return path.rstrip(_TRAILING)


def _name(match: re.Match[str]) -> str:
    return match["double"] or match["single"] or match["bare"] or ""


def _reference(match: re.Match[str]) -> FileReference:
    path = _name(match)
    if match["bare"] is not None and sys.platform != "win32":
        path = re.sub(r"\\(.)", r"\1", path)
    return FileReference(path=path, start=match.start(), end=match.end())
