"""A text with the numbers of its lines and a passage marked, to be read and not changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from localllm.core.text import strip_controls
from localllm.translation import N_

MAX_LINES = 20_000
"""Around the passage; a longer text is cut."""
_MAX_LINE_CHARS = 4000
_LINES_ABOVE = 3
"""Of the passage, that are seen when it is opened."""


@dataclass(frozen=True, slots=True)
class _Row:
    number: int | None  # of the line; None where it goes on from the row above
    text: str
    marked: bool


class MarkedText(ScrollView, can_focus=True):
    """Lines, wrapped to the width. The passage has a bar beside it, and a colour."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"text--number", "text--marked", "text--mark"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "scroll_home", N_("Beginning"), id="text.beginning", show=False,
                tooltip=N_("Go to the beginning of the text")),
        Binding("G", "scroll_end", N_("End"), id="text.end", show=False,
                tooltip=N_("Go to the end of the text")),
        Binding("j", "scroll_down", N_("Down"), id="text.down", show=False,
                tooltip=N_("Go a line down")),
        Binding("k", "scroll_up", N_("Up"), id="text.up", show=False,
                tooltip=N_("Go a line up")),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._lines: tuple[str, ...] = ()
        self._first = 1
        self._marked = range(0)
        self._rows: list[_Row] = []

    def show(self, text: str, *, marked: range) -> None:
        """Show a text and scroll to the marked lines, which count from 1."""
        lines = strip_controls(text).split("\n")
        start = max(0, min(marked.start - MAX_LINES // 2, len(lines) - MAX_LINES))
        self._lines = tuple(lines[start : start + MAX_LINES])
        self._first, self._marked = start + 1, marked
        self._wrap()
        self.call_after_refresh(self._go_to_mark)

    def _go_to_mark(self) -> None:
        at = next((y for y, row in enumerate(self._rows) if row.marked), 0)
        self.scroll_to(y=max(0, at - _LINES_ABOVE), animate=False)

    def on_resize(self, event: events.Resize) -> None:
        self._wrap()

    def _wrap(self) -> None:
        width = max(10, self.scrollable_content_region.width - self._gutter - 1)
        self._rows = [
            _Row(number if at == 0 else None, piece, number in self._marked)
            for number, line in enumerate(self._lines, self._first)
            for at, piece in enumerate(wrapped(line[:_MAX_LINE_CHARS].expandtabs(4), width))
        ]
        self.virtual_size = Size(width + self._gutter, len(self._rows))
        self.refresh()

    @property
    def _gutter(self) -> int:
        return len(str(self._first + len(self._lines))) + 3

    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        width = self.size.width
        if at >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        row = self._rows[at]
        number = self.get_component_rich_style("text--number")
        style = self.get_component_rich_style("text--marked" if row.marked else "text--mark")
        label = "" if row.number is None else str(row.number)
        strip = Strip(
            [
                Segment(f"{label:>{self._gutter - 3}} ", number),
                Segment("▌ " if row.marked else "  ", style),
                Segment(row.text, style if row.marked else None),
            ]
        )
        return strip.apply_style(self.rich_style).adjust_cell_length(width, self.rich_style)


def wrapped(line: str, width: int) -> Sequence[str]:
    """Break a line into pieces of at most `width` cells, between words where that can be."""
    if cell_len(line) <= width:
        return (line,)
    pieces: list[str] = []
    while line:
        end = _fitting(line, width)
        if end < len(line) and (blank := line.rfind(" ", 1, end + 1)) > end // 2:
            end = blank
        pieces.append(line[:end])
        line = line[end:].removeprefix(" ")
    return pieces


def _fitting(text: str, width: int) -> int:
    """Return how many characters of a text fit into `width` cells; at least one."""
    cells = 0
    for number, character in enumerate(text):
        cells += cell_len(character)
        if cells > width:
            return max(1, number)
    return len(text)
