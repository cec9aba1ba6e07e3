"""The text of an answer as its tokens, each over a bar as high as it was probable."""

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from localllm.chat.token_scores import UNLIKELY, ScoredToken, shown_texts
from localllm.tui.screens.tokens.token_layout import Line, lay_out, level

_ROWS = 2  # of a line: its text, and the bars


class TokenText(ScrollView, can_focus=False):
    """The tokens; `cursor` is the index of the one that is looked at. Posts `Moved`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "token--sure",
        "token--likely",
        "token--unsure",
        "token--unlikely",
        "token--cursor",
        "token--bar",
    }
    DEFAULT_CSS = """
    TokenText { height: auto; max-height: 35vh; }
    TokenText > .token--sure { color: $foreground; }
    TokenText > .token--likely { color: $text-success; }
    TokenText > .token--unsure { color: $text-warning; }
    TokenText > .token--unlikely { color: $text-error; text-style: bold; }
    TokenText > .token--cursor { text-style: reverse bold; }
    TokenText > .token--bar { color: $foreground 50%; }
    """

    cursor: reactive[int] = reactive(0)

    class Moved(Message):
        """The cursor stands on another token."""

        def __init__(self, token: int) -> None:
            super().__init__()
            self.token = token

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's own name
        super().__init__(id=id)
        self._tokens: tuple[ScoredToken, ...] = ()
        self._lines: tuple[Line, ...] = ()

    def show(self, tokens: Sequence[ScoredToken]) -> None:
        """Show these tokens, with the cursor on the first."""
        self._tokens = tuple(tokens)
        self._arrange()
        self.cursor = 0

    def on_resize(self, event: events.Resize) -> None:
        self._arrange()
        self.call_after_refresh(self._show_cursor)

    def _arrange(self) -> None:
        width = max(self.scrollable_content_region.width, 2)
        self._lines = lay_out(shown_texts(self._tokens), width)
        self.virtual_size = Size(width, len(self._lines) * _ROWS)
        self.refresh()

    def watch_cursor(self) -> None:
        self._show_cursor()
        self.refresh()
        if self._tokens:
            self.post_message(self.Moved(self.cursor))

    def _show_cursor(self) -> None:
        for row, line in enumerate(self._lines):
            if any(piece.token == self.cursor for piece in line):
                self.scroll_to_region(Region(0, row * _ROWS, 1, _ROWS), animate=False, force=True)
                return

    def move(self, tokens: int) -> None:
        """Move the cursor by so many tokens, and stop at the ends."""
        self.cursor = min(max(self.cursor + tokens, 0), max(len(self._tokens) - 1, 0))

    def move_line(self, *, down: bool) -> None:
        """Move the cursor to the nearest token of the next or the last line."""
        for row, line in enumerate(self._lines):
            own = next((piece for piece in line if piece.token == self.cursor), None)
            other = row + (1 if down else -1)
            if own is not None and 0 <= other < len(self._lines):
                near = min(self._lines[other], key=lambda piece: abs(piece.x - own.x))
                self.cursor = near.token
                return

    def move_to_unlikely(self, *, forward: bool) -> None:
        """Move the cursor to the next unlikely token, around the ends."""
        count = len(self._tokens)
        for distance in range(1, count + 1):
            at = (self.cursor + (distance if forward else -distance)) % count
            probability = self._tokens[at].probability
            if probability is not None and probability < UNLIKELY:
                self.cursor = at
                return

    def render_line(self, y: int) -> Strip:
        row = y + self.scroll_offset.y
        width = self.size.width
        if row // _ROWS >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        line, bars = self._lines[row // _ROWS], row % _ROWS == 1
        segments, at = [], 0
        for piece in line:
            probability = self._tokens[piece.token].probability
            if bars:
                text, style = level(probability) * piece.width, self._style("token--bar")
            else:
                text, style = piece.text, self._style(_kind(probability))
                if piece.token == self.cursor:
                    style += self._style("token--cursor")
            segments.append(Segment(text, self.rich_style + style))
            at += piece.width
        return Strip(segments, at).extend_cell_length(width, self.rich_style)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(name, partial=True)

    def on_click(self, event: events.Click) -> None:
        row = (event.y + self.scroll_offset.y) // _ROWS
        if 0 <= row < len(self._lines):
            for piece in self._lines[row]:
                if piece.x <= event.x < piece.x + piece.width:
                    self.cursor = piece.token


def _kind(probability: float | None) -> str:
    if probability is None or probability >= 0.9:
        return "token--sure"
    if probability >= 0.5:
        return "token--likely"
    return "token--unsure" if probability >= UNLIKELY else "token--unlikely"
