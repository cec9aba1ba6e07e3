"""The request that the engine gets for a conversation, and the answer that comes of its events."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from localllm.chat.conversation import (
    AnswerStats,
    ChatMessage,
    Citation,
    Conversation,
    Ending,
)
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Image,
    Message,
    Overflow,
    Reasoning,
    Role,
    Token,
    Tool,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
)

SOURCES_INSTRUCTION = (
    "Answer the question from these passages of the user's documents. Behind each statement that "
    "rests on a passage write its number in brackets, like [1]. If they do not hold the answer, "
    "say so."
)

MESSAGES_OF_A_TURN = 2  # the question and the answer

ENDINGS = {
    FinishReason.STOP: Ending.COMPLETE,
    FinishReason.TOOL_CALLS: Ending.COMPLETE,
    FinishReason.LENGTH: Ending.CUT,
    FinishReason.CANCELLED: Ending.STOPPED,
}


def engine_messages(conversation: Conversation, *, left_out: int = 0) -> tuple[Message, ...]:
    """Return what the model is sent: the system prompt and the branch that is shown.

    A question without an answer is left out, unless it is the last: two questions in a row are
    refused by the chat templates that insist on taking turns. The passages of documents go with the
    last question alone: of earlier ones the answers are left, and a small context is soon full.
    `left_out`: so many of the oldest questions, with everything up to the next one, are not sent.
    """
    turns = tuple(_engine_messages(conversation.path()))
    starts = [index for index, message in enumerate(turns) if message.role is Role.USER]
    if 0 < left_out < len(starts):
        turns = turns[starts[left_out] :]
    if not conversation.settings.system.strip():
        return turns
    return (Message(role=Role.SYSTEM, content=conversation.settings.system), *turns)


def _engine_messages(path: tuple[ChatMessage, ...]) -> Iterator[Message]:
    last_question = next((each for each in reversed(path) if each.role is Role.USER), None)
    for index, message in enumerate(path):
        last = index == len(path) - 1
        if message.role is Role.USER and not last and not _answered(path[index + 1]):
            continue
        if message.role is Role.ASSISTANT and not _answered(message):
            continue
        yield _engine_message(message, with_sources=message is last_question)


def _answered(message: ChatMessage) -> bool:
    return message.role is not Role.USER and bool(message.text or message.tool_calls)


def _engine_message(message: ChatMessage, *, with_sources: bool) -> Message:
    files = [each for each in message.attachments if not each.data]
    images = tuple(Image(data=each.data) for each in message.attachments if each.data)
    content = "".join(f"{_fenced(each.name, each.text)}\n\n" for each in files) + message.text
    if with_sources and message.citations:
        content = _with_sources(content, message.citations)
    return Message(
        role=message.role,
        content=content,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
        name=message.tool_name,
        reasoning=message.reasoning or None,
        images=images,
    )


def _fenced(name: str, text: str) -> str:
    """Put a file's text into a fence that is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{name}:\n{fence}\n{text}\n{fence}"


def _with_sources(question: str, sources: tuple[Citation, ...]) -> str:
    """Put the passages that were found before the question that is to be answered from them."""
    passages = "\n\n".join(
        f"[{each.number}] {each.path}, {source_place(each)}:\n{each.text}" for each in sources
    )
    return f"{SOURCES_INSTRUCTION}\n\n{passages}\n\nQuestion: {question}"


def source_place(source: Citation) -> str:
    """Write where in its file a passage stands."""
    return f"line {source.line}" if source.page is None else f"page {source.page}"


def generate_request(
    conversation: Conversation,
    *,
    request_id: str,
    tools: tuple[Tool, ...] = (),
    top_logprobs: int | None = None,
    left_out: int = 0,
    stream_interval_s: float = 0.0,
) -> GenerateRequest:
    """Make the request for the next answer: the branch that is shown ends with a question, or with
    the results of tool calls. `left_out` is as in `engine_messages`."""
    settings = conversation.settings
    schema = settings.json_schema.strip()
    return GenerateRequest(
        request_id=request_id,
        messages=engine_messages(conversation, left_out=left_out),
        sampling=settings.sampling,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        thinking=settings.thinking,
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=schema) if schema else None,
        tools=tools,
        top_logprobs=top_logprobs,
        overflow=Overflow.ROLL,
        stream_interval_s=stream_interval_s,
    )


@dataclass(slots=True, kw_only=True)
class AnswerBuilder:
    """The answer so far: `feed` it with the engine's events, `message` is the answer at any time.

    `clock` gives seconds, monotonic. `beginning` is the text that the answer goes on from.
    """

    model: str
    created_s: float
    clock: Callable[[], float] = time.monotonic
    beginning: str = ""
    finished: Finished | None = None
    first_token_s: float | None = None
    reasoning_began_s: float | None = None
    reasoning_ended_s: float | None = None
    tokens: int = 0
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: dict[int, ToolCall] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.beginning + "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def feed(self, event: object) -> None:
        """Take the next event; those that say nothing of the answer are ignored."""
        match event:
            case Token(of_prompt=False):
                self.tokens += 1  # those of the reasoning too, whose text is empty
                if self.first_token_s is None:
                    self.first_token_s = self.clock()
                if event.text:
                    self._text.append(event.text)
                    self._end_reasoning()
            case Reasoning():
                if self.reasoning_began_s is None:
                    self.reasoning_began_s = self.clock()
                self._reasoning.append(event.text)
            case ToolCallBegan():
                self._calls[event.call] = ToolCall(id=event.id, name=event.name, arguments="")
                self._end_reasoning()
            case ToolCallArguments():
                call = self._calls[event.call]
                self._calls[event.call] = replace(call, arguments=call.arguments + event.text)
            case Finished():
                self.finished = event
                self._end_reasoning()

    def _end_reasoning(self) -> None:
        if self.reasoning_began_s is not None and self.reasoning_ended_s is None:
            self.reasoning_ended_s = self.clock()

    def message(self, ending: Ending | None = None, remark: str = "") -> ChatMessage:
        """Return the answer. `ending` None: as the engine ended it, and BROKEN when it did not."""
        done = self.finished
        if ending is None:
            ending = Ending.BROKEN if done is None else ENDINGS[done.reason]
        return ChatMessage(
            role=Role.ASSISTANT,
            text=self.text,
            created_s=self.created_s,
            model=self.model,
            reasoning=self.reasoning,
            tool_calls=tuple(self._calls.values()),
            ending=ending,
            remark=remark,
            left_out=0 if done is None else done.dropped_messages // MESSAGES_OF_A_TURN,
            warnings=() if done is None else done.warnings,
            stats=self._stats(),
        )

    def _stats(self) -> AnswerStats | None:
        done = self.finished
        if done is None:
            return None
        thought_s = None
        if self.reasoning_began_s is not None and self.reasoning_ended_s is not None:
            thought_s = self.reasoning_ended_s - self.reasoning_began_s
        return AnswerStats(
            prompt_tokens=done.prompt_tokens,
            cached_tokens=done.cached_tokens,
            completion_tokens=done.completion_tokens,
            ttft_s=done.timings.ttft_s,
            decode_tps=done.timings.decode_tps,
            reasoning_s=thought_s,
            reasoning_tokens=done.reasoning_tokens,
        )
