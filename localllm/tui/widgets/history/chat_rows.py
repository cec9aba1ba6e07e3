"""The list of conversations, drawn row by row: ten thousand cost as much as the forty that are
seen."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from localllm.chat.history.store import ConversationSummary, SearchHit
from localllm.core.text import single_line
from localllm.translation import N_, _, ngettext

WIDE_COLUMNS = 60
"""From this width on a row has the model and the counts too."""
_MODEL_COLUMNS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: a heading (`hit` None), a conversation, or the text that was found in it."""

    text: str = ""
    hit: SearchHit | None = None
    is_excerpt: bool = False


def rows_of(hits: Sequence[SearchHit], now_s: float) -> tuple[Row, ...]:
    """Arrange conversations under headings: pinned, then by day, in the order that they have."""
    rows: list[Row] = []
    heading = None
    for hit in hits:
        named = _heading(hit.summary, now_s)
        if named != heading:
            rows.append(Row(text=named))
            heading = named
        rows.append(Row(hit=hit))
        if hit.excerpt:
            rows.append(Row(hit=hit, text=hit.excerpt, is_excerpt=True))
    return tuple(rows)


def _heading(summary: ConversationSummary, now_s: float) -> str:
    if summary.pinned:
        return _("pinned")
    today, day = _day(now_s), _day(summary.updated_s)
    if day >= today:
        return _("today")
    if day == today - timedelta(days=1):
        return _("yesterday")
    if day > today - timedelta(days=7):
        return _("last week")
    return f"{day:%Y-%m}"


def when(summary: ConversationSummary, now_s: float) -> str:
    """Write when a conversation was last used: the time of today, or the day."""
    try:
        used = datetime.fromtimestamp(summary.updated_s).astimezone()
    except (OverflowError, OSError, ValueError):
        return ""
    return f"{used:%H:%M}" if used.date() == _day(now_s) else f"{used:%m-%d}"


def _day(time_s: float) -> date:
    try:
        return datetime.fromtimestamp(time_s).astimezone().date()
    except (OverflowError, OSError, ValueError):  # a time from somebody else's file
        return date(1970, 1, 1)


def row_text(summary: ConversationSummary, width: int, now_s: float) -> str:
    """Write a conversation on one line of so many cells."""
    title = (
        summary.title if not summary.folder else f"{single_line(summary.folder)}/{summary.title}"
    )
    columns = [when(summary, now_s).rjust(5)]
    if width >= WIDE_COLUMNS:
        count = summary.questions
        turns = ngettext("{count} turn", "{count} turns", count).format(count=count)
        branches = ""
        if (count := summary.branches) > 1:
            branches = ngettext("{count} branch", "{count} branches", count).format(count=count)
        model = set_cell_size(single_line(summary.model), _MODEL_COLUMNS)
        columns = [model, branches.rjust(11), turns.rjust(9), *columns]
    rest = " ".join(columns)
    return (
        set_cell_size(_cut(title, max(1, width - cell_len(rest) - 1)), width - cell_len(rest))
        + rest
    )


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


class ChatRows(ScrollView, can_focus=True):
    """Conversations with a cursor. `clock` is Unix time."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chats--heading",
        "chats--excerpt",
        "chats--cursor",
        "chats--mark",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", N_("Up"), id="chats.up", show=False),
        Binding("down,j", "move(1)", N_("Down"), id="chats.down", show=False),
        Binding("pageup", "page(-1)", N_("Page up"), id="chats.page_up", show=False),
        Binding("pagedown", "page(1)", N_("Page down"), id="chats.page_down", show=False),
        Binding("home", "move(-1000000)", N_("First"), id="chats.first", show=False),
        Binding("end", "move(1000000)", N_("Last"), id="chats.last", show=False),
        Binding("enter", "choose", N_("Open"), id="chats.open", tooltip=N_("Go on with this chat")),
    ]

    class Chosen(Message):
        """A conversation was chosen, by enter or a click."""

        def __init__(self, hit: SearchHit) -> None:
            super().__init__()
            self.hit = hit

    def __init__(self, *, clock: Callable[[], float] = time.time, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._clock = clock
        self._rows: tuple[Row, ...] = ()
        self._places: tuple[int, ...] = ()  # the rows of conversations
        self._cursor = 0

    @property
    def current(self) -> SearchHit | None:
        """The conversation under the cursor."""
        return self._rows[self._places[self._cursor]].hit if self._places else None

    def show(self, hits: Iterable[SearchHit]) -> None:
        """Show these conversations; the cursor stays on the one that it is on."""
        before = None if self.current is None else self.current.summary.id
        self._rows = rows_of(tuple(hits), self._clock())
        self._places = tuple(
            number
            for number, row in enumerate(self._rows)
            if row.hit is not None and not row.is_excerpt
        )
        ids = [row.hit.summary.id for row in map(self._rows.__getitem__, self._places) if row.hit]
        self._cursor = ids.index(before) if before in ids else 0
        self.virtual_size = Size(0, len(self._rows))
        self._show_cursor()

    def move_to(self, conversation_id: str) -> None:
        """Put the cursor on a conversation, if it is there."""
        for number, place in enumerate(self._places):
            hit = self._rows[place].hit
            if hit is not None and hit.summary.id == conversation_id:
                self._cursor = number
                self._show_cursor()

    def action_move(self, by: int) -> None:
        self._cursor = max(0, min(len(self._places) - 1, self._cursor + by))
        self._show_cursor()

    def action_page(self, direction: int) -> None:
        self.action_move(direction * max(1, self.size.height - 2))

    def action_choose(self) -> None:
        if (hit := self.current) is not None:
            self.post_message(self.Chosen(hit))

    def on_click(self, event: events.Click) -> None:
        line = int(event.y) + int(self.scroll_offset.y)
        hit = self._rows[line].hit if 0 <= line < len(self._rows) else None
        if hit is None:
            return
        is_second = self.current is hit
        self.move_to(hit.summary.id)
        if is_second or not self.can_focus:
            self.action_choose()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def _show_cursor(self) -> None:
        if self._places:
            line = self._places[self._cursor]
            first = line - 1 if line == 1 else line  # with the first heading
            height = 2 if line + 1 < len(self._rows) and self._rows[line + 1].is_excerpt else 1
            self.scroll_to_region(
                Region(0, first, 1, height + line - first), animate=False, force=True
            )
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        number = y + int(self.scroll_offset.y)
        base = self.rich_style
        if number >= len(self._rows):
            return Strip.blank(width, base)
        row = self._rows[number]
        if row.hit is None:
            style = base + self.get_component_rich_style("chats--heading", partial=True)
            return _strip(set_cell_size(f" {row.text}", width), style, width)
        is_current = row.hit is self.current
        style = base
        if is_current and self.has_focus:
            style += self.get_component_rich_style("chats--cursor", partial=True)
        mark = "▌" if is_current else " "
        mark_style = style + self.get_component_rich_style("chats--mark", partial=True)
        if row.is_excerpt:
            text = f"  {_cut(single_line(row.text), max(0, width - 4))}"
            style += self.get_component_rich_style("chats--excerpt", partial=True)
        else:
            text = row_text(row.hit.summary, max(8, width - 2), self._clock())
        body = set_cell_size(text, max(0, width - 1))
        return Strip([Segment(mark, mark_style), Segment(body, style)]).adjust_cell_length(
            width, style
        )


def _strip(text: str, style: Style, width: int) -> Strip:
    return Strip([Segment(text, style)]).adjust_cell_length(width, style)
