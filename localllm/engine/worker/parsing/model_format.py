"""One model's way of calling tools and of reasoning: its template's family in its vocabulary."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from localllm.engine.messages import GenerateRequest, Grammar, Tool, ToolMode
from localllm.engine.worker.parsing.answer_events import Speech
from localllm.engine.worker.parsing.call_grammar import Forcing, call_grammar, schema_of
from localllm.engine.worker.parsing.formats import HARMONY, Family, Fence
from localllm.engine.worker.parsing.harmony import HarmonyReader
from localllm.engine.worker.parsing.parser import Reader, TextReader

if TYPE_CHECKING:
    from localllm.engine.worker.sampling.grammar import Constraint
    from localllm.engine.worker.sequences.sequence import Sequence as Answer

_FORCED = (ToolMode.REQUIRED, ToolMode.NAMED)
_TAIL_TOKENS = 24
"""Of a prompt, that are looked at for a fence that its template has opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the answers to one request are read. `calls`: what a call must look like as soon as the
    model, which is free not to, has begun one."""

    speech: Callable[[], Speech]
    calls: Grammar | None = None

    def teach(self, answers: "Sequence[Answer]", calls: "Sequence[Constraint]") -> None:
        """Give each answer a speech of its own, with its way through `calls` when there is one."""
        for i, answer in enumerate(answers):
            answer.output.events = self.speech()
            answer.output.events.calls = calls[i] if calls else None


class Vocabulary(Protocol):
    """A model's tokens."""

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


class Dialect:
    """How one model's answers are read, and what a call of it must look like."""

    def __init__(self, family: Family, fence: Fence | None, vocabulary: Vocabulary) -> None:
        self.family = family
        self.fence = fence
        self._vocabulary = vocabulary
        fences = (*fence.markers, *fence.wrapping) if fence is not None else ()
        self._ids: dict[str, int] = {}
        for text in (*family.markers, *fences):
            tokens = vocabulary.tokenize(text, special=True, ends=False)
            if len(tokens) == 1 and not vocabulary.piece(tokens[0]):
                self._ids[text] = tokens[0]
        self._markers = {token: text.encode() for text, token in self._ids.items()}

    def bound(self, request: GenerateRequest, prompt: Sequence[int]) -> GenerateRequest:
        """The request, whose whole answer must be a call when its tool_choice says so."""
        choice = request.tool_choice
        if not request.tools or choice.mode not in _FORCED:
            return request
        named = choice.mode is ToolMode.NAMED
        tools = [tool for tool in request.tools if not named or tool.name == choice.name]
        forcing = Forcing(fence=self.fence, thinking=self.is_thinking(prompt))
        many = request.parallel_tool_calls and not named
        grammar = call_grammar(self.family, tools, self._ids, forcing, many=many)
        return replace(request, grammar=grammar)

    def manner(self, request: GenerateRequest, prompt: Sequence[int]) -> Manner | None:
        """How this request's answers are read; None: they are text."""
        may_call = bool(tools_told(request))
        silent = self.family is not HARMONY and self.fence is None and not may_call
        if request.messages is None or request.grammar is not None or silent:
            return None
        forced = request.tool_choice.mode in _FORCED
        return Manner(
            speech=functools.partial(self._speech, request, tuple(prompt[-_TAIL_TOKENS:])),
            calls=self._calls(request) if may_call and not forced else None,
        )

    def _calls(self, request: GenerateRequest) -> Grammar:
        many = bool(self.family.writing.end) and request.parallel_tool_calls
        return call_grammar(self.family, request.tools, self._ids, Forcing(lazily=True), many=many)

    def _speech(self, request: GenerateRequest, tail: tuple[int, ...]) -> Speech:
        tools = tools_told(request)
        one = not request.parallel_tool_calls or request.tool_choice.mode is ToolMode.NAMED
        return Speech(
            self._reader(tools, tail, trusted=request.tool_choice.mode in _FORCED),
            markers=self._markers,
            one_call=bool(tools) and one,
            tokenize=functools.partial(self._vocabulary.tokenize, special=True, ends=False),
        )

    def _reader(self, tools: Sequence[Tool], tail: tuple[int, ...], *, trusted: bool) -> Reader:
        schemas = {tool.name: schema_of(tool) for tool in tools}
        if self.family is HARMONY:
            return HarmonyReader(schemas, trusted=trusted)
        thinking = self.is_thinking(tail)
        return TextReader(self.family, self.fence, schemas, thinking=thinking, trusted=trusted)

    def is_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether the template has opened the fence at the prompt's end."""
        if self.fence is None:
            return False
        tail = b"".join(
            self._markers.get(token) or self._vocabulary.piece(token)
            for token in prompt[-_TAIL_TOKENS:]
            if token >= 0
        )
        return tail.decode("utf-8", "replace").rstrip().endswith(self.fence.opens.rstrip())


def tools_told(request: GenerateRequest) -> tuple[Tool, ...]:
    """The tools that the model is told of."""
    return () if request.tool_choice.mode is ToolMode.NONE else request.tools
