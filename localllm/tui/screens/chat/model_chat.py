"""The half of the chat place that deals with the model: it is opened, asked, stopped, found dead,
started again, loaded with another context."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from textual import work
from textual.binding import BindingType
from textual.timer import Timer
from textual.worker import WorkerError

from localllm.chat.attachments.fitting import attachment_room, fit_attachments, tokenizer_of
from localllm.chat.conversation import Attachment, ChatMessage, Citation, Conversation
from localllm.chat.presets import PresetStore
from localllm.chat.settings import ChatSettings
from localllm.chat.tools.loop import AgentLoop
from localllm.chat.tools.tool import Arguments, LocalTool
from localllm.chat.tools.toolbox import chosen_tools, local_tools
from localllm.engine.messages import Role, Thinking, Tool
from localllm.errors import (
    ContextOverflow,
    EncryptionError,
    EngineCrashed,
    LocalLLMError,
    NotFound,
)
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _
from localllm.tui.places import HOME
from localllm.tui.screens.chat.answering import Answered, Answering, GoingOn
from localllm.tui.screens.chat.context import (
    differs,
    larger_context,
    load_choice,
    too_long_dialog,
)
from localllm.tui.screens.chat.counting import CountingChat
from localllm.tui.screens.chat.loading import LoadScreen
from localllm.tui.screens.chat.machine_load import LoadWatch
from localllm.tui.screens.chat.session import ChatSession, Draft
from localllm.tui.screens.chat.view import ConversationView
from localllm.tui.screens.dialog import Dialog, DialogButton, crash_dialog
from localllm.tui.widgets.chat.attachments import QueuedQuestions
from localllm.tui.widgets.meter.readings import MeterLog
from localllm.tui.widgets.prompt import PromptBox

SILENT_S = 4.0
"""An engine that works reports every second; after so many without a sign, that is said."""

DRAFT_S = 1.0
"""Seconds after which what is typed is kept, where conversations are kept on the disk."""

MAX_DRAFT_CHARS = 2**16
"""A longer text was pasted and is somewhere else; it would be written again each second."""


class ModelChat(CountingChat):
    """A conversation and its model. A subclass shows what changes (`conversation_shown`,
    `resident_shown`)."""

    BINDINGS: ClassVar[list[BindingType]] = []

    def __init__(self) -> None:
        super().__init__()
        self.session = ChatSession()
        self.ready = asyncio.Event()
        self._opening = False
        self._engine_ended = False
        self._stopping = False
        self._silence_noted = False
        self._draft_timer: Timer | None = None
        self._whole: dict[str, tuple[Attachment, ...]] = {}  # of the last question, before its cut
        self._loaded_for: tuple[int | None, str | None] = (None, None)

    def set_up(self) -> None:
        """Find the widgets, when they are there."""
        self.transcript = self.query_one(ConversationView)
        self.prompt_box = self.query_one(PromptBox)
        self.meter_log = MeterLog(self.services.clock)
        self.answers = Answering(
            self.services,
            self.transcript,
            self.meter_log,
            save=lambda growing: self.save(self._as_set(growing)),
            show=self.show_answered,
        )
        self.transcript.drawn = self.drawn
        self.load_watch = LoadWatch(self.services.read_load)

    @property
    def conversation(self) -> Conversation:
        return self.session.conversation

    # --- what the subclass shows ---

    def conversation_shown(self) -> None:
        """Show the conversation, after it has changed."""

    def resident_shown(self, resident: ResidentModel | None) -> None:
        """Show what is in memory, after it has changed."""

    def drawn(self) -> None:
        """Follow a draw of the transcript."""

    # --- the conversation ---

    def change_conversation(self, conversation: Conversation) -> None:
        """Show this state of the open conversation, and keep it."""
        self.session.conversation = conversation
        self.save(conversation)
        self.conversation_shown()

    def show_answered(self, conversation: Conversation) -> None:
        """Show the conversation with what an answer has added to it."""
        self.change_conversation(self._as_set(conversation))

    def _as_set(self, answered: Conversation) -> Conversation:
        """Give a conversation that is answered what was set of it since that began."""
        now = self.conversation
        if answered.id != now.id:
            return answered
        return replace(answered, settings=now.settings, title=now.title)

    def save(self, conversation: Conversation) -> None:
        """Keep a conversation in the store, as the person has chosen."""
        if conversation.messages:
            self.services.conversations.save(conversation)

    def open_conversation(self, conversation: Conversation) -> None:
        """Show another conversation; what was typed in this one is kept with it."""
        self._write_draft()
        draft = self.session.open(conversation, self.draft)
        self.transcript.forget()
        self.prompt_box.set_draft(draft.text, draft.attachments)
        self._show_queue()
        self.edited_shown()
        self.meter_log.shown(())
        self.conversation_shown()
        self.transcript.go_to_end()
        self.count_conversation()

    @property
    def draft(self) -> Draft:
        """The question that is typed and not sent."""
        return Draft(text=self.prompt_box.text, attachments=self.prompt_box.attachments)

    def keep_draft_soon(self) -> None:
        """Keep the text that is typed, where conversations are kept on the disk."""
        if self._draft_timer is None:
            self._draft_timer = self.set_timer(DRAFT_S, self._write_draft)

    def _write_draft(self) -> None:
        if self._draft_timer is not None:
            self._draft_timer.stop()
            self._draft_timer = None
            text = self.prompt_box.text
            if len(text) <= MAX_DRAFT_CHARS:
                self.write_draft(self.conversation, text if text.strip() else "")

    @work(group="draft", exit_on_error=False)
    async def write_draft(self, conversation: Conversation, text: str) -> None:
        with suppress(EncryptionError):  # the status line has said that nothing can be kept
            await asyncio.to_thread(self.services.conversations.keep_draft, conversation, text)

    # --- the model ---

    def open_with(
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
        await self.ready.wait()
        settings = (conversation or Conversation()).settings
        try:
            resident = self._in_memory(model.name)
            if resident is None:
                resident = await self.ask(LoadScreen(model, load_choice(settings)))
        finally:
            self._opening = False
        if resident is None:
            self.frame.go_to(came_from)
            return
        same = self.model is not None and self.model.name == model.name
        if same and conversation is None:
            self._show_resident(resident)
            return
        await self.end_answer()
        if conversation is None:
            conversation = self.session.latest.get(model.name) or self._new_conversation()
        self.model = resident.model
        self._show_resident(resident)
        self.open_conversation(replace(conversation, model=model.name))

    def _in_memory(self, name: str) -> ResidentModel | None:
        return next((each for each in self.runtime.resident() if each.model.name == name), None)

    def _show_resident(self, resident: ResidentModel) -> None:
        changed = resident is not self.resident or self._engine_ended
        self.resident, self._engine_ended = resident, False
        if changed:
            self.meter_log.loaded(resident.loaded.context)
            self.resident_shown(resident)
            self.find_expected_rate(resident)
        self.prompt_box.prompt.focus()

    @work(exclusive=True, group="expected", exit_on_error=False)
    async def find_expected_rate(self, resident: ResidentModel) -> None:
        """Work out what this machine should do with the model, for the meter to compare."""
        from localllm.runtime.local_machine import expected_rate

        expect = self.services.expect or expected_rate
        self.meter_log.expected = None
        hardware = await self.runtime.hardware()
        with suppress(LocalLLMError):
            self.meter_log.expected = await asyncio.to_thread(expect, hardware, resident)

    async def reload(self) -> bool:
        """Load the model anew, as the settings of the conversation have it; False when it cannot
        be, and then it is loaded as it was. Only in a worker, and not in that of the answer."""
        await self.end_answer()
        return await self._load_anew()

    async def _load_anew(self) -> bool:
        assert self.model is not None
        choice = load_choice(self.conversation.settings)
        before = self.resident
        await self.services.pool.unload(self.model.name)
        resident = await self.ask(LoadScreen(self.model, choice))
        if resident is not None:
            self._show_resident(resident)
            return True
        if before is not None:
            old = replace(
                choice, context=before.settings.context, kv_type=before.settings.kv_type_k
            )
            resident = await self.ask(LoadScreen(self.model, old))
        if resident is None:
            self.frame.go_to(HOME)
        else:
            self._show_resident(resident)
        return False

    def _new_conversation(self) -> Conversation:
        name = "" if self.model is None else self.model.name
        try:
            settings = PresetStore().default(name).settings
        except LocalLLMError as error:
            self.show_status(str(error))
            settings = ChatSettings()
        if settings.thinking == Thinking():
            settings = replace(settings, thinking=self.runtime.default_thinking)
        return Conversation(model=name, settings=settings)

    # --- asking and answering ---

    def send(self, text: str, attachments: tuple[Attachment, ...] = ()) -> None:
        """Ask, or put the question into the queue while an answer is written."""
        if self.model is None:
            self.prompt_box.put_back(text, attachments)
            self.show_status(_("Choose a model first: f3 shows those that suit this machine."))
        elif self.answering:
            self.session.queue.append(Draft(text=text, attachments=attachments))
            self._show_queue()
        else:
            self._ask(text, attachments)

    def _ask(self, text: str, attachments: tuple[Attachment, ...]) -> None:
        self.answering = True  # from now on, not from when the worker starts: no second question
        self.ask_question(text, attachments)

    @work(exclusive=True, group="answer", exit_on_error=False)
    async def ask_question(self, text: str, attachments: tuple[Attachment, ...]) -> None:
        """Add the question to the conversation, and answer it. One that is stopped before it is
        part of the conversation goes back into the prompt."""
        question: ChatMessage | None = None
        try:
            question = await self._question(text, attachments)
        finally:
            if question is None:
                self.answering = False
                self.prompt_box.put_back(text, attachments)
        self._whole = {question.id: attachments}
        conversation = self.session.with_question(question)
        self.session.editing = None
        self.edited_shown()
        self.change_conversation(conversation)
        await self._answer(conversation)

    async def _question(self, text: str, attachments: tuple[Attachment, ...]) -> ChatMessage:
        """Read the files that the text names, cut them to the context, and find sources."""
        attachments = await self.with_references(text, attachments)
        try:
            fitted = await self._fitted(text, attachments)
        except LocalLLMError:
            fitted = attachments  # the engine is gone: the answer says so
        sources, remarks = await self.find_sources(text, fitted)
        return ChatMessage(
            role=Role.USER,
            text=text,
            attachments=fitted,
            citations=sources,
            warnings=remarks,
            created_s=time.time(),
        )

    async def with_references(
        self, text: str, attachments: tuple[Attachment, ...]
    ) -> tuple[Attachment, ...]:
        """Add the files that the text of a question names."""
        return attachments

    async def find_sources(
        self, text: str, attachments: tuple[Attachment, ...]
    ) -> tuple[tuple[Citation, ...], tuple[str, ...]]:
        """Find the passages of documents that go with a question, with sentences about them."""
        return (), ()

    async def _fitted(
        self, text: str, attachments: tuple[Attachment, ...]
    ) -> tuple[Attachment, ...]:
        """Cut what is attached to what the context holds beside the conversation."""
        if not attachments or self.model is None or self.resident is None:
            return attachments
        tokenize = tokenizer_of(self.runtime, self.model.name)
        room = attachment_room(
            context=self.resident.loaded.context,
            used=self.meter_log.readings().context_used or 0,
            question=len(await tokenize(text)) if text else 0,
            max_tokens=self.conversation.settings.max_tokens,
        )
        return await fit_attachments(attachments, tokenize, room=room)

    @work(exclusive=True, group="answer", exit_on_error=False)
    async def answer_again(self, conversation: Conversation) -> None:
        """Answer the end of the conversation, which is a question: a version beside the others."""
        self.change_conversation(conversation)
        await self._answer(conversation)

    @work(exclusive=True, group="answer", exit_on_error=False)
    async def continue_answer(self, answer: ChatMessage, text: str) -> None:
        """Go on from `text`, the beginning of a version of an answer."""
        conversation = self.conversation.ending_at(answer.parent)
        self.change_conversation(conversation)
        await self._answer(conversation, GoingOn(answer=answer, text=text))

    async def _answer(self, conversation: Conversation, going_on: GoingOn | None = None) -> None:
        """Answer, in a worker that may be cancelled: another conversation, another model, quit."""
        self._stopping = False
        answered = Answered(conversation=conversation)
        try:
            if not await self._load_as_set():
                return
            conversation = self.conversation
            answered = await self._answered(conversation, going_on)
        finally:
            self.answering = False
        failure = answered.failure
        if failure is not None:
            self._engine_ended = isinstance(failure, EngineCrashed | NotFound)
            self._put_question_back()
        if isinstance(failure, EngineCrashed | NotFound):
            await self._recover(failure)
        elif isinstance(failure, ContextOverflow):
            await self._offer_larger_context()
        else:
            self._note_reloaded()
        if not self.answering and not self._engine_ended and failure is None:
            self._ask_next()

    async def _load_as_set(self) -> bool:
        """Load the model again where the settings of the conversation want that. When it cannot be
        loaded so, the settings go back to how it is loaded. False: it is not in memory."""
        settings, resident = self.conversation.settings, self.resident
        wanted = (settings.context, settings.kv_type)
        if resident is None or wanted == self._loaded_for or not differs(settings, resident):
            return True
        if await self._load_anew():
            self._loaded_for = wanted
            return True
        self.change_conversation(
            replace(self.conversation, settings=replace(settings, context=None, kv_type=None))
        )
        return self.resident is not None

    async def _answered(
        self, conversation: Conversation, going_on: GoingOn | None = None
    ) -> Answered:
        assert self.model is not None
        name = self.model.name
        tools = chosen_tools(conversation.settings.tools, self.local_tools)
        if not tools or going_on is not None:
            return await self.answers.answer(conversation, model=name, going_on=going_on)
        failures: list[LocalLLMError] = []

        async def answer(conversation: Conversation, tools: tuple[Tool, ...]) -> Conversation:
            answered = await self.answers.answer(conversation, model=name, tools=tools)
            if answered.failure is not None:
                failures.append(answered.failure)
            return answered.conversation

        async def changed(conversation: Conversation) -> None:
            self.show_answered(conversation)

        loop = AgentLoop(
            tools=tools, approve=self.approve, answer=answer, changed=changed, clock=time.time
        )
        done = await loop.run(conversation)
        return Answered(conversation=done, failure=failures[-1] if failures else None)

    @cached_property
    def local_tools(self) -> tuple[LocalTool, ...]:
        """The tools that a model may call where they are switched on."""

        async def search(query: str, passages: int) -> str:
            return await self.services.documents.search(query, passages)

        return local_tools(search=search)

    async def approve(self, tool: LocalTool, arguments: Arguments) -> bool:
        """Ask whether the model may make this call."""
        choice = await self.ask(
            Dialog(
                title=_("The model wants to use {tool}").format(tool=tool.name),
                message="\n".join(f"{name}: {value}" for name, value in arguments.items()),
                buttons=(
                    DialogButton(id="no", label=_("No")),
                    DialogButton(id="yes", label=_("Allow this call")),
                ),
            )
        )
        return choice == "yes"

    def _put_question_back(self) -> None:
        """Return a question that got no answer to the prompt."""
        path = self.conversation.path()
        if len(path) < 2 or path[-2].role is not Role.USER:
            return
        question, answer = path[-2:]
        if not (answer.text or answer.reasoning):
            whole = self._whole.get(question.id, question.attachments)
            self.prompt_box.put_back(question.text, whole)

    def _note_reloaded(self) -> None:
        """Note that the pool has loaded the model anew, for the question."""
        resident = None if self.model is None else self._in_memory(self.model.name)
        if resident is not None and resident is not self.resident:
            same = self.resident is not None and resident.loaded == self.resident.loaded
            self.resident = resident
            if not same:
                self.resident_shown(resident)

    # --- the queue ---

    def _ask_next(self) -> None:
        if self.session.queue:
            next_one = self.session.queue.pop(0)
            self._show_queue()
            self._ask(next_one.text, next_one.attachments)

    def unqueue(self, number: int) -> None:
        """Take a question out of the queue, back into the prompt."""
        if number < len(self.session.queue):
            taken = self.session.queue.pop(number)
            self.prompt_box.put_back(taken.text, taken.attachments)
            self._show_queue()

    def _show_queue(self) -> None:
        lines = tuple(" ".join(each.text[:200].split()) for each in self.session.queue)
        self.query_one(QueuedQuestions).show_lines(lines)

    def edited_shown(self) -> None:
        """Show whether a question is being edited; the subclass does."""

    # --- stopping ---

    def action_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self.transcript.note(_("stopping…"))
        self.stop_answer()

    @work(group="stop", exit_on_error=False)
    async def stop_answer(self) -> None:
        if not self.answers.request_id:  # it has not begun: nothing to wait for
            self.workers.cancel_group(self, "answer")
            self.answering = False
            return
        assert self.model is not None
        with suppress(EngineCrashed):  # the answer's own stream says so
            await self.runtime.cancel(self.model.name, self.answers.request_id)

    async def end_answer(self) -> None:
        """Close the answer that is being written, and wait until the conversation has its text."""
        for worker in self.workers.cancel_group(self, "answer"):
            with suppress(WorkerError):  # it was cancelled, as it should be
                await worker.wait()
        self.answering = False  # also when the worker was cancelled before it ran

    @work(exclusive=True, group="leave", exit_on_error=False)
    async def action_new(self) -> None:
        """Begin another conversation with the same model and settings; this one is kept."""
        await self.end_answer()
        fresh = replace(self._new_conversation(), settings=self.conversation.settings)
        kept = bool(self.conversation.messages)
        self.session.keep_draft(self.draft)
        self.open_conversation(fresh)
        self.session.latest.pop(fresh.model, None)
        self.prompt_box.prompt.focus()
        if kept:
            self.show_status(_("A new chat; the one before is kept."))

    # --- when the engine is gone, or hangs ---

    def watch_engine(self) -> None:
        """Notice an engine that ended between two questions, or gives no sign of life."""
        if self.model is None or self.resident is None:
            return
        name = self.model.name
        if self.answering:
            self.transcript.tick()
            silent_s = self.runtime.silent_s(name)
            if silent_s < SILENT_S and self._silence_noted:
                self._silence_noted = False
                self.transcript.note("")
            elif silent_s >= SILENT_S and self.answers.request_id:
                self._silence_noted = True
                words = _("the engine gives no sign of life for {seconds:.0f} s; 15 s end it")
                self.transcript.note(words.format(seconds=silent_s))
            return
        if not self.runtime.holds(name):
            return  # it gave way to another model, and is loaded again with the next question
        if self.is_current and not self._engine_ended and self._in_memory(name) is None:
            self._engine_ended = True
            self.recover()

    @work(exclusive=True, group="recover", exit_on_error=False)
    async def recover(self) -> None:
        assert self.model is not None
        crash = await self.runtime.crash(self.model.name)
        await self._recover(crash or NotFound(_("The engine's process ended while it was idle.")))

    async def _recover(self, error: EngineCrashed | NotFound) -> None:
        """Explain what happened; start the engine again. Otherwise everything stays, and the next
        question starts it."""
        choice = await self.ask(crash_dialog(error))
        if choice == "models":
            self.frame.go_to(HOME)
            return
        if choice != "restart" or self.model is None:
            return
        await self.services.pool.unload(self.model.name)
        choice_of_load = load_choice(self.conversation.settings)
        resident = await self.ask(LoadScreen(self.model, choice_of_load))
        if resident is not None:
            self._show_resident(resident)

    # --- the context ---

    async def _offer_larger_context(self) -> None:
        """After a question that does not fit, offer a context that it fits into."""
        assert self.model is not None
        assert self.resident is not None
        offer = await larger_context(self.runtime, self.resident, self.conversation)
        if await self.ask(too_long_dialog(self.resident, offer)) != "reload":
            return
        if offer is None or offer.context is None:
            return
        settings = replace(self.conversation.settings, context=offer.context)
        self.change_conversation(replace(self.conversation, settings=settings))
        self.prompt_box.send()  # which loads the model as it is set now
