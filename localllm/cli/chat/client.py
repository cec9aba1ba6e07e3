"""Ask a loaded model the questions of a conversation: what `run PROMPT` and every plain chat do."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from localllm.chat.citations import answer_sources
from localllm.chat.conversation import Attachment, ChatMessage, Citation, Conversation, Ending
from localllm.chat.request import AnswerBuilder, generate_request
from localllm.cli.chat.answer import Answer, AnswerOutput, print_stats, read_answer
from localllm.cli.chat.session import ChatSession
from localllm.cli.chat.session_file import left_out_of
from localllm.cli.output import info
from localllm.core.text import truncation_notice
from localllm.engine.messages import GenerateRequest, Overflow, Role, Tool
from localllm.errors import LocalLLMError, UsageError
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _

SAVE_INTERVAL_S = 1.0
"""A growing answer is kept so often: a crash loses no more."""


class ChatClient:
    """The model of one conversation, and the requests to it.

    `images` stand before the first question. `overflow` says what happens to a conversation that
    outgrows the context; `stats` are printed on stderr. `notify` shows a sentence about what was
    done to the conversation.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        runtime: Runtime,
        resident: ResidentModel,
        session: ChatSession,
        *,
        images: tuple[Attachment, ...] = (),
        overflow: Overflow = Overflow.ROLL,
        stats: bool = False,
        notify: Callable[[str], None] = info,
    ) -> None:
        self.runner = runner
        self.runtime = runtime
        self.resident = resident
        self.session = session
        self.stats = stats
        self._images = images
        self._overflow = overflow
        self.deterministic = False
        """The same text each time, as in a request."""
        self._notify = notify
        self._warned: set[str] = set()
        self._saved_s = 0.0

    @property
    def conversation(self) -> Conversation:
        return self.session.conversation

    @property
    def chats(self) -> bool:
        """True when the model has a chat template; without one it continues text."""
        return self.resident.loaded.has_chat_template

    def add_question(
        self,
        text: str,
        attachments: tuple[Attachment, ...] = (),
        *,
        sources: tuple[Citation, ...] = (),
        after: str | None,
    ) -> None:
        """Add a question behind the message `after`, None: at the beginning. `sources` are passages
        of documents that were found for it. Raises UsageError for what this model has no place
        for."""
        conversation = self.conversation
        if not conversation.messages:
            attachments = (*self._images, *attachments)
        self._require_place(attachments)
        question = ChatMessage(
            role=Role.USER,
            text=text,
            created_s=time.time(),
            attachments=attachments,
            citations=sources,
        )
        self.session.conversation = conversation.with_message(question, after=after)
        self.session.save_to_store()

    async def answer(self, writer: AnswerOutput, *, tools: tuple[Tool, ...] = ()) -> Answer:
        """Answer the question, or continue from the results of tools, that the branch ends with.

        The answer is then part of the conversation, also one that was stopped or that broke off.
        Says what was done to the conversation to make it, and saves it. Raises LocalLLMError.
        """
        conversation = replace(self.conversation, model=self.resident.model.name)
        left_out, answer_id = left_out_of(conversation), uuid.uuid4().hex
        request = self._request(conversation, left_out, tools)
        builder = AnswerBuilder(model=self.resident.model.name, created_s=time.time())

        def put(ending: Ending | None, remark: str = "") -> None:
            message = replace(
                builder.message(ending, remark),
                id=answer_id,
                left_out=left_out,
                citations=answer_sources(builder.text, conversation.sources),
            )
            self.session.conversation = conversation.with_message(message, after=conversation.leaf)

        def save_growing() -> None:
            if self.session.store is not None and self._is_time_to_save() and builder.text:
                put(Ending.BROKEN)
                self.session.save_to_store()

        events = self.runtime.generate(self.resident.model.name, request)
        try:
            answer = await read_answer(events, writer, builder, save_growing)
        except LocalLLMError as error:
            if builder.text:
                put(Ending.BROKEN, str(error))
                self.session.save()
            raise
        dropped = _turns_dropped(request, builder)
        if answer.text or builder.message().tool_calls:
            left_out += dropped
            put(Ending.STOPPED if answer.stopped else None)
        self._print_notices(builder, dropped)
        self.session.save()
        return answer

    def _is_time_to_save(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._saved_s < SAVE_INTERVAL_S:
            return False
        self._saved_s = now_s
        return True

    def _request(
        self, conversation: Conversation, left_out: int, tools: tuple[Tool, ...]
    ) -> GenerateRequest:
        request = generate_request(
            conversation, request_id=uuid.uuid4().hex, tools=tools, left_out=left_out
        )
        request = replace(request, deterministic=self.deterministic)
        if self.chats:
            return replace(request, overflow=self._overflow)
        question = conversation.path()[-1].text
        return replace(request, messages=None, prompt=question, overflow=Overflow.ERROR)

    def _require_place(self, attachments: tuple[Attachment, ...]) -> None:
        """Raise UsageError for what this model has no place for."""
        given = {
            "--system": self.conversation.settings.system,
            "--image": attachments,
            "--session": self.session.path,
        }
        if not self.chats and (misplaced := next((n for n in given if given[n]), None)):
            raise UsageError(
                _(
                    "{name} is a base model without a chat template: it continues text and has "
                    "no place for {misplaced}."
                ).format(name=self.resident.model.name, misplaced=misplaced)
            )
        images = any(each.data for each in attachments)
        if images and self.resident.vision_unavailable is not None:
            raise UsageError(self.resident.vision_unavailable)

    def _print_notices(self, builder: AnswerBuilder, turns: int) -> None:
        for warning in builder.finished.warnings if builder.finished is not None else ():
            if warning not in self._warned:  # the next turn has it again
                self._notify(warning)
                self._warned.add(warning)
        if notice := truncation_notice(turns):
            self._notify(notice)

    def print_stats(self, answer: Answer) -> None:
        if self.stats:
            name = self.resident.model.name
            print_stats(answer, self.resident, self.runtime.memory_bytes(name))

    def session_document(self, answer: Answer) -> dict[str, object]:
        """Return what `run --json` prints of a session that has a file."""
        if self.session.path is None:
            return {}
        done = answer.finished
        return {
            "session": {
                "restored_tokens": self.session.restored_tokens,
                "dropped_messages": done.dropped_messages if done is not None else None,
            }
        }

    async def restore_state(self) -> None:
        """Bring back what was computed of the session last time."""
        self._print(await self.session.restore_state(self.runtime, self.resident))

    async def save_state(self) -> None:
        """Save what was computed of the session for next time."""
        self._print(await self.session.save_state(self.runtime, self.resident))

    def _print(self, outcome: str) -> None:
        if self.stats and outcome:
            info(outcome)


def _turns_dropped(request: GenerateRequest, builder: AnswerBuilder) -> int:
    """Count the questions that the engine left out of a request."""
    dropped = builder.finished.dropped_messages if builder.finished is not None else 0
    sent = [each for each in request.messages or () if each.role is not Role.SYSTEM]
    return sum(each.role is Role.USER for each in sent[:dropped])
