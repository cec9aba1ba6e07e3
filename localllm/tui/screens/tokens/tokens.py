"""The tokens of an answer: how probable each was, what could have stood there, and a way to go on
from another one."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar
from uuid import uuid4

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.token_scores import (
    Alternative,
    ScoredToken,
    branch_text,
    scored_tokens,
    scoring_request,
    summarize,
)
from localllm.engine.messages import PromptProgress, Token
from localllm.errors import LocalLLMError
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.tokens.token_layout import visible
from localllm.tui.screens.tokens.token_text import TokenText
from localllm.tui.widgets.key_hints import KeyHints

_LABEL_WIDTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBranch:
    """A version of an answer that begins with `text`; `complete`: it ends there, and nothing is to
    be generated."""

    answer_id: str
    text: str
    complete: bool = False


class Alternatives(Static):
    """The likeliest tokens at one place, each with its probability as a number and a bar."""

    DEFAULT_CSS = """
    Alternatives { height: 10; margin-top: 1; }
    Alternatives > .alternative--bar { color: $primary; }
    Alternatives > .alternative--quiet { color: $text-muted; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"alternative--bar", "alternative--quiet"}

    cursor: reactive[int] = reactive(0)

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._token: ScoredToken | None = None

    @property
    def chosen(self) -> Alternative | None:
        """Return the one under the cursor."""
        if self._token is None or not self._token.alternatives:
            return None
        return self._token.alternatives[self.cursor]

    def show(self, token: ScoredToken) -> None:
        """Show the tokens of one place, with the cursor on the one that stands there."""
        self._token = token
        raws = [each.raw for each in token.alternatives]
        self.cursor = raws.index(token.raw) if token.raw in raws else 0
        self.refresh()

    def move(self, rows: int) -> None:
        """Move the cursor, and stop at the ends."""
        if self._token is not None and self._token.alternatives:
            self.cursor = min(max(self.cursor + rows, 0), len(self._token.alternatives) - 1)

    def render(self) -> Content:
        token = self._token
        if token is None:
            return Content()
        lines = [
            self._line(_name(each), each.probability, at == self.cursor, each.raw == token.raw)
            for at, each in enumerate(token.alternatives)
        ]
        if token.raw not in [each.raw for each in token.alternatives]:
            own = visible(token.text)
            lines.append(self._line(own, token.probability or 0.0, selected=False, stands=True))
        rest = 1 - sum(each.probability for each in token.alternatives)
        lines.append(self._line(_("all others"), max(rest, 0.0), selected=False, stands=False))
        return Content("\n").join(lines)

    def _line(self, name: str, probability: float, selected: bool, stands: bool) -> Content:
        bar = self.get_visual_style("alternative--bar")
        quiet = self.get_visual_style("alternative--quiet")
        room = max(min(self.content_size.width - _LABEL_WIDTH - 24, 40), 0)
        label = literal.line(name).truncate(_LABEL_WIDTH)
        return Content.assemble(
            ("▌ ", bar) if selected else "  ",
            label.pad_right(_LABEL_WIDTH - label.cell_length),
            f"{_percent(probability):>8} ",
            ("▓" * round(probability * room), bar),
            (f"  {_('stands there')}" if stands else "", quiet),
        )


class TokensScreen(WorkScreen[TokenBranch | None]):
    """Show the tokens of an answer of a conversation, as the model called `model` sees them.

    The result is the version that the person wants to go on with, None for none.
    """

    CSS = """
    TokensScreen { padding: 0 1; }
    #tokens-title { height: 1; color: $primary; text-style: bold; }
    #tokens-summary { height: auto; color: $text-muted; margin-bottom: 1; }
    #tokens-remark { height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right,l",
            "move(1)",
            N_("token"),
            id="tokens.next",
            key_display="← →",
            tooltip=N_("Look at the next token; the left arrow at the one before"),
        ),
        Binding("left,h", "move(-1)", N_("Token before"), id="tokens.previous", show=False),
        Binding(
            "down,j",
            "choose(1)",
            N_("instead of it"),
            id="tokens.alternative",
            key_display="↑ ↓",
            tooltip=N_("Choose among the tokens that could stand there"),
        ),
        Binding("up,k", "choose(-1)", N_("A likelier token"), id="tokens.likelier", show=False),
        Binding(
            "enter",
            "branch",
            N_("go on from there"),
            id="tokens.branch",
            tooltip=N_("Write a version of the answer that goes on from this token"),
        ),
        Binding(
            "n",
            "unlikely(True)",
            N_("next unlikely"),
            id="tokens.unlikely",
            tooltip=N_("Look at the next token with less than 20 %"),
        ),
        Binding("N,p", "unlikely(False)", N_("Unlikely before"), id="tokens.back", show=False),
        Binding("pageup", "line(False)", N_("Line up"), id="tokens.line_up", show=False),
        Binding("pagedown", "line(True)", N_("Line down"), id="tokens.line_down", show=False),
        Binding("home,g", "move(-1000000)", N_("First token"), id="tokens.first", show=False),
        Binding("end,G", "move(1000000)", N_("Last token"), id="tokens.last", show=False),
        Binding(
            "escape,q,t", "close", N_("close"), id="tokens.close", tooltip=N_("Back to the chat")
        ),
    ]

    def __init__(self, conversation: Conversation, answer: ChatMessage, model: str) -> None:
        super().__init__()
        self._conversation = conversation
        self._answer = answer
        self._model = model
        self._tokens: tuple[ScoredToken, ...] = ()

    def compose(self) -> ComposeResult:
        title = _("Tokens of this answer, as {model} sees them").format(model=self._model)
        yield Static(literal.line(title), id="tokens-title")
        yield Static(_("Its probabilities are computed now…"), id="tokens-summary", markup=False)
        with Vertical():
            yield TokenText(id="tokens-text")
            yield Alternatives()
        yield Static("", id="tokens-remark", markup=False)
        yield KeyHints()

    def on_mount(self) -> None:
        self.score()

    @work(exclusive=True, group="score", exit_on_error=False)
    async def score(self) -> None:
        """Let the engine score the answer; leaving the screen stops that."""
        found: list[Token] = []
        summary = self.query_one("#tokens-summary", Static)
        try:
            request = scoring_request(self._conversation, self._answer, request_id=uuid4().hex)
            events = self.runtime.generate(self._model, request)
            async with self.services.pool.acquire(self._model), aclosing(events):
                async for event in events:
                    match event:
                        case PromptProgress():
                            summary.update(_progress(event))
                        case Token():
                            found.append(event)
            self._tokens = scored_tokens(self._answer.text, found)
        except LocalLLMError as error:
            summary.update(literal.line(str(error)))
            return
        summary.update(literal.line(self._summary()))
        self.query_one(TokenText).show(self._tokens)
        self._show_token(0)

    def _summary(self) -> str:
        figures = summarize(self._tokens)
        texts = [
            ngettext("{count} token", "{count} tokens", figures.tokens).format(
                count=figures.tokens
            ),
            _("{count} were not the likeliest").format(count=figures.not_first),
            _("{count} had under 20 %").format(count=figures.unlikely),
        ]
        if figures.perplexity is not None:
            texts.append(_("perplexity {value:.2f}").format(value=figures.perplexity))
        if self._answer.model and self._answer.model != self._model:
            texts.append(_("written by {model}").format(model=self._answer.model))
        return " · ".join(texts)

    def on_token_text_moved(self, event: TokenText.Moved) -> None:
        self._show_token(event.token)

    def _show_token(self, index: int) -> None:
        if index < len(self._tokens):
            self.query_one(Alternatives).show(self._tokens[index])
            self._show_remark()

    def _show_remark(self) -> None:
        """Say what enter would do."""
        self.query_one("#tokens-remark", Static).update(literal.line(self._remark()))

    def _remark(self) -> str:
        token, chosen = self._current(), self.query_one(Alternatives).chosen
        if token is None or chosen is None:
            return ""
        if chosen.raw == token.raw:
            return _("⏎ writes the answer anew from here on, as a version of it")
        if branch_text(self._answer.text, token, chosen) is None:
            return _("○ only a part of a character: the answer cannot go on from it")
        if chosen.ends_answer:
            return _("⏎ ends the answer here, as a version of it")
        return _("⏎ goes on from {token}, as a version of the answer").format(
            token=f"“{visible(chosen.text)}”"
        )

    def _current(self) -> ScoredToken | None:
        at = self.query_one(TokenText).cursor
        return self._tokens[at] if at < len(self._tokens) else None

    # --- keys ---

    def action_move(self, tokens: int) -> None:
        self.query_one(TokenText).move(tokens)

    def action_line(self, down: bool) -> None:
        self.query_one(TokenText).move_line(down=down)

    def action_choose(self, rows: int) -> None:
        self.query_one(Alternatives).move(rows)
        self._show_remark()

    def action_unlikely(self, forward: bool) -> None:
        if self._tokens:
            self.query_one(TokenText).move_to_unlikely(forward=forward)

    def action_branch(self) -> None:
        token, chosen = self._current(), self.query_one(Alternatives).chosen
        if token is None or chosen is None:
            return
        text = branch_text(self._answer.text, token, chosen)
        if text is None:
            return
        self.leave(TokenBranch(answer_id=self._answer.id, text=text, complete=chosen.ends_answer))

    def action_close(self) -> None:
        self.leave(None)


def _name(alternative: Alternative) -> str:
    if alternative.ends_answer:
        return _("(end)") + f" {visible(alternative.text)}"
    text = visible(alternative.raw.decode("utf-8", "replace"))
    return text.replace(" ", "␣", 1) if text.startswith(" ") and not text.strip() else text


def _percent(probability: float) -> str:
    if probability >= 0.0995:
        return f"{probability:.0%}".replace("%", " %")
    return f"{probability * 100:.1f} %" if probability >= 0.001 else "< 0.1 %"


def _progress(event: PromptProgress) -> str:
    return _("Its probabilities are computed now: {done} of {total} tokens of the chat").format(
        done=event.processed, total=event.total
    )
