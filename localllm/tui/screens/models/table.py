"""The list of the models: any number of lines, of which only those on the screen are drawn."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from localllm.core.text import strip_controls
from localllm.translation import N_
from localllm.tui.screens.models.cells import (
    Piece,
    Tone,
    columns_for,
    head_pieces,
    line_pieces,
)
from localllm.tui.screens.models.filtering import KnownSizes, ListLine, Order, SortKey
from localllm.tui.screens.models.groups import QuantRow
from localllm.tui.widgets.memory_bar import MachineMemory


class LineHighlighted(Message):
    """The cursor is on another line, None: there is no line."""

    def __init__(self, line: ListLine | None) -> None:
        super().__init__()
        self.line = line


class LineChosen(Message):
    """Enter, or a click on the line of the cursor."""

    def __init__(self, line: ListLine) -> None:
        super().__init__()
        self.line = line


class LineExpanded(Message):
    """The files of a model are to be shown, or hidden."""

    def __init__(self, line: ListLine, *, expand: bool) -> None:
        super().__init__()
        self.line = line
        self.expand = expand


class SortChosen(Message):
    """A title of the head was clicked."""

    def __init__(self, key: SortKey) -> None:
        super().__init__()
        self.key = key


class ViewMoved(Message):
    """Other lines are on the screen."""


class ModelTable(ScrollView, can_focus=True):
    """The list itself, with its head. `problem_of` says why a row has no size."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"table--{tone.value}" for tone in Tone} | {
        "table--cursor"
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", N_("Up"), show=False, id="models.up"),
        Binding("down,j", "move(1)", N_("Down"), show=False, id="models.down"),
        Binding("pageup", "page(-1)", N_("Page up"), show=False, id="models.page-up"),
        Binding("pagedown", "page(1)", N_("Page down"), show=False, id="models.page-down"),
        Binding("home,g", "end(-1)", N_("First"), show=False, id="models.first"),
        Binding("end,G", "end(1)", N_("Last"), show=False, id="models.last"),
        Binding(
            "enter",
            "choose",
            N_("Get or open"),
            id="models.open",
            tooltip=N_("Chat with an installed model; else say what a download is, and ask"),
        ),
        Binding(
            "right",
            "expand(True)",
            N_("Files"),
            id="models.expand",
            tooltip=N_("Show every file of the model: each quant with its bar"),
        ),
        Binding(
            "left",
            "expand(False)",
            N_("Close"),
            id="models.collapse",
            show=False,
            tooltip=N_("Hide the files of the model"),
        ),
    ]

    def __init__(self, problem_of: Callable[[QuantRow], str | None]) -> None:
        super().__init__(id="model-table")
        self._problem_of = problem_of
        self._lines: tuple[ListLine, ...] = ()
        self._known = KnownSizes()
        self._memory: MachineMemory | None = None
        self._order = Order()
        self._marked: frozenset[str] = frozenset()
        self._cursor = 0
        self._styles: dict[Tone, RichStyle] = {}

    # --- what is shown ---

    @property
    def lines(self) -> tuple[ListLine, ...]:
        return self._lines

    @property
    def known(self) -> KnownSizes:
        """What is known of the lines."""
        return self._known

    @property
    def line(self) -> ListLine | None:
        """The line of the cursor."""
        return self._lines[self._cursor] if self._lines else None

    @property
    def visible_rows(self) -> tuple[QuantRow, ...]:
        """The files on the screen, those that are to be worked out first."""
        first = int(self.scroll_offset.y)
        shown = self._lines[first : first + max(1, self._rows_high) + 1]
        return tuple(line.row for line in shown if line.row is not None)

    def show(
        self,
        lines: Sequence[ListLine],
        known: KnownSizes,
        *,
        memory: MachineMemory | None,
        order: Order,
        marked: frozenset[str] = frozenset(),
    ) -> None:
        """Replace the lines; the cursor stays on its line, or where it was."""
        before = self.line
        self._lines, self._known, self._memory = tuple(lines), known, memory
        self._order, self._marked = order, marked
        keys = [line.key for line in self._lines]
        if before is not None and before.key in keys:
            self._cursor = keys.index(before.key)
        elif before is not None and before.group.key in keys:
            self._cursor = keys.index(before.group.key)
        self._cursor = max(0, min(self._cursor, len(keys) - 1))
        self.virtual_size = Size(0, len(keys) + 1)
        self._keep_in_sight()
        self.refresh()
        after = self.line
        if (before and before.key) != (after and after.key):
            self.post_message(LineHighlighted(after))

    def redraw(self, known: KnownSizes) -> None:
        """Draw what is known by now."""
        self._known = known
        self.refresh()

    def go_to(self, key: str) -> bool:
        """Put the cursor on the line of this key; False when there is none."""
        for number, line in enumerate(self._lines):
            if line.key == key:
                self._move_to(number)
                return True
        return False

    # --- drawing ---

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.refresh()
            self.post_message(ViewMoved())

    @property
    def _rows_high(self) -> int:
        return self.size.height - 1  # the head

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def on_resize(self) -> None:
        self._keep_in_sight()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        columns = columns_for(width)
        if y == 0:
            return self._strip(head_pieces(columns, self._order, self._memory), width)
        number = int(self.scroll_offset.y) + y - 1
        if number >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        line = self._lines[number]
        marked = line.row is not None and line.row.key in self._marked
        problem = self._problem_of(line.row) if line.row is not None else None
        pieces = line_pieces(
            line, columns, self._known, self._memory, marked=marked, problem=problem
        )
        if number != self._cursor:
            return self._strip(pieces, width)
        first, *rest = pieces
        with_cursor = Piece(text=f"▌{first.text[1:]}", tone=first.tone)
        cursor = self.get_component_rich_style("table--cursor")
        return self._strip((with_cursor, *rest), width, cursor if self.has_focus else None)

    def _strip(self, pieces: Sequence[Piece], width: int, over: RichStyle | None = None) -> Strip:
        segments = []
        for piece in pieces:
            style = self._style(piece.tone)
            if over is not None:
                style += RichStyle(bgcolor=over.bgcolor, reverse=over.reverse)
            if piece.sort is not None:
                style += RichStyle.from_meta({"sort": piece.sort.value})
            segments.append(Segment(strip_controls(piece.text).replace("\n", " "), style))
        filler = self.rich_style if over is None else self.rich_style + over
        return Strip(segments).adjust_cell_length(width, filler)

    def _style(self, tone: Tone) -> RichStyle:
        if tone not in self._styles:
            self._styles[tone] = self.get_component_rich_style(f"table--{tone.value}")
        return self._styles[tone]

    # --- the cursor ---

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self._rows_high - 1))

    def action_end(self, direction: int) -> None:
        self._move_to(0 if direction < 0 else len(self._lines) - 1)

    def action_choose(self) -> None:
        if (line := self.line) is not None:
            self.post_message(LineChosen(line))

    def action_expand(self, expand: bool) -> None:
        if (line := self.line) is None:
            return
        if not expand and line.of_group:
            self.go_to(line.group.key)
        self.post_message(LineExpanded(line, expand=expand))

    def _move_to(self, number: int) -> None:
        number = max(0, min(number, len(self._lines) - 1))
        if number == self._cursor or not self._lines:
            return
        self._cursor = number
        self._keep_in_sight()
        self.refresh()
        self.post_message(LineHighlighted(self.line))

    def _keep_in_sight(self) -> None:
        high = max(1, self._rows_high)
        top = int(self.scroll_offset.y)
        if self._cursor < top:
            top = self._cursor
        elif self._cursor >= top + high:
            top = self._cursor - high + 1
        top = max(0, min(top, len(self._lines) - high))
        if top != int(self.scroll_offset.y):
            self.scroll_to(y=top, animate=False, force=True)

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        if (sort := event.style.meta.get("sort")) is not None:
            self.post_message(SortChosen(SortKey(sort)))
            return
        number = int(self.scroll_offset.y) + event.y - 1
        if event.y < 1 or not 0 <= number < len(self._lines):
            return
        if event.x in (2, 3) and not self._lines[number].of_group:
            line = self._lines[number]
            self.post_message(LineExpanded(line, expand=not line.expanded))
        if number == self._cursor and event.chain > 1:
            self.action_choose()
        self._move_to(number)
