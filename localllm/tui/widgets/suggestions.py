"""Models that are not installed and fit this machine, best first."""

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import ListItem, ListView, Static

from localllm.core.units import format_bytes
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.figures import loss_text, rate_range
from localllm.tui.widgets.listing import StackedList

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.core.recommend import FitPlan
    from localllm.runtime.suggest import Suggestions
    from localllm.tui.widgets.memory_bar import MachineMemory


class SuggestionChosen(Message):
    """A model that is not installed was chosen."""

    def __init__(self, plan: "FitPlan") -> None:
        super().__init__()
        self.plan = plan


class SuggestionRows(StackedList):
    """The list itself, with its key in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,d",
            "select_cursor",
            N_("Get it, asks first"),
            id="suggestions.download",
            tooltip=N_("Say what this model is and where it comes from, and download it"),
        )
    ]


class SuggestionRow(ListItem):
    """One line; the memory and the reasons below it are shown while the cursor is here."""

    def __init__(
        self, plan: "FitPlan", *, licence: str = "", machine: "MachineMemory | None" = None
    ) -> None:
        super().__init__()
        self.plan = plan
        self._licence = licence
        self._machine = machine

    def compose(self) -> ComposeResult:
        candidate = self.plan.candidate
        with Horizontal(classes="suggestion-line"):
            yield Static(literal.line(candidate.model), classes="suggestion-name")
            yield Static(literal.line(candidate.quant), classes="suggestion-quant")
            yield Static(literal.line(self._licence), classes="column licence wide-column")
            yield Static(Content(format_bytes(need_bytes(self.plan))), classes="column")
            yield Static(Content(format_bytes(candidate.size_bytes)), classes="column wide-column")
            yield Static(Content(rate_range(self.plan.decode)), classes="column rate")
            quality = self.plan.quality
            loss = "-" if quality is None else loss_text(quality.value)
            yield Static(Content(loss), classes="column loss")
        if self._machine is not None:
            yield PlanBar(self.plan, self._machine)
        reasons = " ".join(self.plan.reasons)
        if self._licence:
            reasons += " " + _("Licence: {licence}.").format(licence=self._licence)
        yield Static(literal.line(reasons), classes="suggestion-reasons")

    def on_resize(self) -> None:
        # The list scrolled to one line, before the reasons under it had their room.
        if self.highlighted and self.parent is not None and self.parent is self.app.focused:
            self.scroll_visible(animate=False)


class PlanBar(Widget):
    """What a plan would take of this machine, and what others use."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"plan--text"}

    def __init__(self, plan: "FitPlan", machine: "MachineMemory") -> None:
        super().__init__()
        self._plan = plan
        self._machine = machine

    def render(self) -> Content:
        from localllm.tui.widgets.memory_bar import bar_cells, load_memory, runs

        free = max(0, self._machine.total_bytes - self._machine.others_bytes)
        left = format_bytes(max(0, free - need_bytes(self._plan)))
        text = "  " + _("{size} stay free").format(size=left)
        inside = max(1, self.size.width - len(text) - 1)
        load = load_memory(self._plan.placement.devices, fits=True)
        cells = bar_cells(self._machine, load, inside=inside, beyond=0)
        bar = "".join(sign for _use, sign in runs(cells))
        return Content(bar + text)


class SuggestionList(Vertical):
    """Hidden until something is known. Posts SuggestionChosen."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="suggestions-head", classes="heading"):
            yield Static(_("Best for you"), id="suggestions-title")
            yield Static(_("licence"), classes="column licence wide-column")
            yield Static(_("need"), classes="column")
            yield Static(_("file"), classes="column wide-column")
            yield Static(_("tok/s"), classes="column rate")
            yield Static(_("lost"), classes="column loss")
        yield SuggestionRows(id="suggestions")
        yield Static(Content(), id="suggestions-remark")

    async def show(
        self, suggestions: "Suggestions", machine: "MachineMemory | None" = None
    ) -> None:
        """Replace the list, keeping the place in it."""
        if not suggestions.plans:
            self.show_message(_("Nothing else of the catalogue fits into what is free."))
            return
        listing = self.query_one(SuggestionRows)
        index = listing.index or 0
        async with self.batch():
            await listing.clear()
            await listing.extend(
                [
                    SuggestionRow(
                        plan,
                        licence=suggestions.licenses.get(plan.candidate.model, ""),
                        machine=machine,
                    )
                    for plan in suggestions.plans
                ]
            )
        listing.index = min(index, len(suggestions.plans) - 1)
        self._reveal(rows=True)
        self.query_one("#suggestions-remark", Static).update(literal.line(rest_text(suggestions)))
        self.query_one("#suggestions-remark").display = bool(rest_text(suggestions))

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
        self.query_one("#suggestions-head").set_class(not rows, "-no-rows")
        self.query_one(SuggestionRows).display = rows
        self.query_one("#suggestions-remark").display = not rows
        self.display = True

    @on(ListView.Selected)
    def _selected(self, event: ListView.Selected) -> None:
        event.stop()
        if isinstance(event.item, SuggestionRow):
            self.post_message(SuggestionChosen(event.item.plan))


def rest_text(suggestions: "Suggestions") -> str:
    """Say how many more were compared, and what the next better one would need."""
    rest = suggestions.compared - len({plan.candidate.model for plan in suggestions.plans})
    parts = []
    if rest > 0:
        more = ngettext("{count} more in Models (f6).", "{count} more in Models (f6).", rest)
        parts.append(more.format(count=rest))
    if suggestions.next_better:
        parts.append(suggestions.next_better)
    return " ".join(parts)


def need_bytes(plan: "FitPlan") -> int:
    """Sum the memory of a plan over all devices."""
    return sum(share.total_bytes for share in plan.placement.devices)
