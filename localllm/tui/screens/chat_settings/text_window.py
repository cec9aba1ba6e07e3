"""Windows with a text: one to write (a system prompt, a JSON Schema, a name, a variable), and one
to read (what a command shows that is longer than the status line)."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from localllm.errors import LocalLLMError
from localllm.translation import N_
from localllm.tui import literal

Check = Callable[[str], None]
"""Judge a text before it is taken. Raises LocalLLMError, whose message is shown."""


class TextWindow(ModalScreen[str | None]):
    """Ask for a text; None when the person gives up. `remark` says what it is for."""

    DEFAULT_CSS = """
    TextWindow { align: center middle; }
    TextWindow #text-area { height: auto; min-height: 3; max-height: 50vh; background: $panel;
        padding: 0 1; border: none; }
    TextWindow #text-remark { height: auto; color: $text-muted; margin-bottom: 1; }
    TextWindow #text-error { height: auto; color: $text-error; display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "take",
            N_("use"),
            id="text.use",
            priority=True,
            tooltip=N_("Use this text"),
        ),
        Binding(
            "ctrl+j,shift+enter",
            "new_line",
            N_("new line"),
            id="text.new_line",
            priority=True,
            key_display="^j",
            tooltip=N_("Start a new line"),
        ),
        Binding(
            "escape",
            "cancel",
            N_("leave it"),
            id="text.cancel",
            tooltip=N_("Leave it as it was"),
        ),
    ]

    def __init__(self, title: str, text: str = "", remark: str = "", check: Check | None = None):
        super().__init__()
        self._title = title
        self._text = text
        self._remark = remark
        self._check = check

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(literal.line(self._title), id="dialog-title")
            if self._remark:
                yield Static(literal.lines(self._remark), id="text-remark")
            yield TextArea(
                self._text,
                id="text-area",
                compact=True,
                soft_wrap=True,
                show_line_numbers=False,
                highlight_cursor_line=False,
            )
            yield Static("", id="text-error", markup=False)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor(area.document.end)

    def action_take(self) -> None:
        text = self.query_one(TextArea).text
        if self._check is not None:
            try:
                self._check(text)
            except LocalLLMError as error:
                shown = self.query_one("#text-error", Static)
                shown.update(literal.line(str(error)))
                shown.display = True
                return
        self.dismiss(text)

    def action_new_line(self) -> None:
        self.query_one(TextArea).insert("\n")

    def action_cancel(self) -> None:
        self.dismiss(None)


class NoteWindow(ModalScreen[None]):
    """Show outside text, line by line as it is."""

    DEFAULT_CSS = """
    NoteWindow { align: center middle; }
    NoteWindow #note { width: 92; max-width: 100%; height: auto; max-height: 100%;
        padding: 1 2; background: $surface; border: round $foreground 25%; }
    NoteWindow VerticalScroll { height: auto; max-height: 70vh; }
    NoteWindow #note-text { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape,enter,q", "close", N_("close"), id="note.close", tooltip=N_("Close the window")
        ),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="note"):
            yield Static(literal.line(self._title), id="dialog-title")
            with VerticalScroll():
                yield Static(literal.lines(self._text), id="note-text")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_close(self) -> None:
        if self.is_current:
            self.dismiss(None)
