"""The answer of `/v1/chat/completions`: one document, or a stream of chunks.

The classes have the names of OpenAI's official client.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from localllm.engine.messages import (
    Finished,
    GenerateEvent,
    Reasoning,
    Timings,
    Token,
    TokenLogprob,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.engine.messages import (
    PromptProgress as ReadProgress,
)
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.errors import error_body
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices, Progress, StopReason, Usage
from localllm.server.schema import OMIT_IF_NONE, ApiModel
from localllm.server.streaming import SSE_MEDIA_TYPE, sse_comment, sse_event

DONE = sse_event(b"[DONE]")
"""The end of a stream; a client that does not see it knows that something is missing."""

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


def finish_reason(choice: Choice, *, old_style: bool = False) -> FinishReason | None:
    """Name the stop reason as OpenAI does; None while the answer goes on.

    `old_style`: the request offered `functions`, which came before tools.
    """
    match choice.stop_reason:
        case StopReason.STOP:
            return "stop"
        case StopReason.LENGTH:
            return "length"
        case StopReason.TOOL_CALLS:
            return "function_call" if old_style else "tool_calls"
        case None:
            return None


class PromptTokensDetails(ApiModel):
    cached_tokens: int


class CompletionTokensDetails(ApiModel):
    reasoning_tokens: int


class CompletionUsage(ApiModel):
    """`completion_tokens_details` is left out where the model did not reason."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: Annotated[CompletionTokensDetails | None, OMIT_IF_NONE] = None

    @classmethod
    def of(cls, usage: Usage) -> "CompletionUsage":
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
            completion_tokens_details=(
                CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens)
                if usage.reasoning_tokens
                else None
            ),
        )


class PromptProgress(ApiModel):
    """How much of the prompt is in the cache, `cache` of it from earlier; llama-server's object."""

    total: int
    cache: int
    processed: int
    time_ms: int

    @classmethod
    def of(cls, progress: Progress) -> "PromptProgress":
        return cls(
            total=progress.total,
            cache=progress.cached,
            processed=progress.processed,
            time_ms=round(1000 * progress.elapsed_s),
        )


class TopLogprob(ApiModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(ApiModel):
    content: list[ChatTokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Iterable[Token]) -> "ChoiceLogprobs | None":
        """None when no token has one: the request did not ask for them."""
        content = [
            ChatTokenLogprob(
                **_top_logprob(token.logprob).model_dump(),
                top_logprobs=[_top_logprob(each) for each in token.top_logprobs],
            )
            for token in tokens
            if token.logprob is not None
        ]
        return cls(content=content) if content else None


def _top_logprob(token: TokenLogprob) -> TopLogprob:
    return TopLogprob(token=token.text, logprob=token.logprob, bytes=list(token.raw))


class FunctionCall(ApiModel):
    name: str
    arguments: str


class MessageToolCall(ApiModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatCompletionMessage(ApiModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: Annotated[str | None, OMIT_IF_NONE] = None
    tool_calls: Annotated[list[MessageToolCall] | None, OMIT_IF_NONE] = None
    function_call: Annotated[FunctionCall | None, OMIT_IF_NONE] = None
    refusal: None = None

    @classmethod
    def of(cls, choice: Choice, request: ChatCompletionRequest) -> "ChatCompletionMessage":
        """An answer that only calls tools has no content."""
        old_style = request.old_style
        calls = [
            MessageToolCall(
                id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments)
            )
            for call in choice.tool_calls
        ]
        text = choice.text
        return cls(
            content=text if text or not calls else None,
            reasoning_content=None if request.hides_reasoning else choice.reasoning or None,
            tool_calls=None if old_style else calls or None,
            function_call=calls[0].function if old_style and calls else None,
        )


class ChatChoice(ApiModel):
    index: int
    message: ChatCompletionMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None

    @classmethod
    def of(cls, choice: Choice, request: ChatCompletionRequest) -> "ChatChoice":
        return cls(
            index=choice.index,
            message=ChatCompletionMessage.of(choice, request),
            logprobs=ChoiceLogprobs.of(choice.tokens),
            finish_reason=finish_reason(choice, old_style=request.old_style),
        )


class ChatCompletion(ApiModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: Timings
    dropped_messages: Annotated[int | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None


class FunctionDelta(ApiModel):
    name: Annotated[str | None, OMIT_IF_NONE] = None
    arguments: str = ""


class ToolCallDelta(ApiModel):
    """`index` tells the calls of an answer apart; the first piece of each has its id and name."""

    index: int
    id: Annotated[str | None, OMIT_IF_NONE] = None
    type: Annotated[Literal["function"] | None, OMIT_IF_NONE] = None
    function: FunctionDelta


class ChoiceDelta(ApiModel):
    role: Annotated[Literal["assistant"] | None, OMIT_IF_NONE] = None
    content: Annotated[str | None, OMIT_IF_NONE] = None
    reasoning_content: Annotated[str | None, OMIT_IF_NONE] = None
    tool_calls: Annotated[list[ToolCallDelta] | None, OMIT_IF_NONE] = None
    function_call: Annotated[FunctionDelta | None, OMIT_IF_NONE] = None


class ChunkChoice(ApiModel):
    index: int
    delta: ChoiceDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(ApiModel):
    """One piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[CompletionUsage | None, OMIT_IF_NONE] = None
    timings: Annotated[Timings | None, OMIT_IF_NONE] = None
    dropped_messages: Annotated[int | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None
    prompt_progress: Annotated[PromptProgress | None, OMIT_IF_NONE] = None


def chat_completion(
    request: ChatCompletionRequest, model: str, request_id: str, choices: Choices
) -> ChatCompletion:
    """Write a whole answer."""
    last = choices.finish()
    return ChatCompletion(
        id=request_id,
        created=int(time.time()),
        model=model,
        choices=[ChatChoice.of(choice, request) for choice in choices],
        usage=CompletionUsage.of(choices.usage),
        timings=last.timings,
        dropped_messages=last.dropped_messages or None,
        warnings=choices.warnings or None,
    )


_NO_TEXT = b'"content":""'


class ChatStreamEncoder:
    """Writes an answer as server-sent chunks.

    The first ones give every choice its role; the last one carries usage and timings, in a chunk
    of its own with `include_usage`, and is followed by `[DONE]`.
    """

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self, request: ChatCompletionRequest, model: str, request_id: str, choices: Choices
    ) -> None:
        self._request = request
        self._model = model
        self._request_id = request_id
        self._choices = choices
        self._created = int(time.time())
        self._started = False
        self._around_text: dict[int, tuple[bytes, bytes]] = {}

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            for choice in self._choices:
                role = ChoiceDelta(role="assistant", content="")
                yield self._chunk(ChunkChoice(index=choice.index, delta=role))
        if isinstance(event, ReadProgress) and self._request.return_progress:
            nothing = ChunkChoice(index=0, delta=ChoiceDelta())
            yield self._chunk(nothing, progress=PromptProgress.of(self._choices.progress))
        for choice in choices:
            match event:
                case Token(text=text, logprob=None) if text:
                    yield self._text(choice.index, text)
                case Token() if event.text or event.logprob:
                    yield self._chunk(
                        ChunkChoice(
                            index=choice.index,
                            delta=ChoiceDelta(content=event.text),
                            logprobs=ChoiceLogprobs.of([event]),
                        )
                    )
                case Reasoning() if self._request.hides_reasoning:
                    pass
                case Reasoning() | ToolCallBegan() | ToolCallArguments():
                    yield self._chunk(ChunkChoice(index=choice.index, delta=self._delta(event)))
                case Finished():
                    yield self._end(choice, event)

    def encode_error(self, error: ApiError) -> bytes:
        return sse_event(error_body(error))

    def keep_alive(self) -> bytes:
        return sse_comment(self._choices.progress.sentence())

    def _text(self, index: int, text: str) -> bytes:
        """Write a chunk that has nothing but text, as `_chunk` does. Most are like that, and all
        but the text is the same in them, so it is encoded once."""
        around = self._around_text.get(index)
        if around is None:
            empty = self._chunk(ChunkChoice(index=index, delta=ChoiceDelta(content="")))
            before, after = empty.split(_NO_TEXT)  # in a string of JSON its quotes are escaped
            around = self._around_text[index] = before + _NO_TEXT[:-2], after
        return around[0] + json.dumps(text).encode("ascii") + around[1]

    def _delta(self, event: Reasoning | ToolCallBegan | ToolCallArguments) -> ChoiceDelta:
        if isinstance(event, Reasoning):
            return ChoiceDelta(reasoning_content=event.text)
        call = _call_delta(event)
        if self._request.old_style:
            return ChoiceDelta(function_call=call.function)
        return ChoiceDelta(tool_calls=[call])

    def _end(self, choice: Choice, end: Finished) -> bytes:
        last = ChunkChoice(
            index=choice.index,
            delta=ChoiceDelta(),
            finish_reason=finish_reason(choice, old_style=self._request.old_style),
        )
        if not self._choices.complete:
            return self._chunk(last)
        if self._request.include_usage:
            return self._chunk(last) + self._chunk(end=end) + DONE
        return self._chunk(last, end=end) + DONE

    def _chunk(
        self,
        *choices: ChunkChoice,
        end: Finished | None = None,
        progress: PromptProgress | None = None,
    ) -> bytes:
        """Write a chunk; with `end`, the last of all choices, also what is known only then."""
        chunk = ChatCompletionChunk(
            id=self._request_id,
            created=self._created,
            model=self._model,
            choices=list(choices),
            usage=None if end is None else CompletionUsage.of(self._choices.usage),
            timings=None if end is None else end.timings,
            dropped_messages=None if end is None else end.dropped_messages or None,
            warnings=None if end is None else self._choices.warnings or None,
            prompt_progress=progress,
        )
        return sse_event(chunk.encode())


def _call_delta(event: ToolCallBegan | ToolCallArguments) -> ToolCallDelta:
    match event:
        case ToolCallBegan(call=call, id=id_, name=name):
            return ToolCallDelta(
                index=call, id=id_, type="function", function=FunctionDelta(name=name)
            )
        case ToolCallArguments(call=call, text=text):
            return ToolCallDelta(index=call, function=FunctionDelta(arguments=text))
