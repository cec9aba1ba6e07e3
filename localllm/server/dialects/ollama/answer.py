"""The answers of `/api/chat` and `/api/generate`: one document, or lines of JSON."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    Reasoning,
    Timings,
    Token,
    TokenLogprob,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.server.dialects.ollama.errors import error_body
from localllm.server.dialects.ollama.fields import read_arguments
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices
from localllm.server.schema import OMIT_IF_NONE, ApiModel

NDJSON_MEDIA_TYPE = "application/x-ndjson"

DoneReason = Literal["stop", "length", "load", "unload"]

_NS = 1_000_000_000


def timestamp(at: datetime) -> str:
    """Write a time as Ollama does: RFC 3339, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class LogprobItem(ApiModel):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(LogprobItem):
    top_logprobs: Annotated[list[LogprobItem] | None, OMIT_IF_NONE] = None


def _logprobs(tokens: Sequence[Token]) -> list[Logprob] | None:
    found = [
        Logprob(
            **_logprob(token.logprob).model_dump(),
            top_logprobs=[_logprob(each) for each in token.top_logprobs] or None,
        )
        for token in tokens
        if token.logprob is not None
    ]
    return found or None


def _logprob(token: TokenLogprob) -> LogprobItem:
    return LogprobItem(token=token.text, logprob=token.logprob, bytes=list(token.raw))


class CalledFunction(ApiModel):
    index: int
    name: str
    arguments: dict[str, object]


class AnsweredCall(ApiModel):
    id: str
    function: CalledFunction


class Message(ApiModel):
    role: Literal["assistant"] = "assistant"
    content: str
    thinking: Annotated[str | None, OMIT_IF_NONE] = None
    tool_calls: Annotated[list[AnsweredCall] | None, OMIT_IF_NONE] = None


class Metrics(ApiModel):
    """Durations in nanoseconds. `load_duration` is what the others leave of the whole: the model's
    way into memory, and the wait for its turn."""

    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int

    @classmethod
    def of(cls, end: Finished, total_s: float) -> "Metrics":
        """Make them of the engine's timings, and of the time since the request arrived here."""
        prompt_s, answer_s = durations_s(end.timings)
        return cls(
            total_duration=round(total_s * _NS),
            load_duration=max(0, round((total_s - prompt_s - answer_s) * _NS)),
            prompt_eval_count=end.prompt_tokens,
            prompt_eval_duration=round(prompt_s * _NS),
            eval_count=end.completion_tokens,
            eval_duration=round(answer_s * _NS),
        )


def durations_s(timings: Timings) -> tuple[float, float]:
    """Return the seconds that reading the prompt and writing the answer took."""
    first_s = timings.total_s if timings.ttft_s is None else timings.ttft_s
    return max(0.0, first_s - timings.queue_s), max(0.0, timings.total_s - first_s)


class DebugInfo(ApiModel):
    """The prompt as the model would have read it."""

    rendered_template: str
    image_count: int


class Answer(ApiModel):
    """An answer or a piece of one: a `message` in a chat, a `response` of `/api/generate`.

    `warnings` and `dropped_messages` are ours.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    model: str
    created_at: str
    message: Annotated[Message | None, OMIT_IF_NONE] = None
    response: Annotated[str | None, OMIT_IF_NONE] = None
    thinking: Annotated[str | None, OMIT_IF_NONE] = None
    done: bool
    done_reason: Annotated[DoneReason | None, OMIT_IF_NONE] = None
    logprobs: Annotated[list[Logprob] | None, OMIT_IF_NONE] = None
    total_duration: Annotated[int | None, OMIT_IF_NONE] = None
    load_duration: Annotated[int | None, OMIT_IF_NONE] = None
    prompt_eval_count: Annotated[int | None, OMIT_IF_NONE] = None
    prompt_eval_duration: Annotated[int | None, OMIT_IF_NONE] = None
    eval_count: Annotated[int | None, OMIT_IF_NONE] = None
    eval_duration: Annotated[int | None, OMIT_IF_NONE] = None
    dropped_messages: Annotated[int | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None
    debug_info: Annotated[
        DebugInfo | None, OMIT_IF_NONE, Field(serialization_alias="_debug_info")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one answer, or one line of it, holds. `calls` are those with their place in it."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[int, ToolCall]] = ()
    tokens: Sequence[Token] = ()


class AnswerWriter:
    """Writes the answers of one request; `chat` says in which of the two forms."""

    def __init__(
        self, model: str, *, chat: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._chat = chat
        self._clock = clock
        self._arrived = clock()

    def write(
        self,
        piece: Piece,
        end: Finished | None = None,
        *,
        warnings: Sequence[str] = (),
        reason: DoneReason | None = None,
        debug_info: DebugInfo | None = None,
    ) -> Answer:
        """Write a piece; the last has the `end`, or a `reason` why nothing is answered."""
        metrics = Metrics.of(end, self._clock() - self._arrived) if end is not None else None
        thinking = piece.thinking or None
        return Answer(
            model=self._model,
            created_at=timestamp(datetime.now(UTC)),
            message=_message(piece) if self._chat else None,
            response=None if self._chat else piece.text,
            thinking=None if self._chat else thinking,
            logprobs=_logprobs(piece.tokens),
            done=end is not None or reason is not None,
            done_reason=_done_reason(end) if end is not None else reason,
            dropped_messages=(end.dropped_messages or None) if end is not None else None,
            warnings=list(warnings) or None,
            debug_info=debug_info,
            **(metrics.model_dump() if metrics is not None else {}),
        )

    def whole(self, choices: Choices, warnings: Sequence[str]) -> Answer:
        """Write a whole answer."""
        (choice,) = choices
        _ = choice.stop_reason  # of a cancelled answer an error
        calls = tuple(enumerate(choice.tool_calls))
        piece = Piece(
            text=choice.text, thinking=choice.reasoning, calls=calls, tokens=choice.tokens
        )
        return self.write(piece, choices.finish(), warnings=warnings)


def _message(piece: Piece) -> Message:
    calls = []
    for index, call in piece.calls:
        if (arguments := read_arguments(call)) is not None:
            function = CalledFunction(index=index, name=call.name, arguments=arguments)
            calls.append(AnsweredCall(id=call.id, function=function))
    return Message(content=piece.text, thinking=piece.thinking or None, tool_calls=calls or None)


def _done_reason(end: Finished) -> DoneReason:
    """Name the end as Ollama does, to whom a call is an end like any other."""
    return "length" if end.reason is FinishReason.LENGTH else "stop"


class AnswerStreamEncoder:
    """Writes an answer as lines of JSON. A call is one line, when all of it is there."""

    media_type = NDJSON_MEDIA_TYPE

    def __init__(self, writer: AnswerWriter, choices: Choices) -> None:
        self._writer = writer
        self._choices = choices
        self._call: tuple[ToolCallBegan, list[str]] | None = None

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        if not choices:
            return
        match event:
            case Token() if event.text or event.logprob:
                yield self._line(Piece(text=event.text, tokens=(event,)))
            case Reasoning(text=text):
                yield self._line(Piece(thinking=text))
            case ToolCallBegan():
                yield from self._finished_call()
                self._call = (event, [])
            case ToolCallArguments(text=text) if self._call is not None:
                self._call[1].append(text)
            case Finished():
                yield from self._finished_call()
                _ = choices[0].stop_reason  # of a cancelled answer an error
                last = self._writer.write(Piece(), event, warnings=self._choices.warnings)
                yield last.encode() + b"\n"

    def encode_error(self, error: ApiError) -> bytes:
        return error_body(error) + b"\n"

    def keep_alive(self) -> bytes:
        """Write a blank before the next object: clients parse each line, and an empty one fails."""
        return b" "

    def _finished_call(self) -> Iterator[bytes]:
        if self._call is None:
            return
        began, pieces = self._call
        self._call = None
        call = ToolCall(id=began.id, name=began.name, arguments="".join(pieces))
        if read_arguments(call) is not None:
            yield self._line(Piece(calls=((began.call, call),)))

    def _line(self, piece: Piece) -> bytes:
        return self._writer.write(piece).encode() + b"\n"
