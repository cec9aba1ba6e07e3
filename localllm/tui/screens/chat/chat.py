"""The conversation with one model, and the way on when its engine ends."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import ClassVar
from uuid import uuid4

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static
from textual.worker import WorkerError

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Overflow,
    PromptProgress,
    Reasoning,
    Token,
)
from localllm.errors import EngineCrashed, LocalLLMError, NotFound
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _
from localllm.tui import literal
from localllm.tui.conversation import MESSAGES_OF_A_TURN, Conversation, Ending, Turn
from localllm.tui.places import CHAT, HOME
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.chat.loading import LoadScreen
from localllm.tui.screens.chat.memory import MemoryScreen
from localllm.tui.screens.dialog import crash_dialog
from localllm.tui.widgets.meter import MeterPanel
from localllm.tui.widgets.prompt import PageTurned, Prompt, QuestionSent
from localllm.tui.widgets.transcript import Transcript, TurnView

ENDINGS = {
    FinishReason.STOP: Ending.COMPLETE,
    FinishReason.TOOL_CALLS: Ending.COMPLETE,
    FinishReason.LENGTH: Ending.CUT,
    FinishReason.CANCELLED: Ending.STOPPED,
}


THINKING_NAMES = {None: "as the model does by itself", False: "off", True: "on"}


class ChatScreen(PlaceScreen):
    """Chat with one model after another; the conversation of each stays while the program runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape", "stop", "Stop", id="chat.stop", tooltip="Stop the answer; its text stays"
        ),
        Binding("ctrl+n", "new", "New chat", id="chat.new", tooltip="Forget this conversation"),
        Binding(
            "ctrl+r",
            "again",
            "Ask again",
            id="chat.again",
            show=False,
            tooltip="Ask the last question again",
        ),
        Binding(
            "ctrl+o",
            "models",
            "Other models",
            id="chat.models",
            tooltip="Choose another model; this one stays in memory",
        ),
        Binding(
            "ctrl+t",
            "thinking",
            "Thinking",
            id="chat.thinking",
            show=False,
            tooltip="Let a model that can think do so: as it does by itself, off, on",
        ),
        Binding("f2", "memory", "Memory", id="chat.memory", tooltip="Estimated and real memory"),
    ]

    answering: reactive[bool] = reactive(False, bindings=True)

    place = CHAT

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation()
        self._model: InstalledModel | None = None
        self._resident: ResidentModel | None = None
        self._conversations: dict[str, Conversation] = {}
        self._request_id = ""
        self._engine_ended = False
        self._opening = False
        self._ready = asyncio.Event()

    def compose_place(self) -> ComposeResult:
        yield Static(Content(), id="chat-warning")
        with Container(id="chat"):
            yield Transcript()
            yield MeterPanel(clock=self.services.clock, memory_bytes=self._memory_bytes)
            yield Prompt(placeholder="Ask something")

    def on_mount(self) -> None:
        self._transcript = self.query_one(Transcript)
        self._meter = self.query_one(MeterPanel)
        self._prompt = self.query_one(Prompt)
        self._prompt.focus()
        self._thinking = self.runtime.default_thinking
        self.set_interval(1.0, self.watch_engine)
        self._ready.set()

    def _memory_bytes(self) -> int | None:
        return None if self._model is None else self.runtime.memory_bytes(self._model.name)

    # --- the model ---

    def open_model(
        self, model: InstalledModel, conversation: Conversation | None, *, came_from: str
    ) -> None:
        """Chat with this model; when it cannot be loaded, go back to the place `came_from`."""
        if self._opening:  # enter, twice in the same moment
            return
        self._opening = True
        self.change_model(model, conversation, came_from)

    @work(exclusive=True, group="open", exit_on_error=False)
    async def change_model(
        self, model: InstalledModel, conversation: Conversation | None, came_from: str
    ) -> None:
        await self._ready.wait()
        try:
            resident = next(
                (r for r in self.runtime.resident() if r.model.name == model.name), None
            )
            if resident is None:
                resident = await self.ask(LoadScreen(model))
        finally:
            self._opening = False
        if resident is None:
            self.frame.go_to(came_from)
            return
        if self._model is not None and self._model.name == model.name and conversation is None:
            await self._show_resident(resident)
            return
        await self._end_answer()
        if self._model is not None:
            self._conversations[self._model.name] = self.conversation
        self._model = resident.model
        self.conversation = conversation or self._conversations.get(model.name, Conversation())
        await self._transcript.show(self.conversation)
        await self._show_resident(resident)

    async def _show_resident(self, resident: ResidentModel) -> None:
        if resident is self._resident and not self._engine_ended:
            return
        self._resident = resident
        self._engine_ended = False
        model, layers = resident.model, resident.loaded.gpu_layers
        where = f"{layers} layers on the GPU" if layers else "on the CPU"
        self.set_subject(f"{model.name} {model.quant or ''} · {where}")
        warning = self.query_one("#chat-warning", Static)
        warning.update(literal.line(" ".join(resident.warnings)))
        warning.display = bool(resident.warnings)
        await self._meter.loaded(resident)
        self._prompt.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what cannot be done now."""
        match action:
            case "stop":
                return self.answering or None
            case "again":
                return (bool(self.conversation.turns) and not self.answering) or None
            case "memory":
                return self._resident is not None or None
        return True

    @property
    def _model_name(self) -> str:
        assert self._model is not None
        return self._model.name

    # --- asking and answering ---

    @on(QuestionSent)
    def _question_sent(self, event: QuestionSent) -> None:
        if self._resident is None:
            self._prompt.put_back(event.text)
            self.show_status(_("Choose a model first: f3 shows those that suit this machine."))
        elif self.answering:
            self._prompt.put_back(event.text)
            self.notify("The answer is still coming. Escape stops it.")
        else:
            self._start_answer(event.text)

    def _start_answer(self, question: str) -> None:
        self.answering = True  # from now on, not from when the worker starts: no second question
        self.answer(question)

    @work(exclusive=True, group="answer", exit_on_error=False)
    async def answer(self, question: str) -> None:
        """Ask the engine and show what it writes."""
        await self._drop_unanswered()
        view = await self._transcript.add(question)
        view.note("reading…")
        turn, failure = Turn(question=question, ending=Ending.STOPPED), None
        try:
            turn = await self._stream(question, view)
        except LocalLLMError as error:
            turn, failure = replace(turn, ending=Ending.BROKEN), error
            self._engine_ended = isinstance(error, EngineCrashed | NotFound)
        finally:  # also when this worker is cancelled: a new chat, another model, quit
            self.answering = False
            await self._close_turn(turn, view, failure)
        if isinstance(failure, EngineCrashed | NotFound):
            await self._recover(failure)

    async def _stream(self, question: str, view: TurnView) -> Turn:
        request = GenerateRequest(
            request_id=uuid4().hex,
            messages=self.conversation.messages(question),
            overflow=Overflow.ROLL,
            thinking=self._thinking,
        )
        self._request_id = request.request_id
        self._meter.started()
        finished: Finished | None = None
        name = self._model_name
        events = self.runtime.generate(name, request)
        try:
            async with self.services.pool.acquire(name), aclosing(events):
                async for event in events:
                    match event:
                        case PromptProgress():
                            self._meter.prompt_read(event)
                            view.note(f"reading… {event.processed} of {event.total} tokens")
                        case Reasoning():
                            view.write_reasoning(event.text)
                        case Token():
                            self._meter.token_written()
                            await view.write(event.text)
                        case Finished():
                            finished = event
        finally:
            self._meter.ended(finished)
        if finished is None:
            return Turn(question=question, ending=Ending.BROKEN)
        return Turn(
            question=question,
            ending=ENDINGS[finished.reason],
            left_out=finished.dropped_messages // MESSAGES_OF_A_TURN,
            warnings=finished.warnings,
        )

    async def _close_turn(self, turn: Turn, view: TurnView, failure: LocalLLMError | None) -> None:
        turn = replace(turn, answer=view.answer, remark=_remark(failure))
        self.conversation = self.conversation.with_turn(turn)
        if view.is_attached:
            await view.end(turn)
        if failure is not None and not turn.answer:
            self._prompt.put_back(turn.question)
        self.refresh_bindings()

    async def _drop_unanswered(self) -> None:
        """Remove a question that broke off without an answer, before the next one."""
        turns = self.conversation.turns
        if turns and turns[-1].ending is Ending.BROKEN and not turns[-1].answer:
            await self._drop_last()

    async def _drop_last(self) -> None:
        self.conversation = self.conversation.without_last()
        await self._transcript.remove_last()

    # --- when the engine is gone ---

    def watch_engine(self) -> None:
        """Notice an engine that ended between two questions."""
        if self._resident is None or not self.runtime.holds(self._model_name):
            return  # it gave way to another model, and is loaded again with the next question
        name = self._model_name
        alive = any(resident.model.name == name for resident in self.runtime.resident())
        if self.is_current and not (alive or self.answering or self._engine_ended):
            self._engine_ended = True
            self.recover()

    @work(exclusive=True, group="recover", exit_on_error=False)
    async def recover(self) -> None:
        crash = await self.runtime.crash(self._model_name)
        await self._recover(crash or NotFound("The engine's process ended while it was idle."))

    async def _recover(self, error: EngineCrashed | NotFound) -> None:
        """Say what happened; start the engine again, with the conversation, or leave."""
        choice = await self.ask(crash_dialog(error))
        assert self._model is not None
        await self.services.pool.unload(self._model.name)
        resident = None
        if choice == "restart":
            resident = await self.ask(LoadScreen(self._model))
        if resident is None:
            self.frame.go_to(HOME)
        else:
            await self._show_resident(resident)

    # --- keys ---

    @work(group="stop", exit_on_error=False)
    async def action_stop(self) -> None:
        with suppress(EngineCrashed):  # the answer's own stream says so
            await self.runtime.cancel(self._model_name, self._request_id)

    @work(exclusive=True, group="leave", exit_on_error=False)
    async def action_new(self) -> None:
        await self._end_answer()
        self.conversation = Conversation()
        await self._transcript.show(self.conversation)
        self._meter.cleared()
        self._prompt.focus()

    def action_models(self) -> None:
        self.frame.go_to(HOME)

    async def _end_answer(self) -> None:
        """Close the answer that is being written, and wait until the conversation has its text."""
        for worker in self.workers.cancel_group(self, "answer"):
            with suppress(WorkerError):  # it was cancelled, as it should be
                await worker.wait()
        self.answering = False  # also when the worker was cancelled before it ran

    async def action_again(self) -> None:
        if self.answering or not self.conversation.turns:  # a second press in the same moment
            return
        question = self.conversation.turns[-1].question
        if self._prompt.text == question:
            self._prompt.clear()
        self.answering = True
        await self._drop_last()
        self._start_answer(question)

    def action_thinking(self) -> None:
        """Switch thinking: by itself, off, on, from the next question."""
        enabled = {None: False, False: True, True: None}[self._thinking.enabled]
        self._thinking = replace(self._thinking, enabled=enabled)
        self.notify(f"Thinking: {THINKING_NAMES[enabled]}, from the next question.")

    def action_memory(self) -> None:
        if self._resident is not None:
            self.open(MemoryScreen(self._resident))

    @on(PageTurned)
    def _page_turned(self, event: PageTurned) -> None:
        if event.up:
            self._transcript.scroll_page_up()
        else:
            self._transcript.scroll_page_down()


def _remark(failure: LocalLLMError | None) -> str:
    """Write the failure under the turn, shortly for an engine's: its dialog says the rest."""
    match failure:
        case None:
            return ""
        case EngineCrashed():
            return f"the engine stopped here ({failure.reason})"
    return str(failure)
