"""A label and what it says: of the machine, of a model, of a download."""

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from localllm.tui import outside


class Fact(Horizontal):
    """One line: a quiet label and a value."""

    def __init__(self, label: str, value: str, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._label = label
        self._value = value

    def compose(self) -> ComposeResult:
        yield Static(Content(self._label), classes="fact-label")
        yield Static(outside.line(self._value), classes="fact-value")
