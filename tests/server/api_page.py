"""docs/api.md as data: its tables by their headings, and its requests."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
URL = "http://127.0.0.1:11711"

_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request of the page, in one of the languages that it has them in."""

    language: str
    text: str


def examples() -> list[Example]:
    blocks = _BLOCK.finditer(PAGE.read_text("utf-8"))
    return [Example(language=block[1], text=block[2]) for block in blocks]


def table(heading: str) -> dict[str, str]:
    """Return what happens here to each name in the table under a heading of the page."""
    page = PAGE.read_text("utf-8")
    headings = list(_HEADING.finditer(page))
    place = next((i for i, found in enumerate(headings) if found[1] == heading), None)
    assert place is not None, f"docs/api.md has no heading {heading!r}"
    end = headings[place + 1].start() if place + 1 < len(headings) else len(page)
    return dict(_rows(page[headings[place].end() : end]))


def _rows(section: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:  # a head, and a rule below it
        first, here = line.split("|")[1:3]
        for name in _NAME.findall(first):
            yield name, here.strip()
