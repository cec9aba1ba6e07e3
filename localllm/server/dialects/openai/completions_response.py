"""The answer of `/v1/completions`: one document, or a stream of pieces of the same form.

The classes have the names of OpenAI's official client.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from localllm.engine.messages import (
    Finished,
    GenerateEvent,
    Timings,
    Token,
    TokenLogprob,
)
from localllm.engine.messages import (
    PromptProgress as ReadProgress,
)
from localllm.server.dialects.openai.chat_response import (
    DONE,
    CompletionUsage,
    FinishReason,
    PromptProgress,
    finish_reason,
)
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.errors import error_body
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices
from localllm.server.schema import OMIT_IF_NONE, ApiModel
from localllm.server.streaming import SSE_MEDIA_TYPE, sse_comment, sse_event


class CompletionLogprobs(ApiModel):
    """Four lists with an item for each token.

    `text_offset` counts characters of the choice's own text, the echo included; the first token
    of an echo has no log probability.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]

    @classmethod
    def of(
        cls, tokens: Iterable[Token], top: int | None, offset: int = 0
    ) -> "CompletionLogprobs | None":
        """None when the request has no `logprobs` (`top`), or no token has one.

        `offset`: that of the first token.
        """
        listed: list[tuple[Token, int]] = []
        for token in tokens:
            if token.logprob is not None or token.of_prompt:
                listed.append((token, offset))
            offset += len(token.text)
        if top is None or not listed:
            return None
        return cls(
            tokens=[_name(t.logprob) if t.logprob else t.text for t, _ in listed],
            token_logprobs=[t.logprob.logprob if t.logprob else None for t, _ in listed],
            top_logprobs=[_top_logprobs(t) for t, _ in listed] if top else None,
            text_offset=[offset for _, offset in listed],
        )


def _name(token: TokenLogprob) -> str:
    """Return a token's text; for a part of a character its bytes, as OpenAI writes them."""
    raw = bytes(token.raw)
    try:
        return raw.decode() if raw else token.text
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _top_logprobs(token: Token) -> dict[str, float] | None:
    """Map the likeliest tokens and the sampled one; None for the first of a prompt."""
    if token.logprob is None:
        return None
    return {_name(each): each.logprob for each in (*reversed(token.top_logprobs), token.logprob)}


class CompletionChoice(ApiModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(ApiModel):
    """An answer, or a piece of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Annotated[CompletionUsage | None, OMIT_IF_NONE] = None
    timings: Annotated[Timings | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None
    prompt_progress: Annotated[PromptProgress | None, OMIT_IF_NONE] = None


def completion(
    request: CompletionRequest, model: str, request_id: str, choices: Choices
) -> Completion:
    """Write a whole answer."""
    return Completion(
        id=request_id,
        created=int(time.time()),
        model=model,
        choices=[
            CompletionChoice(
                index=choice.index,
                text=choice.text,
                logprobs=CompletionLogprobs.of(choice.tokens, request.logprobs),
                finish_reason=finish_reason(choice),
            )
            for choice in choices
        ],
        usage=CompletionUsage.of(choices.usage),
        timings=choices.finish().timings,
        warnings=choices.warnings or None,
    )


class CompletionStreamEncoder:
    """Writes answers as server-sent pieces; the last ones as `ChatStreamEncoder` does."""

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self, request: CompletionRequest, model: str, request_id: str, choices: Choices
    ) -> None:
        self._request = request
        self._model = model
        self._request_id = request_id
        self._choices = choices
        self._created = int(time.time())
        self._lengths = {choice.index: 0 for choice in choices}
        """Characters that were written of each choice."""

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        if isinstance(event, ReadProgress) and self._request.return_progress:
            nothing = CompletionChoice(index=0, text="")
            yield self._piece(nothing, progress=PromptProgress.of(self._choices.progress))
        for choice in choices:
            match event:
                case Token():
                    yield self._piece(self._token(choice.index, event))
                case Finished():
                    yield self._end(choice, event)

    def encode_error(self, error: ApiError) -> bytes:
        return sse_event(error_body(error))

    def keep_alive(self) -> bytes:
        return sse_comment(self._choices.progress.sentence())

    def _token(self, index: int, token: Token) -> CompletionChoice:
        offset = self._lengths[index]
        self._lengths[index] += len(token.text)
        logprobs = CompletionLogprobs.of([token], self._request.logprobs, offset)
        return CompletionChoice(index=index, text=token.text, logprobs=logprobs)

    def _end(self, choice: Choice, end: Finished) -> bytes:
        last = CompletionChoice(index=choice.index, text="", finish_reason=finish_reason(choice))
        if not self._choices.complete:
            return self._piece(last)
        if self._request.include_usage:
            return self._piece(last) + self._piece(end=end) + DONE
        return self._piece(last, end=end) + DONE

    def _piece(
        self,
        *choices: CompletionChoice,
        end: Finished | None = None,
        progress: PromptProgress | None = None,
    ) -> bytes:
        """Write a piece; with `end`, the last of all choices, also what is known only then."""
        piece = Completion(
            id=self._request_id,
            created=self._created,
            model=self._model,
            choices=list(choices),
            usage=None if end is None else CompletionUsage.of(self._choices.usage),
            timings=None if end is None else end.timings,
            warnings=None if end is None else self._choices.warnings or None,
            prompt_progress=progress,
        )
        return sse_event(piece.encode())
