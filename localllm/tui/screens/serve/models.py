"""The models that clients can name, and which of them are in memory: load, unload, pin."""

from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.errors import LocalLLMError
from localllm.runtime.model_pool.listing import ModelListing, ModelState
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.serve.texts import listing_lines
from localllm.tui.widgets.tables.row_list import RowChosen, RowList

LOOK_S = 0.5


class ModelsInMemory(WorkScreen[None], ModalScreen[None]):
    """A window over the serve place."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", N_("Close"), id="memory.close", tooltip=N_("Go back")),
        Binding(
            "enter",
            "load",
            N_("Load or unload"),
            id="memory.load",
            tooltip=N_("Load the model, or unload it when its answers have ended"),
        ),
        Binding(
            "p",
            "pin",
            N_("Pin"),
            id="memory.pin",
            tooltip=N_("Never unload this model for another one, or again allow it"),
        ),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(_("Models"), id="dialog-title")
            yield Static(
                _("Clients can name each of these; one that is not in memory is loaded then."),
                id="dialog-message",
            )
            with VerticalScroll(id="memory-scroll", can_focus=False):
                yield RowList(
                    listing_lines,
                    key=lambda listing: listing.name,
                    empty=_("No model is installed."),
                    id="memory-models",
                )
            yield Static(Content(), id="ask-problem")
            yield Static(_("enter loads or unloads · p pins · escape closes"), id="dialog-remark")

    def on_mount(self) -> None:
        self.set_interval(LOOK_S, self.look)
        self.models.focus()
        self.look()

    @property
    def models(self) -> RowList[ModelListing]:
        return self.query_one("#memory-models", RowList)

    def look(self) -> None:
        """Draw what is in memory now."""
        self.models.show(self.services.pool.listed())

    @on(RowChosen, "#memory-models")
    def action_load(self) -> None:
        if (row := self.models.current) is not None:
            self.change(row, pin=None)

    def action_pin(self) -> None:
        row = self.models.current
        if row is not None and row.state is ModelState.READY:
            self.change(row, pin=not row.pinned)

    @work(group="memory", exit_on_error=False)
    async def change(self, row: ModelListing, *, pin: bool | None) -> None:
        """Pin it, or load it, or unload it when its answers have ended."""
        pool, problem = self.services.pool, ""
        try:
            if pin is not None:
                await pool.load(row.name, pin=pin)
            elif row.state is ModelState.UNLOADED:
                await pool.load(row.name)
            else:
                await pool.unload(row.name)
        except LocalLLMError as error:
            problem = str(error)
        if self.is_attached:
            self.query_one("#ask-problem", Static).update(literal.line(problem))
            self.look()

    def action_close(self) -> None:
        self.leave(None)
