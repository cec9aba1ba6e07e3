"""The line in which a text is typed that is to be found in the conversation."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from localllm.translation import N_, _


class FindChanged(Message):
    """Another text is to be found; "" ends it."""

    def __init__(self, query: str) -> None:
        super().__init__()
        self.query = query


class FindMoved(Message):
    """The next (1) or the previous (-1) place is to be shown."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by


class FindClosed(Message):
    """The search is over."""


class FindBar(Horizontal):
    """An input and the number of places. Posts FindChanged, FindMoved and FindClosed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", N_("Close"), id="find.close", tooltip=N_("End the search")),
        Binding("down,enter", "move(1)", N_("Next"), id="find.next", key_display="⏎",
                tooltip=N_("Go to the next place"), priority=True),
        Binding("up", "move(-1)", N_("Previous"), id="find.previous",
                tooltip=N_("Go to the place before")),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.display = False

    def compose(self) -> ComposeResult:
        yield Static(Content("/"), id="find-sign")
        yield Input(placeholder=_("find in this conversation"), compact=True, id="find-text")
        yield Static(Content(), id="find-count")

    def open(self) -> None:
        """Show the line, empty, and take the keys."""
        self.display = True
        field = self.query_one(Input)
        field.value = ""
        field.focus()

    def show_place(self, number: int, count: int) -> None:
        """Show which place of how many is seen."""
        text = _("{number} of {count}").format(number=number, count=count)
        self.query_one("#find-count", Static).update(Content(text if count else _("not found")))

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if not event.value:
            self.query_one("#find-count", Static).update(Content())
        self.post_message(FindChanged(event.value))

    def action_move(self, by: int) -> None:
        self.post_message(FindMoved(by))

    def action_close(self) -> None:
        self.display = False
        self.post_message(FindClosed())
