"""What `/v1/completions` answers: the events of one request for each prompt, put together as one
answer (`completion`) or as a stream of chunks (`chunks`)."""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Literal

from localllm.engine.messages import Finished, GenerateEvent, Timings, Token, TokenLogprob
from localllm.errors import ContextOverflow, LocalLLMError
from localllm.server.dialects.openai.answer import Ending, Usage, ending
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.embeddings import too_long
from localllm.server.errors import api_error
from localllm.server.schema import LEFT_OUT_IF_NONE, Shape
from localllm.server.sse import DONE, event_line, together

Events = AsyncGenerator[GenerateEvent, None]


class TextLogprobs(Shape):
    """Four lists with an item for each token. `text_offset` counts characters of the choice's own
    text, the echo included; the first token of an echo has no log probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Ending | None = None


class TextCompletion(Shape):
    """An answer, or a piece of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Annotated[Usage | None, LEFT_OUT_IF_NONE] = None
    timings: Annotated[Timings | None, LEFT_OUT_IF_NONE] = None


def _name(token: TokenLogprob) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI writes them."""
    raw = bytes(token.raw)
    try:
        return raw.decode() if raw else token.text
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass(slots=True, kw_only=True)
class _Text:
    """One choice as it grows."""

    top: int | None
    text: str = ""
    tokens: list[tuple[Token, int]] = field(default_factory=list)

    def add(self, token: Token) -> None:
        if token.logprob is not None or (token.of_prompt and self.top is not None):
            self.tokens.append((token, len(self.text)))
        self.text += token.text

    def logprobs(self, since: int = 0) -> TextLogprobs | None:
        if self.top is None or len(self.tokens) == since:
            return None
        tokens = self.tokens[since:]
        return TextLogprobs(
            tokens=[_name(t.logprob) if t.logprob else t.text for t, _ in tokens],
            token_logprobs=[t.logprob.logprob if t.logprob else None for t, _ in tokens],
            top_logprobs=[_likely(t) for t, _ in tokens] if self.top else None,
            text_offset=[offset for _, offset in tokens],
        )


def _likely(token: Token) -> dict[str, float] | None:
    """The likeliest tokens and the one that was drawn; None for the first of a prompt."""
    if token.logprob is None:
        return None
    return {_name(each): each.logprob for each in (*reversed(token.top_logprobs), token.logprob)}


class _Choices:
    """All choices of a request: answer j to prompt i is choice i * n + j."""

    def __init__(self, asked: CompletionRequest) -> None:
        self._n = asked.answers
        self.all = [_Text(top=asked.logprobs) for _ in range(len(asked.prompt) * self._n)]
        self.ends: dict[int, Finished] = {}

    def of(self, prompt: int, event: Token | Finished) -> Iterable[int]:
        """The choices that an event belongs to: a token of the prompt to all answers to it."""
        first = prompt * self._n
        if isinstance(event, Token) and event.of_prompt:
            return range(first, first + self._n)
        return (first + event.index,)

    @property
    def usage(self) -> Usage:
        """Each prompt counts once."""
        requests: dict[int, list[Finished]] = {}
        for index, end in self.ends.items():
            requests.setdefault(index // self._n, []).append(end)
        return Usage.of(*requests.values())


async def completion(
    asked: CompletionRequest, request_id: str, streams: Sequence[Events]
) -> TextCompletion:
    """Wait for all answers. Raises what a stream raises; closes them in any case."""
    choices = _Choices(asked)
    last: Finished | None = None
    async with aclosing(together(streams)) as events:
        try:
            async for prompt, event in events:
                if isinstance(event, Token):
                    for index in choices.of(prompt, event):
                        choices.all[index].add(event)
                elif isinstance(event, Finished):
                    (index,) = choices.of(prompt, event)
                    choices.ends[index] = last = event
        except ContextOverflow as error:
            raise too_long(error, "prompt") from error
    return TextCompletion(
        id=request_id,
        created=int(time.time()),
        model=asked.model,
        choices=[
            TextChoice(
                index=index,
                text=text.text,
                logprobs=text.logprobs(),
                finish_reason=ending(choices.ends[index]),
            )
            for index, text in enumerate(choices.all)
        ],
        usage=choices.usage,
        timings=last.timings if last is not None else None,
    )


async def chunks(
    asked: CompletionRequest, request_id: str, streams: Sequence[Events]
) -> AsyncGenerator[bytes, None]:
    """Write the answers as server-sent events while they come; errors as in `answer.chunks`."""
    created, choices = int(time.time()), _Choices(asked)

    def chunk(*pieces: TextChoice, end: Finished | None = None) -> bytes:
        piece = TextCompletion(
            id=request_id,
            created=created,
            model=asked.model,
            choices=list(pieces),
            usage=None if end is None else choices.usage,
            timings=None if end is None else end.timings,
        )
        return event_line(piece.encode())

    started = False
    async with aclosing(together(streams)) as events:
        try:
            async for prompt, event in events:
                if isinstance(event, Token):
                    started = True
                    for index in choices.of(prompt, event):
                        yield chunk(_piece(choices.all[index], index, event))
                elif isinstance(event, Finished):
                    started = True
                    (index,) = choices.of(prompt, event)
                    choices.ends[index] = event
                    final = TextChoice(index=index, text="", finish_reason=ending(event))
                    if len(choices.ends) < len(choices.all):
                        yield chunk(final)
                    elif asked.usage_apart:
                        yield chunk(final) + chunk(end=event) + DONE
                    else:
                        yield chunk(final, end=event) + DONE
        except LocalLLMError as error:
            if isinstance(error, ContextOverflow):
                error = too_long(error, "prompt")
            if not started:
                raise error from None
            yield event_line(api_error(error).body())


def _piece(text: _Text, index: int, token: Token) -> TextChoice:
    before = len(text.tokens)
    text.add(token)
    return TextChoice(index=index, text=token.text, logprobs=text.logprobs(before))
