"""The memory of the loaded model: estimate, dry run and what was really allocated."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.core.units import format_duration
from localllm.runtime.runtime import ResidentModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.widgets.allocations import Allocations


class MemoryScreen(ModalScreen[None]):
    """A small window; any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape,enter,f2",
            "close",
            N_("Close"),
            id="memory.close",
            tooltip=N_("Close the window"),
        )
    ]

    def __init__(self, resident: ResidentModel) -> None:
        super().__init__()
        self._resident = resident

    def compose(self) -> ComposeResult:
        loaded = self._resident.loaded
        with Vertical(id="dialog"):
            yield Static(
                literal.line(_("Memory of {name}").format(name=self._resident.model.name)),
                id="dialog-title",
            )
            yield Allocations(all_three=True)
            yield Static(
                Content(
                    _(
                        "{context} tokens of context · {layers} layers on a GPU · loaded in {time}"
                    ).format(
                        context=loaded.context,
                        layers=loaded.gpu_layers,
                        time=format_duration(loaded.load_s),
                    )
                ),
                id="memory-remark",
            )

    async def on_mount(self) -> None:
        await self.query_one(Allocations).show(self._resident)

    def action_close(self) -> None:
        if self.is_current:  # not for a second key while the window closes
            self.dismiss(None)
