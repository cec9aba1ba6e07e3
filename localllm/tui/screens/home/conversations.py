"""The conversations that were had last."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import ListItem, ListView, Static

from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.widgets.listing import StackedList

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.chat.history.store import ConversationSummary

SHOWN = 5


class ConversationRows(StackedList):
    """The list itself, with its key in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            N_("Go on with it"),
            id="home.go_on",
            tooltip=N_("Open this conversation with its model"),
        )
    ]


class ConversationRow(ListItem):
    """One line: title, model, how many questions, when."""

    def __init__(self, summary: "ConversationSummary") -> None:
        super().__init__()
        self.summary = summary

    def compose(self) -> ComposeResult:
        from localllm.tui.widgets.history.chat_rows import when

        count = self.summary.questions
        questions = ngettext("{count} question", "{count} questions", count).format(count=count)
        with Horizontal(classes="suggestion-line"):
            yield Static(literal.line(self.summary.title), classes="suggestion-name")
            yield Static(literal.line(self.summary.model), classes="conversation-model")
            yield Static(Content(questions), classes="column questions")
            yield Static(Content(when(self.summary, time.time())), classes="column")


class ConversationList(Vertical):
    """The last conversations; hidden while there are none. Posts Chosen."""

    class Chosen(Message):
        """A conversation was chosen."""

        def __init__(self, summary: "ConversationSummary") -> None:
            super().__init__()
            self.summary = summary

    def __init__(self) -> None:
        super().__init__()
        self._summaries: tuple[ConversationSummary, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(_("Last conversations"), classes="heading")
        yield ConversationRows(id="conversations")

    async def show(self, summaries: "Sequence[ConversationSummary]") -> None:
        """Replace the list, when it is another one."""
        shown = tuple(summaries[:SHOWN])
        if shown == self._summaries:
            return
        self._summaries = shown
        listing = self.query_one(ConversationRows)
        async with self.batch():
            await listing.clear()
            await listing.extend([ConversationRow(each) for each in shown])
        self.display = bool(shown)

    @on(ListView.Selected)
    def _selected(self, event: ListView.Selected) -> None:
        event.stop()
        if isinstance(event.item, ConversationRow):
            self.post_message(self.Chosen(event.item.summary))
