"""The text area in which a question is typed: it grows with the text; enter sends.

What is pasted and too long to be read there becomes an attachment, so that a megabyte is one line
and costs nothing at each key. Completions come from functions that others add
(`Prompt.completers`); they run in a thread, for they may list a directory.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widget import Widget
from textual.widgets import TextArea

from localllm.chat.conversation import Attachment
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.widgets.chat.attachments import AttachmentList

MAX_PASTED_CHARS: Final = 4000
MAX_PASTED_LINES: Final = 60
"""A pasted text beyond either becomes an attachment."""

MAX_TYPED_CHARS: Final = 100_000
"""The text area works out its lines at each key; more than this in it is put into an attachment."""

MAX_POPUP_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCompletion:
    """`text` replaces what stands from `start` (an offset in characters) to the cursor."""

    text: str
    start: int
    help: str = ""


Completer = Callable[[str], Sequence[PromptCompletion]]
"""Complete the text before the cursor. Runs in a thread; returns nothing where it has nothing."""


class QuestionSent(Message):
    """The prompt was sent; it is empty again."""

    def __init__(self, text: str, attachments: tuple[Attachment, ...] = ()) -> None:
        super().__init__()
        self.text = text
        self.attachments = attachments


class CompletionTaken(Message):
    """A completion was put into the prompt; the cursor is behind it."""

    def __init__(self, completion: PromptCompletion) -> None:
        super().__init__()
        self.completion = completion


class PromptChanged(Message):
    """The text or the attachments of the prompt have changed."""


class PageTurned(Message):
    """Page up or page down was pressed in the prompt: the conversation is meant."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up


class MessagesRequested(Message):
    """Tab was pressed: the keys are to go to the messages."""


class EditLastRequested(Message):
    """↑ was pressed in an empty prompt: the last question is to be edited."""


class Prompt(TextArea):
    """A text area for one question; `PromptBox` has it with all that belongs to it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", N_("Send"), id="prompt.send", tooltip=N_("Send the question")),
        Binding(
            "ctrl+j,shift+enter",
            "new_line",
            N_("New line"),
            id="prompt.new_line",
            key_display="^j",
            show=False,
            tooltip=N_("Start a new line in the question"),
        ),
        Binding(
            "tab",
            "messages",
            N_("Messages"),
            id="prompt.messages",
            tooltip=N_("Go to the messages, where single keys copy, edit and branch"),
        ),
    ]

    def __init__(self, *, placeholder: str) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            compact=True,
            placeholder=Content(placeholder),
        )
        self.cursor_blink = False  # twice a second the screen would be drawn for it

    @property
    def _box(self) -> "PromptBox":
        box = self.parent
        assert isinstance(box, PromptBox)
        return box

    async def _on_key(self, event: events.Key) -> None:
        # TextArea takes these as text: its own handler, which would run after this one, may not.
        popup = self._box.popup
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if popup.chosen is not None:
                self._accept()
            else:
                self.action_send()
        elif event.key == "tab":
            event.stop()
            event.prevent_default()
            if popup.is_open:
                self._accept()
            else:
                self.action_messages()
        elif event.key == "escape" and popup.is_open:
            event.stop()
            event.prevent_default()
            popup.show(())
        elif event.key == "backspace" and not self.text and self._box.attachments:
            event.stop()
            event.prevent_default()
            self._box.detach(len(self._box.attachments) - 1)

    def action_send(self) -> None:
        self._box.send()

    def action_messages(self) -> None:
        self.post_message(MessagesRequested())

    def action_new_line(self) -> None:
        self.insert("\n")

    def action_cursor_up(self, select: bool = False) -> None:
        if self._box.popup.is_open:
            self._box.popup.move(-1)
        elif not self.text and not select:
            self.post_message(EditLastRequested())
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self._box.popup.is_open:
            self._box.popup.move(1)
        else:
            super().action_cursor_down(select)

    def action_cursor_page_up(self) -> None:
        self.post_message(PageTurned(up=True))

    def action_cursor_page_down(self) -> None:
        self.post_message(PageTurned(up=False))

    def _accept(self) -> None:
        popup = self._box.popup
        completion = popup.chosen or popup.first
        if completion is None:
            return
        popup.show(())
        before = self.before_cursor
        self.replace(
            completion.text,
            _location(before, completion.start),
            self.cursor_location,
            maintain_selection_offset=False,
        )
        self.post_message(CompletionTaken(completion))

    @property
    def before_cursor(self) -> str:
        """Return the text before the cursor."""
        row, column = self.cursor_location
        return "\n".join([*(self.document.get_line(i) for i in range(row)),
                          self.document.get_line(row)[:column]])  # fmt: skip

    async def _on_paste(self, event: events.Paste) -> None:
        if is_long(event.text) or len(self.text) + len(event.text) > MAX_TYPED_CHARS:
            event.stop()
            event.prevent_default()
            self._box.attach(pasted(event.text))

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self.post_message(PromptChanged())
        self._box.complete()


def _location(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n"), len(before) - (before.rfind("\n") + 1)


def is_long(text: str) -> bool:
    """Tell whether a pasted text is too long to be read in the prompt."""
    return len(text) > MAX_PASTED_CHARS or text.count("\n") > MAX_PASTED_LINES


def pasted(text: str) -> Attachment:
    """Make an attachment of a pasted text."""
    clean = text.replace("\r\n", "\n").replace("\r", "\n")
    return Attachment(name=_("pasted text"), media_type="text/plain", text=clean)


class CompletionPopup(Widget):
    """The completions of what is typed, a few rows above the prompt; nothing without any."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"completion--chosen", "completion--help"}

    def __init__(self) -> None:
        super().__init__()
        self._completions: tuple[PromptCompletion, ...] = ()
        self._chosen: int | None = None
        self.display = False

    @property
    def is_open(self) -> bool:
        return bool(self._completions)

    @property
    def first(self) -> PromptCompletion | None:
        return self._completions[0] if self._completions else None

    @property
    def chosen(self) -> PromptCompletion | None:
        """The completion under the cursor; None before anybody has moved it."""
        return None if self._chosen is None else self._completions[self._chosen]

    def show(self, completions: Sequence[PromptCompletion]) -> None:
        """Show these instead."""
        completions = tuple(completions)
        if completions != self._completions:
            self._completions, self._chosen = completions, None
            self.display = bool(completions)
            self.styles.height = min(len(completions), MAX_POPUP_ROWS)
            self.refresh(layout=True)

    def move(self, by: int) -> None:
        """Move the cursor, from one end to the other too."""
        count = len(self._completions)
        at = (0 if by > 0 else count - 1) if self._chosen is None else (self._chosen + by) % count
        self._chosen = at
        self.refresh()

    def render(self) -> Content:
        rows = min(len(self._completions), MAX_POPUP_ROWS)
        first = max(0, (self._chosen or 0) - rows + 1)
        lines = []
        for number, each in enumerate(self._completions[first : first + rows], start=first):
            mark = number == self._chosen
            style = self.get_visual_style("completion--chosen") if mark else Style.null()
            name = literal.line(each.text).stylize(style)
            hint = literal.line(each.help).stylize(self.get_visual_style("completion--help"))
            line = Content.assemble("▌ " if mark else "  ", name, "  ", hint)
            lines.append(line.truncate(max(self.content_size.width, 1), ellipsis=True))
        return Content("\n").join(lines)


class PromptBox(Vertical):
    """The prompt with what goes with the question. Posts QuestionSent and PromptChanged.

    `completers` are asked in their order; the first that has something is shown.
    """

    def __init__(self, *, placeholder: str) -> None:
        super().__init__()
        self.completers: list[Completer] = []
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        yield CompletionPopup()
        yield AttachmentList()
        yield Prompt(placeholder=self._placeholder)

    def on_mount(self) -> None:
        self.popup = self.query_one(CompletionPopup)
        self.prompt = self.query_one(Prompt)
        self._list = self.query_one(AttachmentList)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files and pictures that go with the question."""
        return self._list.attachments

    @property
    def text(self) -> str:
        return self.prompt.text

    def attach(self, attachment: Attachment) -> None:
        """Add a file to the question."""
        self.set_attachments((*self.attachments, attachment))

    def detach(self, number: int) -> None:
        """Take one away again."""
        kept = [each for i, each in enumerate(self.attachments) if i != number]
        self.set_attachments(tuple(kept))

    def set_attachments(self, attachments: tuple[Attachment, ...]) -> None:
        """Replace what goes with the question, such as by the same with its tokens counted."""
        if attachments != self.attachments:
            self._list.show(attachments)
            self.post_message(PromptChanged())

    def remove_before_cursor(self, text: str) -> None:
        """Remove a text that stands before the cursor, if it does."""
        before = self.prompt.before_cursor
        if before.endswith(text):
            start = _location(before, len(before) - len(text))
            self.prompt.replace("", start, self.prompt.cursor_location)

    def send(self) -> None:
        """Send what there is; nothing when there is nothing."""
        text, attachments = self.prompt.text.strip(), self.attachments
        if not text and not attachments:
            return
        self.popup.show(())
        self.prompt.clear()
        self._list.show(())
        self.post_message(QuestionSent(text, attachments))

    def put_back(self, text: str, attachments: tuple[Attachment, ...] = ()) -> None:
        """Return a question that was not answered, before anything typed since."""
        texts = [each for each in (text, self.prompt.text) if each.strip()]
        self.set_draft("\n".join(texts), (*attachments, *self.attachments))

    def set_draft(self, text: str, attachments: tuple[Attachment, ...] = ()) -> None:
        """Replace what is typed. A text too long for the prompt becomes an attachment."""
        if len(text) > MAX_TYPED_CHARS:
            text, attachments = "", (*attachments, pasted(text))
        self.prompt.text = text
        self.prompt.move_cursor(self.prompt.document.end)
        self.set_attachments(attachments)

    def show_count(self, text: str) -> None:
        """Show how long the question is, at its lower edge."""
        self.prompt.border_subtitle = literal.line(text) if text else ""

    @work(exclusive=True, group="complete", exit_on_error=False)
    async def complete(self) -> None:
        """Show the completions of what stands before the cursor."""
        before = self.prompt.before_cursor
        if not self.completers or not (before.startswith("/") or "@" in before.rpartition("\n")[2]):
            self.popup.show(())
            return
        self.popup.show(await asyncio.to_thread(self._completions, before))

    def _completions(self, before: str) -> Sequence[PromptCompletion]:
        for completer in self.completers:
            if found := completer(before):
                return found
        return ()
