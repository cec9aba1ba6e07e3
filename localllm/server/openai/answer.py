"""What the OpenAI dialect answers: the events of the runtime put together as one answer
(`completion`) or as a stream of chunks (`chunks`)."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from localllm.engine.events import (
    Finished,
    FinishReason,
    GenerateEvent,
    Reasoning,
    Timings,
    Token,
    TokenLogprob,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.errors import LocalLLMError
from localllm.server.openai.request import ChatRequest
from localllm.server.problems import ApiError, api_error
from localllm.server.shapes import LEFT_OUT_IF_NONE, Shape

Ending = Literal["stop", "length", "tool_calls"]


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


class TopLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Shape):
    content: list[Logprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: list[Token]) -> "Logprobs | None":
        """None when they were not asked for."""
        content = [
            Logprob(
                **_likely(token.logprob).model_dump(),
                top_logprobs=[_likely(each) for each in token.top],
            )
            for token in tokens
            if token.logprob is not None
        ]
        return cls(content=content) if content else None


def _likely(each: TokenLogprob) -> TopLogprob:
    return TopLogprob(token=each.text, logprob=each.logprob, bytes=list(each.raw))


class Function(Shape):
    name: str
    arguments: str


class Call(Shape):
    id: str
    type: Literal["function"] = "function"
    function: Function


class Said(Shape):
    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: Annotated[str | None, LEFT_OUT_IF_NONE] = None
    tool_calls: Annotated[list[Call] | None, LEFT_OUT_IF_NONE] = None
    refusal: None = None


class Gathering:
    """One answer's events put together."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallBegan, list[str]]] = []

    def take(self, event: GenerateEvent) -> None:
        match event:
            case Token():
                self._tokens.append(event)
            case Reasoning(text=text):
                self._reasoning.append(text)
            case ToolCallBegan():
                self._calls.append((event, []))
            case ToolCallArguments(call=call, text=text):
                self._calls[call][1].append(text)

    def choice(self, end: Finished) -> "Choice":
        """The whole answer."""
        calls = [
            Call(id=began.id, function=Function(name=began.name, arguments="".join(arguments)))
            for began, arguments in self._calls
        ]
        text = "".join(token.text for token in self._tokens)
        message = Said(
            content=text if text or not calls else None,
            reasoning_content="".join(self._reasoning) or None,
            tool_calls=calls or None,
        )
        return Choice(
            message=message,
            logprobs=Logprobs.of(self._tokens),
            finish_reason=_finish_reason(end),
        )


class Choice(Shape):
    index: int = 0
    message: Said
    logprobs: Logprobs | None = None
    finish_reason: Ending


class Completion(Shape):
    """One whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings
    dropped_messages: Annotated[int | None, LEFT_OUT_IF_NONE] = None


class FunctionDelta(Shape):
    name: Annotated[str | None, LEFT_OUT_IF_NONE] = None
    arguments: str = ""


class CallDelta(Shape):
    """`index` tells the calls of an answer apart; the first piece of each has its id and name."""

    index: int
    id: Annotated[str | None, LEFT_OUT_IF_NONE] = None
    type: Annotated[Literal["function"] | None, LEFT_OUT_IF_NONE] = None
    function: FunctionDelta


class Delta(Shape):
    role: Annotated[Literal["assistant"] | None, LEFT_OUT_IF_NONE] = None
    content: Annotated[str | None, LEFT_OUT_IF_NONE] = None
    reasoning_content: Annotated[str | None, LEFT_OUT_IF_NONE] = None
    tool_calls: Annotated[list[CallDelta] | None, LEFT_OUT_IF_NONE] = None


class ChunkChoice(Shape):
    index: int = 0
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: Ending | None = None


class Chunk(Shape):
    """One piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[Usage | None, LEFT_OUT_IF_NONE] = None
    timings: Annotated[Timings | None, LEFT_OUT_IF_NONE] = None
    dropped_messages: Annotated[int | None, LEFT_OUT_IF_NONE] = None


async def completion(
    asked: ChatRequest, request_id: str, events: AsyncGenerator[GenerateEvent, None]
) -> Completion:
    """Wait for the whole answer. Raises what `events` raises; closes `events` in any case."""
    answer = Gathering()
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Finished):
                answer.take(event)
                continue
            return Completion(
                id=request_id,
                created=int(time.time()),
                model=asked.model,
                choices=[answer.choice(event)],
                usage=Usage.of(event),
                timings=event.timings,
                dropped_messages=event.dropped_messages or None,
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
                dropped_messages=end.dropped_messages or None if end is not None else None,
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
                    case Token(text=text, logprob=logprob) if text or logprob:
                        delta = Delta(content=text)
                        yield chunk(ChunkChoice(delta=delta, logprobs=Logprobs.of([event])))
                    case Reasoning() | ToolCallBegan() | ToolCallArguments():
                        yield chunk(ChunkChoice(delta=_delta(event)))
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


def _delta(event: Reasoning | ToolCallBegan | ToolCallArguments) -> Delta:
    match event:
        case Reasoning(text=text):
            return Delta(reasoning_content=text)
        case ToolCallBegan(call=call, id=id_, name=name):
            began = CallDelta(
                index=call, id=id_, type="function", function=FunctionDelta(name=name)
            )
            return Delta(tool_calls=[began])
        case ToolCallArguments(call=call, text=text):
            return Delta(tool_calls=[CallDelta(index=call, function=FunctionDelta(arguments=text))])


def _finish_reason(event: Finished) -> Ending:
    match event.reason:
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH:
            return "length"
        case FinishReason.TOOL_CALLS:
            return "tool_calls"
        case FinishReason.CANCELLED:
            raise ApiError("The request was cancelled.", status=503, code="cancelled")


def _unfinished() -> ApiError:
    return ApiError("The engine's answer ended early.", status=500, code="generation_failed")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


_DONE = _event(b"[DONE]")
