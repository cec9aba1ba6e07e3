"""The OpenAI dialect: `/v1/models` and `/v1/chat/completions`, as its official clients speak it.

A request is a `ChatRequest`; the events of the runtime are put together as one answer
(`completion`) or as a stream of chunks (`chunks`).
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.events import (
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    Message,
    Role,
    Sampling,
    Timings,
    Token,
)
from localllm.errors import LocalLLMError
from localllm.server.problems import ApiError, api_error
from localllm.server.shapes import LEFT_OUT_IF_NONE, Shape, neutral, refusal

MAX_ITEMS = 16384
"""Messages of a request, parts of a message. The 230,000 that fit a body would take seconds."""

MAX_STOPS = 16
MAX_STOP_LENGTH = 256

# Of a list that is wrong everywhere only the first error is kept: there could be millions.
Items = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
Label = Annotated[str, Field(max_length=512)]
NativeInt = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


# --- what is asked ---


class TextPart(Shape):
    type: Literal["text"]
    text: str


def _parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if value is not None and not isinstance(value, list):
        raise refusal("invalid_type", "must be a string or an array of text parts")
    return value


def _stops(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise refusal("invalid_type", "must be a string or an array of strings")
    if len(stops) > MAX_STOPS:
        raise refusal("invalid_value", "holds more than {most} strings", most=MAX_STOPS)
    if not all(1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise refusal(
            "invalid_value", "needs strings of 1 to {most} characters", most=MAX_STOP_LENGTH
        )
    return stops


class ChatMessage(Shape):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], Items, BeforeValidator(_parts)]
    name: Annotated[object, neutral()] = None
    refusal: Annotated[object, neutral()] = None
    audio: Annotated[object, neutral()] = None
    function_call: Annotated[object, neutral()] = None
    tool_calls: Annotated[object, neutral([])] = None
    tool_call_id: Annotated[object, neutral()] = None
    annotations: Annotated[object, neutral([])] = None

    def message(self) -> Message:
        """Say the same to the engine; parts each on a line, as llama-server joins them."""
        role = Role.SYSTEM if self.role == "developer" else Role(self.role)
        return Message(role=role, content="\n".join(part.text for part in self.content))


class StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: Annotated[object, neutral(False)] = None


class ChatRequest(Shape):
    """The body of `/v1/chat/completions`; null is the same as nothing.

    The ranges are those that `Sampling` documents; what is not given keeps the engine's default.
    """

    model: Label
    messages: Annotated[list[ChatMessage], Items]
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    top_k: NativeInt | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 2)] | None = None
    max_completion_tokens: Annotated[NativeInt, Field(ge=1)] | None = None
    max_tokens: Annotated[NativeInt, Field(ge=1)] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_stops)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Names that a client gives its request; no value of theirs changes the answer.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    # What clients send on their own and this server does not do.
    n: Annotated[object, neutral(1)] = None
    store: Annotated[object, neutral(False)] = None
    metadata: Annotated[object, neutral({})] = None
    logprobs: Annotated[object, neutral(False)] = None
    top_logprobs: Annotated[object, neutral(0)] = None
    logit_bias: Annotated[object, neutral({})] = None
    tools: Annotated[object, neutral([])] = None
    tool_choice: Annotated[object, neutral("none", "auto")] = None
    parallel_tool_calls: Annotated[object, neutral(True, False)] = None
    functions: Annotated[object, neutral([])] = None
    function_call: Annotated[object, neutral("none", "auto")] = None
    response_format: Annotated[object, neutral({"type": "text"})] = None
    modalities: Annotated[object, neutral(["text"])] = None
    service_tier: Annotated[object, neutral("auto", "default")] = None
    audio: Annotated[object, neutral()] = None
    prediction: Annotated[object, neutral()] = None
    reasoning_effort: Annotated[object, neutral()] = None
    verbosity: Annotated[object, neutral()] = None
    web_search_options: Annotated[object, neutral()] = None

    @field_validator("max_tokens")
    @classmethod
    def _agree(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_completion_tokens")
        if value is not None and other is not None and value != other:
            raise refusal("invalid_value", "is not what `max_completion_tokens` is")
        return value

    @field_validator("stream_options")
    @classmethod
    def _stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and value.include_usage and not info.data.get("stream"):
            raise refusal("invalid_value", "has a meaning only with `stream`: true")
        return value

    @property
    def usage_apart(self) -> bool:
        """Whether usage comes in a chunk of its own."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def generate_request(self) -> GenerateRequest:
        """Say the same to the engine, under a new name."""
        sampling = self.model_dump(
            include={field.name for field in fields(Sampling)}, exclude_none=True
        )
        return GenerateRequest(
            request_id=f"chatcmpl-{secrets.token_hex(12)}",
            messages=tuple(message.message() for message in self.messages),
            sampling=Sampling(**sampling),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop or ()),
        )


# --- what is answered ---


class ModelCard(Shape):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "localllm"


class ModelList(Shape):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class PromptTokensDetails(Shape):
    cached_tokens: int


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, event: Finished) -> "Usage":
        return cls(
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            total_tokens=event.prompt_tokens + event.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=event.cached_tokens),
        )


class Said(Shape):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Shape):
    index: int = 0
    message: Said
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(Shape):
    """One whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings


class Delta(Shape):
    role: Annotated[Literal["assistant"] | None, LEFT_OUT_IF_NONE] = None
    content: Annotated[str | None, LEFT_OUT_IF_NONE] = None


class ChunkChoice(Shape):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Chunk(Shape):
    """One piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[Usage | None, LEFT_OUT_IF_NONE] = None
    timings: Annotated[Timings | None, LEFT_OUT_IF_NONE] = None


async def completion(
    asked: ChatRequest, request_id: str, events: AsyncGenerator[GenerateEvent, None]
) -> Completion:
    """Wait for the whole answer. Raises what `events` raises; closes `events` in any case."""
    text: list[str] = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Token():
                    text.append(event.text)
                case Finished():
                    said = Said(content="".join(text))
                    return Completion(
                        id=request_id,
                        created=int(time.time()),
                        model=asked.model,
                        choices=[Choice(message=said, finish_reason=_finish_reason(event))],
                        usage=Usage.of(event),
                        timings=event.timings,
                    )
    raise _unfinished()


async def chunks(
    asked: ChatRequest, request_id: str, events: AsyncGenerator[GenerateEvent, None]
) -> AsyncGenerator[bytes, None]:
    """Write the answer as server-sent events while it comes.

    An error before the first event is raised: it can still be an HTTP status. A later one ends
    the stream as an event of its own, without `[DONE]`. The last chunk carries usage and timings.
    """
    created = int(time.time())

    def chunk(*choices: ChunkChoice, end: Finished | None = None) -> bytes:
        return _event(
            Chunk(
                id=request_id,
                created=created,
                model=asked.model,
                choices=list(choices),
                usage=None if end is None else Usage.of(end),
                timings=None if end is None else end.timings,
            ).encode()
        )

    started = False
    async with aclosing(events):
        try:
            async for event in events:
                if not started:
                    started = True
                    yield chunk(ChunkChoice(delta=Delta(role="assistant", content="")))
                match event:
                    case Token(text=text) if text:
                        yield chunk(ChunkChoice(delta=Delta(content=text)))
                    case Finished():
                        last = ChunkChoice(delta=Delta(), finish_reason=_finish_reason(event))
                        if asked.usage_apart:
                            yield chunk(last) + chunk(end=event) + _DONE
                        else:
                            yield chunk(last, end=event) + _DONE
                        return
            raise _unfinished()
        except LocalLLMError as error:
            if not started:
                raise
            yield _event(api_error(error).body())


def _finish_reason(event: Finished) -> Literal["stop", "length"]:
    match event.reason:
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH:
            return "length"
        case FinishReason.CANCELLED:
            raise ApiError("The request was cancelled.", status=503, code="cancelled")


def _unfinished() -> ApiError:
    return ApiError("The engine's answer ended early.", status=500, code="generation_failed")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


_DONE = _event(b"[DONE]")
