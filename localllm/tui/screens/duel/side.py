"""One side of a duel: a model's name, its meter, and its answer."""

from enum import StrEnum

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from localllm.chat.request import AnswerBuilder
from localllm.core.units import format_duration, format_rate
from localllm.translation import _, ngettext
from localllm.tui import literal
from localllm.tui.figures import bar

_FASTEST_TPS = 60.0
"""The rate at which a bar is full; at least four times as fast as one reads."""


class Progress(StrEnum):
    """The state of an answer."""

    IDLE = "idle"
    WAITING = "waiting"  # for its model
    READING = "reading"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


class DuelSide(Vertical):
    """One side. `label` stands in place of the name while it is hidden."""

    DEFAULT_CSS = """
    DuelSide { height: 1fr; width: 1fr; padding: 0 1; }
    DuelSide .side-name { height: 1; text-style: bold; }
    DuelSide .side-meter { height: 1; color: $text-muted; }
    DuelSide .side-scroll { height: 1fr; margin-top: 1; }
    DuelSide .side-answer { height: auto; max-width: 88; }
    DuelSide.-failed .side-answer { color: $text-error; }
    DuelSide.-better .side-name { color: $text-success; }
    """

    def __init__(self, label: str, *, id: str) -> None:  # noqa: A002  # Textual's own name
        super().__init__(id=id)
        self.label = label
        self.model = ""
        self.hidden = False
        self.shared = False
        self.progress = Progress.IDLE
        self.answer: AnswerBuilder | None = None
        self.remark = ""
        self._shown = ""

    def compose(self) -> ComposeResult:
        yield Static("", classes="side-name", markup=False)
        yield Static("", classes="side-meter", markup=False)
        with VerticalScroll(classes="side-scroll"):
            yield Static("", classes="side-answer", markup=False)

    def begin(self, model: str, *, hidden: bool, shared: bool) -> None:
        """Show an empty answer of this model. `shared`: the other one writes at the same time, so
        each is slower than alone."""
        self.model, self.hidden, self.answer, self.shared = model, hidden, None, shared
        self.progress, self.remark = Progress.WAITING, ""
        self.remove_class("-better", "-failed")
        self.draw()

    def fail(self, message: str) -> None:
        """Show an error in place of the rest of the answer."""
        self.progress, self.remark = Progress.FAILED, message
        self.add_class("-failed")
        self.draw()

    def reveal(self, *, better: bool) -> None:
        """Show the name and the meter; `better`: the vote went to this side."""
        self.hidden = False
        self.set_class(better, "-better")
        self.draw()

    def draw(self) -> None:
        """Draw what has changed since the last time."""
        name = self.label if self.hidden else self.model or self.label
        mark = "✓ " if self.has_class("-better") else ""
        self.query_one(".side-name", Static).update(literal.line(mark + name))
        self.query_one(".side-meter", Static).update(literal.line(self._meter()))
        text = self.answer.text if self.answer is not None else ""
        if not text and self.answer is not None and self.answer.reasoning:
            text = _("thinking…")
        if self.remark:
            text = f"{text}\n\n{self.remark}".strip()
        if text != self._shown:
            self._shown = text
            self.query_one(".side-answer", Static).update(literal.lines(text))
            scroll = self.query_one(".side-scroll", VerticalScroll)
            if self.progress is Progress.WRITING and scroll.is_vertical_scroll_end:
                self.call_after_refresh(scroll.scroll_end, animate=False)

    def _meter(self) -> str:
        answer = self.answer
        match self.progress:
            case Progress.IDLE:
                return ""
            case Progress.WAITING:
                return _("its model is loaded…")
            case Progress.READING:
                return _("reads…")
            case Progress.FAILED:
                return ""
        if self.hidden or answer is None:  # the speed would give the name away
            return _("writes…") if self.progress is Progress.WRITING else _("is done")
        if answer.finished is not None:
            timings = answer.finished.timings
            rate, first = timings.decode_tps, timings.ttft_s
        else:
            rate, first = _rate(answer), None
        parts = []
        if rate is not None:
            parts.append(f"{format_rate(rate)} {bar(rate / _FASTEST_TPS, 20)}")
        if first is not None:
            parts.append(_("first {duration}").format(duration=format_duration(first)))
        parts.append(
            ngettext("{count} token", "{count} tokens", answer.tokens).format(count=answer.tokens)
        )
        if self.shared:
            parts.append(_("while both wrote"))
        return " · ".join(parts)


def _rate(answer: AnswerBuilder) -> float | None:
    """Return the tokens per second since the first one."""
    if answer.first_token_s is None or answer.tokens < 2:
        return None
    elapsed_s = answer.clock() - answer.first_token_s
    return (answer.tokens - 1) / elapsed_s if elapsed_s > 0 else None


def tally_text(left: str, right: str, wins: tuple[int, int], same: int) -> Content:
    """Write the votes between two models so far."""
    duels = sum(wins) + same
    return literal.line(
        ngettext("{count} duel so far: ", "{count} duels so far: ", duels).format(count=duels)
        + _("{left} {left_wins}, {right} {right_wins}, same {same}").format(
            left=left, left_wins=wins[0], right=right, right_wins=wins[1], same=same
        )
    )
