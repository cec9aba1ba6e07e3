"""What the OpenAI dialect answers: the events of the runtime put together as one answer
(`completion`) or as a stream of chunks (`chunks`)."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    PromptProgress,
    Reasoning,
    Timings,
    Token,
    TokenLogprob,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.errors import LocalLLMError
from localllm.server.dialects.openai.request import ChatRequest
from localllm.server.errors import ApiError, api_error
from localllm.server.schema import LEFT_OUT_IF_NONE, Shape
from localllm.server.sse import DONE, event_line

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
    def of(cls, *requests: list[Finished]) -> "Usage":
        """Add up requests, each as the ends of its answers: a prompt counts once."""
        firsts = [min(ends, key=lambda end: end.index) for ends in requests]
        read = sum(end.prompt_tokens for end in firsts)
        answered = sum(end.completion_tokens for ends in requests for end in ends)
        cached = sum(end.cached_tokens for end in firsts)
        return cls(
            prompt_tokens=read,
            completion_tokens=answered,
            total_tokens=read + answered,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
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
                top_logprobs=[_likely(each) for each in token.top_logprobs],
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
            index=end.index,
            message=message,
            logprobs=Logprobs.of(self._tokens),
            finish_reason=ending(end),
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
    answers = [Gathering() for _ in range(asked.n or 1)]
    ends: list[Finished] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, PromptProgress):
                continue
            if not isinstance(event, Finished):
                answers[event.index].take(event)
                continue
            ends.append(event)
            if event.remaining:
                continue
            ends.sort(key=lambda end: end.index)
            return Completion(
                id=request_id,
                created=int(time.time()),
                model=asked.model,
                choices=[answers[end.index].choice(end) for end in ends],
                usage=Usage.of(ends),
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

    ends: list[Finished] = []

    def chunk(*choices: ChunkChoice, end: Finished | None = None) -> bytes:
        return event_line(
            Chunk(
                id=request_id,
                created=created,
                model=asked.model,
                choices=list(choices),
                usage=None if end is None else Usage.of(ends),
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
                    for index in range(asked.n or 1):
                        yield chunk(
                            ChunkChoice(index=index, delta=Delta(role="assistant", content=""))
                        )
                match event:
                    case Token() if event.text or event.logprob:
                        yield chunk(_spoken(event))
                    case Reasoning() | ToolCallBegan() | ToolCallArguments():
                        yield chunk(ChunkChoice(index=event.index, delta=_delta(event)))
                    case Finished():
                        ends.append(event)
                        last = ChunkChoice(
                            index=event.index, delta=Delta(), finish_reason=ending(event)
                        )
                        if event.remaining:
                            yield chunk(last)
                            continue
                        if asked.usage_apart:
                            yield chunk(last) + chunk(end=event) + DONE
                        else:
                            yield chunk(last, end=event) + DONE
                        return
            raise _unfinished()
        except LocalLLMError as error:
            if not started:
                raise
            yield event_line(api_error(error).body())


def _spoken(token: Token) -> ChunkChoice:
    return ChunkChoice(
        index=token.index, delta=Delta(content=token.text), logprobs=Logprobs.of([token])
    )


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


def ending(event: Finished) -> Ending:
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
