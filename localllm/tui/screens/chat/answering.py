"""One answer on its way from the engine to the screen and into the conversation.

For each event nothing is done here but to add it to what was gathered: the transcript draws a few
times a second, and the meter and the store of conversations follow its draws.
"""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from uuid import uuid4

from localllm.chat.citations import answer_sources
from localllm.chat.conversation import ChatMessage, Conversation, Ending
from localllm.chat.request import AnswerBuilder, generate_request
from localllm.chat.token_scores import continuing_request
from localllm.engine.messages import (
    Finished,
    GenerateRequest,
    PromptProgress,
    Reasoning,
    Token,
    Tool,
)
from localllm.errors import EngineCrashed, LocalLLMError
from localllm.translation import _
from localllm.tui.app_words import app_words
from localllm.tui.services import AppServices
from localllm.tui.widgets.meter.readings import MeterLog
from localllm.tui.widgets.transcript.transcript import STREAM_INTERVAL_S, Transcript

SAVE_S = 1.0
"""A crash of this process loses no more of an answer than was written in this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A conversation with the answer at its end, and the error that broke it off, if one did."""

    conversation: Conversation
    failure: LocalLLMError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoingOn:
    """The beginning of a version of an answer, which is to be continued."""

    answer: ChatMessage
    text: str


class Answering:
    """Generates answers, one at a time, and shows them while they come.

    `save` is called about once a second with the conversation as it would be if the answer ended
    now. `request_id` is that of the answer that is being written, "" for none.
    """

    def __init__(
        self,
        services: AppServices,
        transcript: Transcript,
        log: MeterLog,
        *,
        save: Callable[[Conversation], None],
        show: Callable[[Conversation], None],
    ) -> None:
        self._services = services
        self._transcript = transcript
        self._log = log
        self._save = save
        self._show = show
        self._saved_s = 0.0
        self.request_id = ""
        self.growing: Callable[[], Conversation] | None = None
        """Makes the conversation as it would be if the answer ended now."""

    async def answer(
        self,
        conversation: Conversation,
        *,
        model: str,
        tools: tuple[Tool, ...] = (),
        going_on: GoingOn | None = None,
    ) -> Answered:
        """Answer the end of the conversation, or go on from the beginning of an answer to it.

        An answer that is broken off, by an error or by the cancellation of this call, is part of
        the conversation with what there was of it; `show` has been called with it.
        """
        beginning = "" if going_on is None else going_on.text
        request = _request(conversation, tools, going_on)
        builder = AnswerBuilder(
            model=model,
            created_s=time.time(),
            clock=self._services.clock,
            beginning=beginning,
        )
        answer_id = uuid4().hex

        def with_answer(ending: Ending | None = None, remark: str = "") -> Conversation:
            message = with_sources(builder.message(ending, remark), conversation)
            message = replace(message, id=answer_id)
            return conversation.with_message(message, after=conversation.leaf)

        self.growing = lambda: with_answer(Ending.BROKEN, _("localllm ended here"))
        self.request_id = request.request_id
        self._saved_s = time.monotonic()
        self._log.started(request.messages or ())
        live = self._transcript.begin_answer()
        live.reading_rate = self._services.runtime.reading_rate(model)
        if beginning:
            self._transcript.write(beginning)
        ending: Ending | None = Ending.STOPPED
        failure: LocalLLMError | None = None
        try:
            await self._stream(request, builder, model)
            ending = None if builder.finished is not None else Ending.BROKEN
        except LocalLLMError as error:
            ending, failure = Ending.BROKEN, error
        finally:  # also when this is cancelled: another conversation, quit
            self._log.ended(builder.finished)
            self.request_id, self.growing = "", None
            self._transcript.end_answer()
            done = with_answer(ending, remark(failure))
            self._show(done)
        if failure is None:
            self._log.settled()
        return Answered(conversation=done, failure=failure)

    async def _stream(self, request: GenerateRequest, builder: AnswerBuilder, model: str) -> None:
        transcript, log = self._transcript, self._log
        events = self._services.runtime.generate(model, request)
        async with self._services.pool.acquire(model), aclosing(events):
            async for event in events:
                builder.feed(event)
                match event:
                    case Token():
                        log.token_written()
                        if event.text:
                            transcript.write(event.text)
                    case Reasoning():
                        transcript.write_reasoning(event.text)
                    case PromptProgress():
                        log.prompt_read(event)
                        transcript.prompt_read(event)
                    case Finished():
                        pass

    def drawn(self) -> None:
        """Save what there is, when it is time; called after each draw."""
        now_s = time.monotonic()
        if self.growing is not None and now_s - self._saved_s >= SAVE_S:
            self._saved_s = now_s
            self._save(self.growing())


def _request(
    conversation: Conversation, tools: tuple[Tool, ...], going_on: GoingOn | None
) -> GenerateRequest:
    if going_on is None:
        return generate_request(
            conversation,
            request_id=uuid4().hex,
            tools=tools,
            stream_interval_s=STREAM_INTERVAL_S,
        )
    return continuing_request(conversation, going_on.answer, going_on.text, request_id=uuid4().hex)


def with_sources(answer: ChatMessage, conversation: Conversation) -> ChatMessage:
    """Give an answer the passages that it refers to, and what was said of how they were found."""
    return replace(
        answer,
        citations=answer_sources(answer.text, conversation.sources),
        warnings=(*conversation.source_remarks, *answer.warnings),
    )


def remark(failure: LocalLLMError | None) -> str:
    """Write the failure under an answer, shortly for an engine's: its dialog says the rest."""
    match failure:
        case None:
            return ""
        case EngineCrashed():
            return _("the engine stopped here ({reason})").format(reason=failure.reason)
    return app_words(str(failure))
