"""A duel: one question, two models, a vote. Nothing of it is kept but the counts.

Both answer at the same time where both fit into the memory, else one after the other. With hidden
names the sides are drawn by lot for each question, and the meters are hidden with them.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar
from uuid import uuid4

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import Static

from localllm.chat.conversation import Attachment, ChatMessage, Conversation, Ending
from localllm.chat.duels import DuelStore, Vote, sides
from localllm.chat.request import AnswerBuilder, generate_request
from localllm.chat.settings import ChatSettings
from localllm.core.text import single_line
from localllm.engine.messages import PromptProgress, Role, Token
from localllm.errors import DoesNotFit, LocalLLMError
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.chat_settings.choice_window import ChoiceWindow, Chosen, Row
from localllm.tui.screens.duel.side import DuelSide, Progress, tally_text
from localllm.tui.widgets.key_hints import KeyHints
from localllm.tui.widgets.prompt import Prompt, PromptBox, QuestionSent
from localllm.tui.widgets.transcript.transcript import STREAM_INTERVAL_S

DRAWS_PER_S = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelWinner:
    """The answer that the person goes on with: a conversation, and the model that wrote it."""

    model: str
    conversation: Conversation


class _State(StrEnum):
    ASKING = "asking"
    ANSWERING = "answering"
    VOTING = "voting"
    VOTED = "voted"


class DuelScreen(WorkScreen[DuelWinner | None]):
    """Two models side by side. `models` are the names to choose from, of which the first two begin;
    `settings` go with the question; `chance` draws the sides."""

    CSS = """
    DuelScreen #duel-title { height: 1; color: $primary; text-style: bold; padding: 0 1; }
    DuelScreen #duel-sides { height: 1fr; layout: vertical; }
    DuelScreen.-wide #duel-sides { layout: horizontal; }
    DuelScreen #right { border-top: solid $foreground 15%; }
    DuelScreen.-wide #right { border-top: none; border-left: solid $foreground 15%; }
    DuelScreen #duel-question { height: auto; max-height: 2; padding: 0 1; margin-bottom: 1;
        color: $text-muted; }
    DuelScreen #duel-tally { height: 1; padding: 0 1; color: $text-muted; }
    DuelScreen #duel-tally.-vote { color: $primary; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "1",
            "vote('left')",
            N_("first is better"),
            id="duel.first",
            tooltip=N_("Vote for the first answer"),
        ),
        Binding(
            "2",
            "vote('right')",
            N_("second is better"),
            id="duel.second",
            tooltip=N_("Vote for the second answer"),
        ),
        Binding(
            "0,3",
            "vote('same')",
            N_("no difference"),
            id="duel.same",
            tooltip=N_("Vote for neither"),
        ),
        Binding(
            "c",
            "go_on",
            N_("chat on with it"),
            id="duel.go_on",
            tooltip=N_("Go on in the chat with the better answer"),
        ),
        Binding(
            "enter",
            "ask_again",
            N_("ask again"),
            id="duel.ask_again",
            tooltip=N_("Write the next question"),
        ),
        Binding(
            "ctrl+o,m",
            "models",
            N_("models"),
            id="duel.models",
            key_display="^o",
            tooltip=N_("Choose the two models"),
        ),
        Binding(
            "b",
            "blind",
            N_("hide names"),
            id="duel.blind",
            tooltip=N_("Hide the names until the vote, or show them"),
        ),
        Binding(
            "o",
            "at_once",
            N_("at once"),
            id="duel.at_once",
            tooltip=N_("Let both answer at once, or one after the other"),
        ),
        Binding(
            "s",
            "standings",
            N_("standings"),
            id="duel.standings",
            tooltip=N_("See how often each model was preferred; x forgets all votes"),
        ),
        Binding(
            "tab",
            "switch_focus",
            N_("answers"),
            id="duel.focus",
            priority=True,
            tooltip=N_("Go from the prompt to the answers, where letters are keys"),
        ),
        Binding("escape", "back", N_("back"), id="duel.back", tooltip=N_("Stop both, or go back")),
    ]

    def __init__(
        self,
        models: Sequence[str],
        settings: ChatSettings,
        *,
        question: str = "",
        store: DuelStore | None = None,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__()
        self._models = tuple(models)
        self._pair = list(self._models[:2])
        self._settings = settings
        self._first_question = question
        self._store = store or DuelStore()
        self._chance = chance or random.SystemRandom()
        self._blind = True
        self._at_once = True
        self._state = _State.ASKING
        self._question = ""
        self._attachments: tuple[Attachment, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static("", id="duel-title", markup=False)
        yield Static("", id="duel-question", markup=False)
        with Container(id="duel-sides"):
            yield DuelSide("A", id="left")
            yield DuelSide("B", id="right")
        yield Static("", id="duel-tally", markup=False)
        yield PromptBox(placeholder=_("One question for both models"))
        yield KeyHints()

    def on_mount(self) -> None:
        self._timer = self.set_interval(1 / DRAWS_PER_S, self._draw, pause=True)
        self._show()
        box = self.query_one(PromptBox)
        box.prompt.focus()
        if self._first_question:
            box.set_draft(self._first_question)

    @property
    def _sides(self) -> tuple[DuelSide, DuelSide]:
        return self.query_one("#left", DuelSide), self.query_one("#right", DuelSide)

    # --- what is shown ---

    def _show(self) -> None:
        names = " · ".join(self._pair) or _("no model")
        ways = (
            _("names hidden") if self._blind else _("names shown"),
            _("at once") if self._at_once else _("one after the other"),
        )
        title = _("Duel: {names}").format(names=names)
        self.query_one("#duel-title", Static).update(literal.line(f"{title} · {', '.join(ways)}"))
        self.query_one("#duel-question", Static).update(literal.line(self._question))
        tally = self.query_one("#duel-tally", Static)
        voting = self._state is _State.VOTING
        tally.set_class(voting, "-vote")
        if voting:
            tally.update(_("Which is better? 1 the first, 2 the second, 0 no difference"))
        elif len(self._pair) < 2:
            tally.update(_("A duel needs two models that answer, and there is only one here."))
        else:
            self._show_tally(tally)
        self.refresh_bindings()

    def _show_tally(self, tally: Static) -> None:
        one, other = self._pair
        try:
            votes = self._store.tally(one, other)
        except LocalLLMError as error:
            tally.update(literal.line(str(error)))
            return
        wins = (votes.wins(one), votes.wins(other))
        tally.update(tally_text(one, other, wins, votes.same))

    def _draw(self) -> None:
        for side in self._sides:
            side.draw()

    # --- asking ---

    @on(QuestionSent)
    def _question_sent(self, event: QuestionSent) -> None:
        if self._state is _State.ANSWERING or len(self._pair) < 2:
            self.query_one(PromptBox).put_back(event.text, event.attachments)
            return
        self._question, self._attachments = event.text, event.attachments
        self._state = _State.ANSWERING
        names = sides(self._pair[0], self._pair[1], blind=self._blind, chance=self._chance)
        for side, name in zip(self._sides, names, strict=True):
            side.begin(name, hidden=self._blind, shared=self._at_once)
        self._show()
        self.query_one("#left .side-scroll", VerticalScroll).focus()
        self.answer()

    @work(exclusive=True, group="duel", exit_on_error=False)
    async def answer(self) -> None:
        """Let both answer, and ask for the vote."""
        left, right = self._sides
        self._timer.resume()
        try:
            if self._at_once:
                first = asyncio.ensure_future(self._stream(left))
                second = asyncio.ensure_future(self._stream(right))
                try:
                    refused = [each for each in await asyncio.gather(first, second) if each]
                finally:
                    for task in (first, second):
                        task.cancel()
                for side in refused:  # there was no room for it beside the other
                    await self._one_more_time(side)
            else:
                for side in (left, right):
                    if (refused_side := await self._stream(side)) is not None:
                        await self._one_more_time(refused_side)
        finally:
            self._timer.pause()
            self._ended()

    async def _stream(self, side: DuelSide) -> DuelSide | None:
        """Write one answer; return the side when its model has no room now."""
        settings = replace(self._settings, tools=(), collections=())
        conversation = Conversation(settings=settings).with_message(
            ChatMessage(role=Role.USER, text=self._question, attachments=self._attachments),
            after=None,
        )
        request = generate_request(
            conversation, request_id=uuid4().hex, stream_interval_s=STREAM_INTERVAL_S
        )
        events = self.runtime.generate(side.model, request)
        try:
            async with self.services.pool.acquire(side.model), aclosing(events):
                answer = AnswerBuilder(
                    model=side.model, created_s=time.time(), clock=self.services.clock
                )
                side.answer, side.progress = answer, Progress.READING
                async for event in events:
                    answer.feed(event)
                    if isinstance(event, Token) and not event.of_prompt:
                        side.progress = Progress.WRITING
                    elif isinstance(event, PromptProgress):
                        side.progress = Progress.READING
                side.progress = Progress.DONE
        except DoesNotFit as error:
            side.remark = app_words(str(error))
            return side
        except LocalLLMError as error:
            side.fail(app_words(str(error)))
        return None

    async def _one_more_time(self, side: DuelSide) -> None:
        side.remark = ""
        if await self._stream(side) is not None:
            side.fail(side.remark)

    def _ended(self) -> None:
        if not self.is_attached:
            return
        answered = [side for side in self._sides if side.answer is not None and side.answer.text]
        self._state = _State.VOTING if len(answered) == 2 else _State.ASKING
        for side in self._sides:
            if side.progress not in (Progress.DONE, Progress.FAILED):
                side.progress = Progress.DONE if side in answered else Progress.IDLE
            if self._state is _State.ASKING:
                side.reveal(better=False)
        self._draw()
        self._show()
        if self._state is _State.ASKING:
            self.query_one(Prompt).focus()

    # --- the vote ---

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "vote":
                return self._state is _State.VOTING
            case "go_on" | "ask_again":
                return self._state is _State.VOTED
            case "models":
                return self._state is not _State.ANSWERING
            case "blind" | "at_once" | "standings":  # letters, which the prompt types
                return self._state is not _State.ANSWERING and not self.query_one(Prompt).has_focus
        return True

    def action_vote(self, choice: str) -> None:
        vote, (left, right) = Vote(choice), self._sides
        self._state = _State.VOTED
        left.reveal(better=vote is Vote.LEFT)
        right.reveal(better=vote is Vote.RIGHT)
        self._winner = right if vote is Vote.RIGHT else left
        self._show()
        try:
            self._store.record(left.model, right.model, vote)
        except LocalLLMError as error:
            self.query_one("#duel-tally", Static).update(literal.line(str(error)))
        else:
            self._show()

    def action_go_on(self) -> None:
        side = self._winner
        if side.answer is None:
            return
        conversation = Conversation(settings=self._settings, model=side.model)
        conversation = conversation.with_message(
            ChatMessage(
                role=Role.USER,
                text=self._question,
                attachments=self._attachments,
                created_s=time.time(),
            ),
            after=None,
        )
        done = side.answer.finished is not None
        answer = side.answer.message(None if done else Ending.STOPPED)
        conversation = conversation.with_message(answer, after=conversation.leaf)
        self.leave(DuelWinner(model=side.model, conversation=conversation))

    def action_ask_again(self) -> None:
        self.query_one(Prompt).focus()

    # --- choices ---

    def action_models(self) -> None:
        if len(self._models) < 2:
            return

        def chosen(choice: Chosen | None) -> None:
            if choice is None:
                return
            place = 0 if choice.key == "1" else 1
            if choice.id == self._pair[1 - place]:
                self._pair.reverse()
            else:
                self._pair[place] = choice.id
            self._show()

        places = {name: str(place) for place, name in enumerate(self._pair, start=1)}
        rows = [
            Row(id=each, name=f"{places.get(each, ' ')} {single_line(each)}")
            for each in self._models
        ]
        window = ChoiceWindow(
            _("Two models"),
            rows,
            keys={"1": _("is the first"), "2": _("is the second")},
            enter=_("is the second"),
            selected=self._pair[1],
        )
        self.open(window, chosen)

    def action_standings(self) -> None:
        """List the models by the share of the duels that they have won."""

        def chosen(choice: Chosen | None) -> None:
            if choice is None or choice.key != "x":
                return
            try:
                self._store.forget()
            except LocalLLMError as error:
                self.query_one("#duel-tally", Static).update(literal.line(str(error)))
            else:
                self._show()

        try:
            standings = self._store.standings()
        except LocalLLMError as error:
            self.query_one("#duel-tally", Static).update(literal.line(str(error)))
            return
        rows = [
            Row(
                id=each.model,
                name=single_line(each.model),
                remark=_("won {wins} of {duels}").format(wins=each.wins, duels=each.duels),
            )
            for each in standings
        ]
        keys = {"x": _("forget all votes")}
        self.open(ChoiceWindow(_("Standings"), rows, keys=keys, enter=_("close")), chosen)

    def action_blind(self) -> None:
        self._blind = not self._blind
        self._show()

    def action_at_once(self) -> None:
        self._at_once = not self._at_once
        self._show()

    def action_switch_focus(self) -> None:
        prompt = self.query_one(Prompt)
        if prompt.has_focus:
            self.query_one("#left .side-scroll", VerticalScroll).focus()
        elif self.query_one("#left .side-scroll", VerticalScroll).has_focus:
            self.query_one("#right .side-scroll", VerticalScroll).focus()
        else:
            prompt.focus()

    def action_back(self) -> None:
        if self._state is _State.ANSWERING:
            self.workers.cancel_group(self, "duel")
        else:
            self.leave(None)
