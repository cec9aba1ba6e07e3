"""The half of an answer that every dialect shares: its choices, their ends and their usage.

A request to the API may hold several prompts (OpenAI's completions), each of them a request to the
engine with `n` answers: answer j to prompt i is choice i * n + j. `Choices` puts the engine's
events in their places; how a choice, usage or a stop reason is written is the dialect's.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    PromptProgress,
    Reasoning,
    Token,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.server.errors import ApiError
from localllm.server.streaming import DescribedStream, merge_streams

Events = AsyncGenerator[GenerateEvent, None]


class StopReason(StrEnum):
    """The end of an answer. A cancelled one is an error over HTTP and has none."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a whole answer; `cached_tokens` of the prompt were not computed again,
    `reasoning_tokens` of the completion were reasoning."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Tokens of the prompts of a request: `processed` of `total`, `cached` among them, in the time
    since the first was begun. `waits_for`: what is to happen first, such as the model's load."""

    processed: int
    total: int
    cached: int
    elapsed_s: float
    waits_for: str | None = None

    def sentence(self) -> str:
        """Describe what the client waits for."""
        if self.total == 0:
            return self.waits_for or "waiting for the engine"
        if self.processed < self.total:
            return f"prompt: {self.processed} of {self.total} tokens"
        return "waiting for the next token"


class Choice:
    """One answer, which grows by `add`."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.end: Finished | None = None
        self.tokens: list[Token] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallBegan, list[str]]] = []

    def add(self, event: GenerateEvent) -> None:
        """Append what an event carries. A stream does not: it need not hold the whole answer."""
        match event:
            case Token():
                self.tokens.append(event)
            case Reasoning(text=text):
                self._reasoning.append(text)
            case ToolCallBegan():
                self._calls.append((event, []))
            case ToolCallArguments(call=call, text=text):
                self._calls[call][1].append(text)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(id=began.id, name=began.name, arguments="".join(pieces))
            for began, pieces in self._calls
        )

    @property
    def stop_reason(self) -> StopReason | None:
        """None while the answer goes on. Raises ApiError when it was cancelled."""
        if self.end is None:
            return None
        if self.end.reason is FinishReason.CANCELLED:
            raise ApiError("The request was cancelled.", status=503, code="cancelled")
        return StopReason(self.end.reason.value)


class Choices:
    """All choices of a request to the API: `n` for each of its `prompts`.

    `warnings`: what is known about the request before the engine has it.
    """

    def __init__(self, *, prompts: int = 1, n: int = 1, warnings: Sequence[str] = ()) -> None:
        self._n = n
        self._warnings = tuple(warnings)
        self._choices = tuple(Choice(index) for index in range(prompts * n))
        self._ended = 0
        self._last: Finished | None = None
        self._progress: dict[int, PromptProgress] = {}
        self._described: tuple[DescribedStream[GenerateEvent], ...] = ()

    def __iter__(self) -> Iterator[Choice]:
        return iter(self._choices)

    @property
    def complete(self) -> bool:
        """True when every choice has ended."""
        return self._ended == len(self._choices)

    def assign(self, prompt: int, event: GenerateEvent) -> Sequence[Choice]:
        """Return the choices that an event of a prompt belongs to, and note the end of one."""
        first = prompt * self._n
        match event:
            case PromptProgress():
                self._progress[prompt] = event
                return ()
            case Token(of_prompt=True):  # an echo is the beginning of every answer
                return self._choices[first : first + self._n]
        choice = self._choices[first + event.index]
        if isinstance(event, Finished):
            choice.end = self._last = event
            self._ended += 1
        return (choice,)

    @property
    def progress(self) -> Progress:
        """How far the engine has read all prompts that it has accepted up to now."""
        return Progress(
            processed=sum(each.processed for each in self._progress.values()),
            total=sum(each.total for each in self._progress.values()),
            cached=sum(each.cached for each in self._progress.values()),
            elapsed_s=max((each.elapsed_s for each in self._progress.values()), default=0.0),
            waits_for=next(filter(None, (each.describe() for each in self._described)), None),
        )

    def describe_waits(self, streams: Sequence[Events]) -> None:
        """Let `progress` say what the streams wait for."""
        self._described = tuple(each for each in streams if isinstance(each, DescribedStream))

    async def read(self, streams: Sequence[Events]) -> None:
        """Add all events of the prompts' streams. Raises what one raises; closes them always."""
        async with aclosing(merge_streams(streams)) as events:
            async for prompt, event in events:
                for choice in self.assign(prompt, event):
                    choice.add(event)

    def finish(self) -> Finished:
        """Return the end that came last, whose timings are those of the whole answer.

        To be called when the streams have ended. Raises ApiError when a choice has not.
        """
        if self._last is None or not self.complete:
            raise ApiError("The engine's answer ended early.", status=500, code="generation_failed")
        return self._last

    @property
    def warnings(self) -> list[str]:
        """The warnings of the request and of the choices that have ended, each once."""
        ends = (choice.end for choice in self._choices if choice.end is not None)
        return list(dict.fromkeys((*self._warnings, *(w for end in ends for w in end.warnings))))

    @property
    def usage(self) -> Usage:
        """The tokens of the choices that have ended; a prompt counts once for all its answers."""
        ends = [
            (choice.index // self._n, choice.end)
            for choice in self._choices
            if choice.end is not None
        ]
        prompts = dict(reversed(ends)).values()  # of each prompt its first answer
        return Usage(
            prompt_tokens=sum(end.prompt_tokens for end in prompts),
            completion_tokens=sum(end.completion_tokens for _, end in ends),
            cached_tokens=sum(end.cached_tokens for end in prompts),
            reasoning_tokens=sum(end.reasoning_tokens for _, end in ends),
        )
