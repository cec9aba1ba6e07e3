"""Make a GGUF file of this disk part of the library."""

from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen


class ImportScreen(WorkScreen[InstalledModel | None], ModalScreen[InstalledModel | None]):
    """Ask for a path until it is a model's; the result is the installed model, None after
    escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="import.close", tooltip="Close without importing")
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static("Import a GGUF file", id="dialog-title")
            yield Static(
                "The file stays where it is; nothing is copied. Of a model in several parts, any"
                " one will do.",
                id="dialog-message",
            )
            yield Input(placeholder="path of the file", id="import-path", compact=True)
            yield Static(Content(), id="import-remark")
            yield Static("enter imports · escape closes", id="import-keys")

    @on(Input.Changed)
    def _changed(self) -> None:
        self._show_remark("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if text := _unquoted(event.value.strip()):
            self._show_remark("reading the file…")
            self.adopt(Path(text))
        else:
            self._show_remark("Write the path of a GGUF file first.", failed=True)

    @work(exclusive=True, group="adopt", exit_on_error=False)
    async def adopt(self, path: Path) -> None:
        try:
            model = await self.runtime.adopt(path)
            reason = await self.runtime.unsupported(model)
        except LocalLLMError as error:
            self._show_remark(str(error), failed=True)
        else:
            if reason is not None:
                self.app.notify(
                    literal.line(f"{model.name} cannot run here: {reason}").plain,
                    severity="warning",
                    timeout=30,
                    markup=False,
                )
            self.leave(model)

    def _show_remark(self, remark: str, *, failed: bool = False) -> None:
        line = self.query_one("#import-remark", Static)
        line.update(literal.line(remark))
        line.display = bool(remark)
        line.set_class(failed, "-failed")

    def action_close(self) -> None:
        self.leave(None)


def _unquoted(text: str) -> str:
    """Remove the quotes in which a terminal writes the path of a file that is dropped on it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
