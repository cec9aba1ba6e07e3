"""Models that are not installed and fit this machine: a quiet list below the installed ones."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import ListItem, ListView, Static

from localllm.core.recommend import FitPlan
from localllm.core.speed import Estimate
from localllm.core.units import format_bytes
from localllm.tui import literal
from localllm.tui.widgets.listing import StackedList


class SuggestionChosen(Message):
    """A model that is not installed was chosen."""

    def __init__(self, plan: FitPlan) -> None:
        super().__init__()
        self.plan = plan


class SuggestionRows(StackedList):
    """The list itself, with its key in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,d",
            "select_cursor",
            "Download",
            id="suggestions.download",
            tooltip="Say what this model is and where it comes from, and download it",
        )
    ]


class SuggestionRow(ListItem):
    """One line; the reasons below it are shown while the cursor is here."""

    def __init__(self, plan: FitPlan) -> None:
        super().__init__()
        self.plan = plan

    def compose(self) -> ComposeResult:
        candidate = self.plan.candidate
        with Horizontal(classes="suggestion-line"):
            yield Static(literal.line(candidate.model), classes="suggestion-name")
            yield Static(literal.line(candidate.quant), classes="suggestion-quant")
            yield Static(Content(format_bytes(need_bytes(self.plan))), classes="column")
            yield Static(Content(rate_range(self.plan.decode)), classes="column")
            yield Static(Content(format_bytes(candidate.size_bytes)), classes="column")
        yield Static(literal.line(" ".join(self.plan.reasons)), classes="suggestion-reasons")


class Suggestions(Vertical):
    """Hidden until something is known. Posts SuggestionChosen."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="suggestions-head", classes="heading"):
            yield Static("Also fits here", id="suggestions-title")
            for title in ("need", "tok/s", "file"):
                yield Static(title, classes="column")
        yield SuggestionRows(id="suggestions")
        yield Static(Content(), id="suggestions-remark")

    async def show(self, plans: Sequence[FitPlan]) -> None:
        """Replace the list, keeping the place in it."""
        if not plans:
            self.show_message("Nothing else of the catalogue fits into what is free.")
            return
        listing = self.query_one(SuggestionRows)
        index = listing.index or 0
        async with self.batch():
            await listing.clear()
            await listing.extend([SuggestionRow(plan) for plan in plans])
        listing.index = min(index, len(plans) - 1)
        self._reveal(rows=True)

    def show_message(self, remark: str) -> None:
        """Show a sentence in place of the list."""
        self.query_one("#suggestions-remark", Static).update(literal.line(remark))
        self._reveal(rows=False)

    def enter(self) -> None:
        """Put the cursor on the first row, if there is one."""
        listing = self.query_one(SuggestionRows)
        if self.display and listing.display:
            listing.index = 0
            listing.focus()

    def _reveal(self, *, rows: bool) -> None:
        for column in self.query("#suggestions-head .column"):
            column.display = rows
        self.query_one(SuggestionRows).display = rows
        self.query_one("#suggestions-remark").display = not rows
        self.display = True

    @on(ListView.Selected)
    def _selected(self, event: ListView.Selected) -> None:
        event.stop()
        if isinstance(event.item, SuggestionRow):
            self.post_message(SuggestionChosen(event.item.plan))


def need_bytes(plan: FitPlan) -> int:
    """Sum the memory of a plan over all devices."""
    return sum(share.total_bytes for share in plan.placement.devices)


def rate_range(decode: Estimate) -> str:
    """Write tokens/s from low to high: "3.8-9.8", "12-31"."""
    digits = 0 if decode.high >= 10 else 1
    return f"{decode.low:.{digits}f}-{decode.high:.{digits}f}"
