"""The answer of `/v1/messages`: one document, or a stream of events.

The classes have the names of Anthropic's official client.
"""

import base64
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import SerializeAsAny
from pydantic_core import from_json

from localllm.engine.messages import (
    Finished,
    GenerateEvent,
    Reasoning,
    Token,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.server.dialects.anthropic.errors import error_body
from localllm.server.dialects.anthropic.messages_request import MessagesRequest
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices, StopReason
from localllm.server.generation.choices import Usage as TokenUsage
from localllm.server.schema import OMIT_IF_NONE, ApiModel
from localllm.server.streaming import SSE_MEDIA_TYPE

SIGNATURE = base64.b64encode(b"localllm: not signed").decode("ascii")
"""Of every thought. Clients send thoughts back with it, and some drop those that have none; here
any signature is taken, since a thought is nothing but a text."""

Reason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class OutputTokensDetails(ApiModel):
    thinking_tokens: int


class MessageUsage(ApiModel):
    """The prompt's tokens are `input_tokens`, and those that were found in the cache
    (`cache_read_input_tokens`). Nothing is written into a cache for a price."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: Annotated[OutputTokensDetails | None, OMIT_IF_NONE] = None

    @classmethod
    def of(cls, usage: TokenUsage) -> "MessageUsage":
        thought = usage.reasoning_tokens
        return cls(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(thinking_tokens=thought) if thought else None,
        )


class Usage(MessageUsage):
    service_tier: Literal["standard"] = "standard"


class TextBlock(ApiModel):
    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(ApiModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUseBlock(ApiModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, object]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class Message(ApiModel):
    """A whole answer, or at the start of a stream one without content."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: Reason | None = None
    stop_sequence: str | None = None
    usage: Usage


def message(request: MessagesRequest, model: str, request_id: str, choices: Choices) -> Message:
    """Write a whole answer."""
    end = choices.finish()
    (choice,) = choices
    return Message(
        id=request_id,
        model=model,
        content=list(_content(request, choice)),
        stop_reason=_reason(request, choice, end),
        stop_sequence=_stop_sequence(choice, end),
        usage=Usage(**dict(MessageUsage.of(choices.usage))),
    )


def _content(request: MessagesRequest, choice: Choice) -> Iterator[ContentBlock]:
    if choice.reasoning and request.shows_thinking:
        thinking = "" if request.omits_thinking else choice.reasoning
        yield ThinkingBlock(thinking=thinking, signature=SIGNATURE)
    text = "".join(token.text for token in choice.tokens if not token.of_prompt)
    if text:
        yield TextBlock(text=text)
    for call in choice.tool_calls:
        yield ToolUseBlock(id=call.id, name=call.name, input=_input(call.arguments))


def _input(arguments: str) -> dict[str, object]:
    """Read a call's arguments; of one that `max_tokens` has cut, what there is of them."""
    try:
        value: object = from_json(arguments, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(request: MessagesRequest, choice: Choice, end: Finished) -> Reason:
    match choice.stop_reason:
        case StopReason.TOOL_CALLS:
            return "tool_use"
        case StopReason.LENGTH:
            limit = request.max_tokens
            full = limit is None or end.completion_tokens < limit
            return "model_context_window_exceeded" if full else "max_tokens"
        case _:
            return "end_turn" if end.stop is None else "stop_sequence"


def _stop_sequence(choice: Choice, end: Finished) -> str | None:
    return end.stop if choice.stop_reason is StopReason.STOP else None


class TextDelta(ApiModel):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(ApiModel):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(ApiModel):
    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputJsonDelta(ApiModel):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class StreamEvent(ApiModel):
    type: str


class MessageStart(StreamEvent):
    type: Literal["message_start"] = "message_start"
    message: Message


class ContentBlockStart(StreamEvent):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: SerializeAsAny[ContentBlock]


class ContentBlockDelta(StreamEvent):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(StreamEvent):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class MessageDeltaFields(ApiModel):
    stop_reason: Reason
    stop_sequence: str | None


class MessageDelta(StreamEvent):
    type: Literal["message_delta"] = "message_delta"
    delta: MessageDeltaFields
    usage: MessageUsage


class MessageStop(StreamEvent):
    type: Literal["message_stop"] = "message_stop"


class Ping(StreamEvent):
    type: Literal["ping"] = "ping"


def _sse(event: StreamEvent) -> bytes:
    return b"event: " + event.type.encode("ascii") + b"\ndata: " + event.encode() + b"\n\n"


class MessageStreamEncoder:
    """Writes an answer as server-sent events: the message's start, then one content block after the
    other, each with its start, its deltas and its stop, then the message's end."""

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self, request: MessagesRequest, model: str, request_id: str, choices: Choices
    ) -> None:
        self._request = request
        self._model = model
        self._request_id = request_id
        self._choices = choices
        self._started = False
        self._count = 0
        self._open: type[ContentBlock] | None = None

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            yield self._start()
        for choice in choices:
            match event:
                case Reasoning(text=text) if self._request.shows_thinking:
                    yield from self._begin(ThinkingBlock(thinking="", signature=""))
                    if not self._request.omits_thinking:
                        yield self._delta(ThinkingDelta(thinking=text))
                case Token(text=text) if text and not event.of_prompt:
                    yield from self._begin(TextBlock(text=""))
                    yield self._delta(TextDelta(text=text))
                case ToolCallBegan(id=id_, name=name):
                    yield from self._end_block()
                    yield from self._begin(ToolUseBlock(id=id_, name=name, input={}))
                case ToolCallArguments(text=text):
                    yield self._delta(InputJsonDelta(partial_json=text))
                case Finished():
                    yield from self._end_block()
                    yield self._end(choice, event)

    def encode_error(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + error_body(error) + b"\n\n"

    def keep_alive(self) -> bytes:
        return _sse(Ping())

    def _start(self) -> bytes:
        progress = self._choices.progress
        usage = Usage(
            input_tokens=progress.total - progress.cached,
            cache_read_input_tokens=progress.cached,
            output_tokens=0,
        )
        start = Message(id=self._request_id, model=self._model, content=[], usage=usage)
        return _sse(MessageStart(message=start))

    def _begin(self, block: ContentBlock) -> Iterator[bytes]:
        """Begin a block, unless the open one is of its type."""
        if self._open is type(block):
            return
        yield from self._end_block()
        self._open = type(block)
        yield _sse(ContentBlockStart(index=self._count, content_block=block))
        if self._count == 0:
            yield _sse(Ping())  # as Anthropic's servers do

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta) -> bytes:
        return _sse(ContentBlockDelta(index=self._count, delta=delta))

    def _end_block(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open is ThinkingBlock:
            yield self._delta(SignatureDelta(signature=SIGNATURE))
        yield _sse(ContentBlockStop(index=self._count))
        self._open = None
        self._count += 1

    def _end(self, choice: Choice, end: Finished) -> bytes:
        fields = MessageDeltaFields(
            stop_reason=_reason(self._request, choice, end),
            stop_sequence=_stop_sequence(choice, end),
        )
        usage = MessageUsage.of(self._choices.usage)
        return _sse(MessageDelta(delta=fields, usage=usage)) + _sse(MessageStop())
