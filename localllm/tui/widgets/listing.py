"""A list on a page with several that scrolls as a whole: the cursor goes from one to the next."""

from textual import on
from textual.message import Message
from textual.widgets import ListView


class ListEndPassed(Message):
    """The cursor was moved on at the first or the last row of a list."""

    def __init__(self, *, down: bool) -> None:
        super().__init__()
        self.down = down


class StackedList(ListView):
    """A list that keeps its cursor in sight and posts ListEndPassed when it cannot move further."""

    def action_cursor_down(self) -> None:
        before = self.index
        super().action_cursor_down()
        if self.index == before:
            self.post_message(ListEndPassed(down=True))

    def action_cursor_up(self) -> None:
        before = self.index
        super().action_cursor_up()
        if self.index == before:
            self.post_message(ListEndPassed(down=False))

    @on(ListView.Highlighted)
    def _show_cursor(self) -> None:
        if self.has_focus:
            self._scroll_to_cursor()

    def on_focus(self) -> None:
        self._scroll_to_cursor()

    def _scroll_to_cursor(self) -> None:
        if (row := self.highlighted_child) is not None:
            self.call_after_refresh(row.scroll_visible, animate=False)
