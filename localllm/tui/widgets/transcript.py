"""The conversation as it is read: one widget a turn, the answer as streamed Markdown."""

from markdown_it import MarkdownIt
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from localllm.core.text import ControlFilter, single_line, strip_controls, truncation_notice
from localllm.tui import literal
from localllm.tui.conversation import Conversation, Ending, Turn

ENDING_NOTES = {
    Ending.COMPLETE: "",
    Ending.STOPPED: "stopped",
    Ending.CUT: "the context is full: the answer ends here",
    Ending.BROKEN: "the answer broke off here",
}
REASONING_CHARS = 60
"""Characters of the reasoning that are shown, the last ones."""
NO_ANSWER = "the model said nothing"


def _parser() -> MarkdownIt:
    """Make a Markdown parser that takes HTML as text: Textual drops HTML, and with it whatever a
    model writes in tags such as `<think>`."""
    return MarkdownIt("gfm-like", {"html": False})


class TurnView(Vertical):
    """One question and its answer."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question
        self._filter = ControlFilter()
        self._stream: MarkdownStream | None = None
        self._reasoning = ""
        self.answer = ""
        """The model's text so far, unchanged."""

    def compose(self) -> ComposeResult:
        yield Static(literal.lines(self._question), classes="question")
        # Nothing that a model writes may open a browser: links are shown, see `_link_clicked`.
        yield Markdown(classes="answer", open_links=False, parser_factory=_parser)
        yield Static(Content(), classes="note")

    def note(self, text: str) -> None:
        """Show a small line under the answer."""
        note = self.query_one(".note", Static)
        note.update(literal.line(text))
        note.display = bool(text)

    def write_reasoning(self, text: str) -> None:
        """Show the end of the reasoning, small, until the answer begins."""
        self._reasoning = (self._reasoning + text)[-REASONING_CHARS:]
        if not self.answer:
            self.note(f"thinking… {self._reasoning}")

    async def write(self, text: str) -> None:
        """Show the next piece of the answer."""
        self.answer += text
        if not (piece := self._filter.feed(text)):
            return
        if self._stream is None:
            # Not before there is something to write: stopping a stream that never wrote cancels
            # its caller (Textual 8.2, MarkdownStream.stop awaits a task that never ran).
            self.note("")
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        await self._stream.write(piece)

    async def end(self, turn: Turn) -> None:
        """Show the whole turn once more, parsed as one text, and how it ended."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        self.answer = turn.answer
        await self.query_one(Markdown).update(strip_controls(turn.answer))
        self.note(_note(turn))
        self.set_class(turn.ending is Ending.BROKEN, "-broken")

    @on(Markdown.LinkClicked)
    def _link_clicked(self, event: Markdown.LinkClicked) -> None:
        event.stop()
        self.notify(single_line(event.href), title="Links are not opened", markup=False)


def _note(turn: Turn) -> str:
    """Write the line under a turn that is over."""
    ending = turn.remark or ENDING_NOTES[turn.ending] or ("" if turn.answer else NO_ANSWER)
    notes = (ending, truncation_notice(turn.left_out), *turn.warnings)
    return " · ".join(note for note in notes if note)


class Transcript(VerticalScroll):
    """All turns, oldest first; the view stays at the end unless somebody scrolls up."""

    def compose(self) -> ComposeResult:
        with Vertical(id="welcome"):
            yield Static("Ask something.", classes="strong")
            yield Static("The answer is made on this machine; nothing is sent anywhere.")

    def on_mount(self) -> None:
        self.anchor()

    async def add(self, question: str) -> TurnView:
        """Start a turn at the end."""
        self.query_one("#welcome").display = False
        turn = TurnView(question)
        await self.mount(turn)
        self.anchor()
        return turn

    async def remove_last(self) -> None:
        """Take the last turn away."""
        turns = self.query(TurnView)
        if turns:
            await turns.last().remove()
        self.query_one("#welcome").display = not self.query(TurnView)

    async def show(self, conversation: Conversation) -> None:
        """Replace everything."""
        await self.query(TurnView).remove()
        self.query_one("#welcome").display = not conversation.turns
        for turn in conversation.turns:
            view = await self.add(turn.question)
            await view.end(turn)
