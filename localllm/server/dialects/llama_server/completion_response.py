"""The answer of `/completion` and `/infill`: one document, or a stream of pieces of it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from starlette.responses import Response

from localllm.engine.messages import (
    CacheUsage,
    Finished,
    FinishReason,
    GenerateEvent,
    Token,
    TokenLogprob,
)
from localllm.engine.messages import Timings as Measured
from localllm.server.dialects.llama_server.completion_request import NativeFields
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices
from localllm.server.schema import OMIT_IF_NONE, ApiModel
from localllm.server.streaming import SSE_MEDIA_TYPE, sse_comment, sse_event

StopType = Literal["none", "eos", "limit", "word"]


class Probability(ApiModel):
    id: int
    token: str
    bytes: list[int]
    logprob: float

    @classmethod
    def of(cls, token: TokenLogprob) -> "Probability":
        return cls(id=token.token, token=token.text, bytes=list(token.raw), logprob=token.logprob)


class TokenProbability(Probability):
    top_logprobs: list[Probability]

    @classmethod
    def all_of(cls, tokens: Sequence[Token]) -> "list[TokenProbability]":
        return [
            cls(
                **Probability.of(token.logprob).model_dump(),
                top_logprobs=[Probability.of(each) for each in token.top_logprobs],
            )
            for token in tokens
            if token.logprob is not None
        ]


class Timings(ApiModel):
    """Milliseconds and tokens a second under llama-server's names; 0 where nothing was timed.

    `cache` is ours.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    cache: Annotated[CacheUsage | None, OMIT_IF_NONE] = None

    @classmethod
    def of(cls, end: Finished) -> "Timings":
        measured: Measured = end.timings
        read, written = end.prompt_tokens - end.cached_tokens, end.completion_tokens
        read_tps, written_tps = measured.prefill_tps or 0.0, measured.decode_tps or 0.0
        read_ms = 1000 / read_tps if read_tps else 0.0
        written_ms = 1000 / written_tps if written_tps else 0.0
        return cls(
            cache_n=end.cached_tokens,
            prompt_n=read,
            prompt_ms=read * read_ms,
            prompt_per_token_ms=read_ms,
            prompt_per_second=read_tps,
            predicted_n=written,
            predicted_ms=written * written_ms,
            predicted_per_token_ms=written_ms,
            predicted_per_second=written_tps,
            cache=measured.cache,
        )


class NativeCompletion(ApiModel):
    """A whole answer, or the last piece of a streamed one, whose `content` is empty then.

    `id_slot` is -1: slots are the engine's own. `truncated`: a part of the prompt was left out.
    """

    index: int = 0
    content: str
    tokens: list[int]
    id_slot: int = -1
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    has_new_line: bool
    truncated: bool
    stop_type: StopType
    stopping_word: str
    timings: Timings
    completion_probabilities: Annotated[list[TokenProbability] | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None


class NativePiece(ApiModel):
    """A piece of a streamed answer."""

    index: int = 0
    content: str
    tokens: list[int]
    stop: bool = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: Annotated[list[TokenProbability] | None, OMIT_IF_NONE] = None


def native_response(
    body: NativeFields, model: str, choices: Choices, headers: Mapping[str, str]
) -> Response:
    """Write a whole answer; with `response_fields` only these, each under its path."""
    answer = _answer(body, model, choices)
    content = answer.encode()
    if body.response_fields is not None:
        document = json.loads(content)
        content = json.dumps(_chosen(document, body.response_fields)).encode("ascii")
    return Response(content, headers=dict(headers), media_type="application/json")


def _chosen(document: dict[str, object], paths: Sequence[str]) -> dict[str, object]:
    """Take what stands at paths such as `timings/prompt_n`; what is not there is left out."""
    chosen: dict[str, object] = {}
    for path in paths:
        value: object = document
        for step in path.split("/"):
            value = value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            chosen[path] = value
    return chosen


_MISSING = object()


def _answer(body: NativeFields, model: str, choices: Choices) -> NativeCompletion:
    (choice,) = choices
    end = choices.finish()
    tokens = [] if body.only_reads else choice.tokens  # of a stream there are none
    text = "".join(token.text for token in tokens)
    return NativeCompletion(
        content=text,
        tokens=_ids(tokens) if body.return_tokens else [],
        model=model,
        tokens_predicted=0 if body.only_reads else end.completion_tokens,
        tokens_evaluated=end.prompt_tokens,
        tokens_cached=end.prompt_tokens + end.completion_tokens,
        has_new_line="\n" in text,
        truncated=bool(end.warnings),
        stop_type=_stop_type(choice, end),
        stopping_word=end.stop or "",
        timings=Timings.of(end),
        completion_probabilities=TokenProbability.all_of(tokens)
        if tokens and body.n_probs
        else None,
        warnings=choices.warnings or None,
    )


def _stop_type(choice: Choice, end: Finished) -> StopType:
    choice.stop_reason  # noqa: B018 - raises for one that was cancelled
    if end.stop is not None:
        return "word"
    return "limit" if end.reason is FinishReason.LENGTH else "eos"


def _ids(tokens: Sequence[Token]) -> list[int]:
    return [token.logprob.token for token in tokens if token.logprob is not None]


class NativeStreamEncoder:
    """Writes an answer as server-sent pieces; the last one has `stop` and the timings."""

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self,
        body: NativeFields,
        model: str,
        choices: Choices,
        error_body: Callable[[ApiError], bytes],
    ) -> None:
        self._body = body
        self._model = model
        self._choices = choices
        self._error_body = error_body
        self._tokens = 0
        self._has_new_line = False

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        match event:
            case Token() if choices and not self._body.only_reads:
                self._tokens += 1
                self._has_new_line |= "\n" in event.text
                yield sse_event(self._piece(event).encode())
            case Finished():
                answer = _answer(self._body, self._model, self._choices)
                last = answer.model_copy(update={"has_new_line": self._has_new_line})
                yield sse_event(last.encode())

    def encode_error(self, error: ApiError) -> bytes:
        return sse_event(self._error_body(error))

    def keep_alive(self) -> bytes:
        return sse_comment(self._choices.progress.sentence())

    def _piece(self, token: Token) -> NativePiece:
        return NativePiece(
            content=token.text,
            tokens=_ids([token]) if self._body.return_tokens else [],
            tokens_predicted=self._tokens,
            tokens_evaluated=self._choices.progress.total,
            completion_probabilities=TokenProbability.all_of([token])
            if self._body.n_probs
            else None,
        )
