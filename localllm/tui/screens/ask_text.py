"""A window that asks for one line, and says what is wrong with it before it takes it."""

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from localllm.translation import N_, _
from localllm.tui import literal


class AskText(ModalScreen[str | None]):
    """The result is the line, None after escape. `check` says what is wrong with a line, None:
    nothing. Title and message are outside text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", N_("Close"), id="ask.close", tooltip=N_("Change nothing"))
    ]

    def __init__(
        self,
        *,
        title: str,
        message: str,
        value: str = "",
        check: Callable[[str], str | None] = lambda _text: None,
    ) -> None:
        super().__init__()
        self._title = title
        self._message = message
        self._value = value
        self._check = check

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(literal.line(self._title), id="dialog-title")
            yield Static(literal.lines(self._message), id="dialog-message")
            yield Input(self._value, id="ask-text", compact=True)
            yield Static(Content(), id="ask-problem")
            yield Static(_("enter takes it · escape closes"), id="dialog-remark")

    @on(Input.Changed)
    def _changed(self) -> None:
        self.query_one("#ask-problem", Static).update(Content())

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if (problem := self._check(text)) is None:
            self.dismiss(text)
        else:
            self.query_one("#ask-problem", Static).update(literal.line(problem))

    def action_leave(self) -> None:
        self.dismiss(None)
