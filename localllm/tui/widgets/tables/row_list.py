"""A list of rows that one widget draws: for tables that change every second.

Rows are values; how one is drawn in a width is a function that the owner gives. The row under the
cursor has `▌` before each of its lines, the others nothing, so that it is seen without colour.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.widget import Widget

from localllm.translation import N_

Row = TypeVar("Row")

CURSOR = "▌"


class RowChosen(Message):
    """The row under the cursor was clicked; enter is for the screen to bind."""

    def __init__(self, rows: "RowList[Any]", row: object) -> None:
        super().__init__()
        self.rows = rows
        self.row = row

    @property
    def control(self) -> "RowList[Any]":
        return self.rows


class RowMoved(Message):
    """The cursor is on another row."""

    def __init__(self, rows: "RowList[Any]") -> None:
        super().__init__()
        self.rows = rows

    @property
    def control(self) -> "RowList[Any]":
        return self.rows


class RowList(Widget, Generic[Row], can_focus=True):
    """Rows with a cursor. `draw` makes the lines of a row in so many cells, `key` tells rows apart:
    the cursor stays on its row when others come before it. `empty` is shown where there are none.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", N_("Up"), show=False),
        Binding("down", "move(1)", N_("Down"), show=False),
        Binding("home", "move(-100000)", N_("First"), show=False),
        Binding("end", "move(100000)", N_("Last"), show=False),
        Binding("pageup", "move(-10)", N_("Page up"), show=False),
        Binding("pagedown", "move(10)", N_("Page down"), show=False),
    ]

    def __init__(
        self,
        draw: Callable[[Row, int], Sequence[Content]],
        key: Callable[[Row], object],
        *,
        empty: str = "",
        id: str | None = None,  # noqa: A002  # as Widget has it
        is_selectable: Callable[[Row], bool] = lambda _: True,
    ) -> None:
        super().__init__(id=id)
        self._draw = draw
        self._key = key
        self._empty = empty
        self._is_selectable = is_selectable
        self._rows: tuple[Row, ...] = ()
        self._cursor = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    @property
    def current(self) -> Row | None:
        """The row under the cursor; None when there is none."""
        if not self._rows or not self._is_selectable(self._rows[self._cursor]):
            return None
        return self._rows[self._cursor]

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows; the cursor stays on its row, if that is still there."""
        new = tuple(rows)
        if new == self._rows:
            return
        before = self._key(self._rows[self._cursor]) if self._rows else None
        keys = [self._key(each) for each in new]
        at = keys.index(before) if before in keys else min(self._cursor, max(len(new) - 1, 0))
        is_longer = len(new) != len(self._rows)
        self._rows, self._cursor = new, at
        self._skip(1)
        self.refresh(layout=is_longer)

    def move_to(self, key: object) -> None:
        """Put the cursor on the row with this key, if there is one."""
        for index, row in enumerate(self._rows):
            if self._key(row) == key:
                self._cursor = index
                self.refresh()
                self.post_message(RowMoved(self))

    def action_move(self, by: int) -> None:
        if not self._rows:
            return
        before = self._cursor
        self._cursor = min(max(before + by, 0), len(self._rows) - 1)
        self._skip(1 if by > 0 else -1)
        if self._cursor != before:
            self.refresh()
            self._scroll_to_cursor()
            self.post_message(RowMoved(self))

    def on_click(self, event: Click) -> None:
        top = 0
        for index, row in enumerate(self._rows):
            top += len(self._draw(row, self._width))
            if event.y < top and self._is_selectable(row):
                was_there, self._cursor = index == self._cursor, index
                self.refresh()
                self.post_message(RowMoved(self))
                if was_there:
                    self.post_message(RowChosen(self, row))
                return
            if event.y < top:
                return

    def _skip(self, step: int) -> None:
        """Move on from a row that cannot be selected, such as a heading; back at an end."""
        for direction in (step, -step):
            at = self._cursor
            while 0 <= at < len(self._rows) and not self._is_selectable(self._rows[at]):
                at += direction
            if 0 <= at < len(self._rows):
                self._cursor = at
                return

    @property
    def _width(self) -> int:
        return max(self.size.width - 1, 1)

    def _scroll_to_cursor(self) -> None:
        top = sum(len(self._draw(row, self._width)) for row in self._rows[: self._cursor])
        height = len(self._draw(self._rows[self._cursor], self._width))
        if isinstance(self.parent, Widget):
            region = Region(0, self.virtual_region.y + top, self.size.width, height)
            self.parent.scroll_to_region(region, animate=False, force=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if not self._rows:
            return max(1, self._empty.count("\n") + 1)
        return sum(len(self._draw(row, max(width - 1, 1))) for row in self._rows)

    def render(self) -> Content:
        if not self._rows:
            return Content.styled(self._empty, "$text-muted")
        lines: list[Content] = []
        for index, row in enumerate(self._rows):
            is_current = index == self._cursor and self._is_selectable(row)
            prefix = Content.styled(CURSOR, "$primary") if is_current else Content(" ")
            for line in self._draw(row, self._width):
                shown = prefix + line.truncate(self._width, ellipsis=True)
                lines.append(shown.stylize("bold") if is_current and self.has_focus else shown)
        return Content("\n").join(lines)
