"""Ask for one line: a name, a folder, a path."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from localllm.core.text import single_line
from localllm.translation import N_
from localllm.tui import literal


class LineScreen(ModalScreen[str | None]):
    """The result is the line that was typed, None after escape. `choices` complete it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", N_("Close"), id="line.leave", tooltip=N_("Change nothing"))
    ]

    def __init__(
        self, *, title: str, message: str = "", value: str = "", choices: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._title = title
        self._message = message
        self._value = single_line(value)
        self._choices = choices

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(literal.line(self._title), id="dialog-title")
            if self._message:
                yield Static(literal.line(self._message), id="dialog-message")
            yield Input(
                value=self._value,
                id="line",
                compact=True,
                suggester=SuggestFromList(self._choices, case_sensitive=False),
            )

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.is_current:
            self.dismiss(single_line(event.value))

    def action_leave(self) -> None:
        if self.is_current:
            self.dismiss(None)
