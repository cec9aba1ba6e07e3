"""The text area in which a question is typed: it grows with the text; enter sends."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class QuestionSent(Message):
    """The prompt was sent; it is empty again."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class PageTurned(Message):
    """Page up or page down was pressed in the prompt: the conversation is meant."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up


class Prompt(TextArea):
    """A text area for one question. Posts QuestionSent and PageTurned."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send", tooltip="Send the question"),
        Binding(
            "ctrl+j,shift+enter",
            "new_line",
            "New line",
            id="prompt.new_line",
            key_display="^j",
            show=False,
            tooltip="Start a new line in the question",
        ),
    ]

    def __init__(self, *, placeholder: str) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            compact=True,
            placeholder=placeholder,
        )

    async def _on_key(self, event: events.Key) -> None:
        # TextArea takes enter as text: its own handler, which would run after this one, may not.
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_send()

    def action_send(self) -> None:
        if text := self.text.strip():
            self.clear()
            self.post_message(QuestionSent(text))

    def action_new_line(self) -> None:
        self.insert("\n")

    def action_cursor_page_up(self) -> None:
        self.post_message(PageTurned(up=True))

    def action_cursor_page_down(self) -> None:
        self.post_message(PageTurned(up=False))

    def put_back(self, text: str) -> None:
        """Return a question that was not answered, before anything typed since."""
        self.text = f"{text}\n{self.text}" if self.text.strip() else text
        self.move_cursor(self.document.end)
