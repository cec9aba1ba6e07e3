"""Small pieces of every screen: a bar that shows a fraction, the title line, a labelled value."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from localllm.tui import literal


class Bar(Widget):
    """One row; `fraction` of it is filled. None: unknown, an empty track.

    The class `-high` colours it as a warning.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--filled", "bar--empty"}

    fraction: reactive[float | None] = reactive(None)

    def render(self) -> Content:
        width = self.size.width
        halves = round(min(max(self.fraction or 0.0, 0.0), 1.0) * width * 2)
        filled = "━" * (halves // 2) + "╸" * (halves % 2)
        return Content.assemble(
            (filled, self.get_visual_style("bar--filled")),
            ("━" * (width - len(filled)), self.get_visual_style("bar--empty")),
        )


class Brand(Horizontal):
    """The header. `subject` and `remark` are shown as they are, without markup."""

    def __init__(self, subject: Content | None = None, remark: Content | None = None) -> None:
        super().__init__()
        self._subject = subject or Content()
        self._remark = remark or Content()

    def compose(self) -> ComposeResult:
        yield Static(Content("◆ localllm"), id="brand-name")
        yield Static(self._subject, id="brand-subject")
        yield Static(self._remark, id="brand-remark")


class Fact(Horizontal):
    """One line: a quiet label and a value."""

    def __init__(self, label: str, value: str, *, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._label = label
        self._value = value

    def compose(self) -> ComposeResult:
        yield Static(Content(self._label), classes="fact-label")
        yield Static(literal.line(self._value), classes="fact-value")
