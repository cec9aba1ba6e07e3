"""What goes with a question, or waits to be asked: a line each, above the prompt; a click takes it
away."""

from typing import ClassVar

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from localllm.chat.conversation import Attachment
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.translation import _, ngettext
from localllm.tui import literal

MAX_ROWS = 4


class LineClicked(Message):
    """A line of a list above the prompt was clicked."""

    def __init__(self, lines: "RemovableLines", number: int) -> None:
        super().__init__()
        self.lines = lines
        self.number = number


class RemovableLines(Widget):
    """Lines with a mark; at most MAX_ROWS of them, the last ones. Nothing without any."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--mark", "lines--remove"}
    MARK: ClassVar[str] = "@"

    def __init__(self) -> None:
        super().__init__()
        self._lines: tuple[str, ...] = ()
        self.display = False

    def show_lines(self, lines: tuple[str, ...]) -> None:
        """Show these instead."""
        if lines != self._lines:
            self._lines = lines
            self.display = bool(lines)
            self.styles.height = min(len(lines), MAX_ROWS)
            self.refresh(layout=True)

    @property
    def _first(self) -> int:
        return max(0, len(self._lines) - MAX_ROWS)

    def render(self) -> Content:
        mark, remove = self.get_visual_style("lines--mark"), self.get_visual_style("lines--remove")
        return Content("\n").join(
            Content.assemble((f"{self.MARK} ", mark), literal.line(line), ("  ✕", remove))
            for line in self._lines[self._first :]
        )

    def on_click(self, event: events.Click) -> None:
        number = self._first + event.y
        if number < len(self._lines):
            self.post_message(LineClicked(self, number))


class AttachmentList(RemovableLines):
    """The files of the question that is typed."""

    def __init__(self) -> None:
        super().__init__()
        self.attachments: tuple[Attachment, ...] = ()

    def show(self, attachments: tuple[Attachment, ...]) -> None:
        """Show these instead."""
        self.attachments = attachments
        self.show_lines(tuple(map(attachment_words, attachments)))


class QueuedQuestions(RemovableLines):
    """The questions that wait until the answer is there."""

    MARK: ClassVar[str] = "⧗"


def attachment_words(attachment: Attachment) -> str:
    """Write an attachment's name, size and tokens, and what was cut of it."""
    size_bytes = len(attachment.data) or len(attachment.text.encode("utf-8", "replace"))
    parts = [single_line(attachment.name), format_bytes(size_bytes)]
    if attachment.tokens is not None:
        count = attachment.tokens
        parts.append(ngettext("{count} token", "{count} tokens", count).format(count=f"{count:,}"))
    if attachment.cut_tokens:
        parts.append(_("{count} tokens left out").format(count=f"{attachment.cut_tokens:,}"))
    return " · ".join(parts)
