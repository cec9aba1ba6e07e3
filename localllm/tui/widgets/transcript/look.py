"""The styles of the transcript, as the theme has them, and the lines that all entries share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip
from textual.widget import Widget

from localllm.tui.markdown.style import MarkdownStyles

GUTTER: Final = 2
"""Columns before every line: the mark of the message under the cursor."""

MAX_TEXT_WIDTH: Final = 88
"""A line longer than this is hard to read: the eye loses the beginning of the next."""

CURSOR_MARK: Final = "▌ "

_CONSOLE = Console(width=80, color_system="truecolor", force_terminal=True, legacy_windows=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The styles of the transcript. `base` has the background that everything stands on."""

    base: Style = field(default_factory=Style)
    question: Style = field(default_factory=lambda: Style(bold=True))
    mark: Style = field(default_factory=Style)
    muted: Style = field(default_factory=Style)
    failed: Style = field(default_factory=Style)
    match: Style = field(default_factory=lambda: Style(reverse=True))
    markdown: MarkdownStyles = field(default_factory=MarkdownStyles)


def look_of(widget: Widget) -> Look:
    """Make the styles of a widget that has the component classes of the transcript."""
    base = widget.rich_style

    def of(name: str) -> Style:
        """Return a component's style; its background only where it is another one."""
        style = widget.get_component_rich_style(f"transcript--{name}")
        return Style(
            color=style.color,
            bgcolor=style.bgcolor if style.bgcolor != base.bgcolor else None,
            bold=style.bold or None,
            italic=style.italic or None,
            underline=style.underline or None,
            reverse=style.reverse or None,
        )

    muted = of("muted")
    return Look(
        base=base,
        question=of("question"),
        mark=of("mark"),
        muted=muted,
        failed=of("failed"),
        match=of("match"),
        markdown=MarkdownStyles(
            muted=muted,
            heading=of("heading"),
            code=of("code"),
            border=of("border"),
            link=of("link"),
            keyword=of("keyword"),
            string=of("string"),
            number=of("number"),
            name=of("name"),
            comment=muted,
        ),
    )


def text_width(width: int) -> int:
    """Return the columns that text takes of a transcript of this width."""
    return max(4, min(MAX_TEXT_WIDTH, width - GUTTER - 1))


def wrapped(
    text: str, width: int, style: Style, *, first: Segment | None = None, indent: int = 0
) -> list[Strip]:
    """Break plain text into lines; `first` stands before the first one, blanks before the others.

    A line ends where the text has one. Text without blanks is broken where the line is full.
    """
    lines = Text(text.expandtabs(4), style=style, end="").wrap(
        _CONSOLE, max(4, width - indent), tab_size=4
    )
    blank = Segment(" " * indent)
    strips: list[Strip] = []
    for number, line in enumerate(lines):
        line.rstrip()
        before = first if number == 0 and first is not None else blank
        strips.append(Strip([before, Segment(line.plain, style)]))
    return strips


def on_one_line(text: str, width: int) -> str:
    """Cut a text without line ends to a width, with a mark."""
    if cell_len(text) <= width:
        return text
    kept, cells = [], 0
    for letter in text:
        cells += cell_len(letter)
        if cells > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def at_both_ends(left: Sequence[Segment], right: Sequence[Segment], width: int) -> Strip:
    """Put segments at the left and at the right end of a line."""
    used = sum(cell_len(each.text) for each in (*left, *right))
    return Strip([*left, Segment(" " * max(1, width - used)), *right])
