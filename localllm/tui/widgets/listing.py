"""A list on a page that has more than one and scrolls as a whole."""

from textual import on
from textual.widgets import ListView

from localllm.tui.messages import ListEndPassed


class StackedList(ListView):
    """Keeps its cursor in sight and posts ListEndPassed when it cannot move further."""

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
