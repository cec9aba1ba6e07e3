"""One model's format of answers: the tool format and the reasoning tags of its chat template, with
the control tokens of its vocabulary."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from localllm.engine.messages import GenerateRequest, GrammarKind, Tool, ToolMode
from localllm.engine.worker.parsing.answer_check import AnswerCheck
from localllm.engine.worker.parsing.answer_events import AnswerEvents
from localllm.engine.worker.parsing.call_grammar import CallGrammar, Preamble, schema_of
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import (
    HARMONY,
    ArgumentSyntax,
    ReasoningTags,
    ToolFormat,
)
from localllm.engine.worker.parsing.harmony import (
    HARMONY_ANSWER_NEXT,
    HARMONY_CALL_NEXT,
    HarmonyAnswerParser,
)
from localllm.engine.worker.parsing.parser import AnswerParser, TaggedAnswerParser
from localllm.engine.worker.parsing.reasoning_budget import ReasoningBudget

_FORCED_MODES = (ToolMode.REQUIRED, ToolMode.NAMED)
_TAIL_TOKENS = 24
"""The end of a prompt in which the opening tag of reasoning is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """The format of the answers to one request; by default they are text.

    `new_events` makes the events of one answer. `forced` is the grammar of a whole answer: it must
    call, or be JSON of a form where it does not. `lazy` is that of a section of calls in an answer
    that is free not to. `check` makes the check of one answer against its schemas.
    """

    new_events: Callable[[], AnswerEvents] = AnswerEvents
    forced: CallGrammar | None = None
    lazy: CallGrammar | None = None
    check: Callable[[], AnswerCheck] | None = None


class Place(Enum):
    """The place in an answer where a prompt ends."""

    BEGINNING = auto()
    REASONING = auto()
    TEXT = auto()


class Tokenizer(Protocol):
    """From text to tokens and back (`llama.vocabulary.Vocabulary`)."""

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


class ModelFormat:
    """Makes the answer format of each request to one model."""

    def __init__(
        self, tool_format: ToolFormat, tags: ReasoningTags | None, tokenizer: Tokenizer
    ) -> None:
        """`tags` None: the model does not reason between tags."""
        self._format = tool_format
        self._tags = tags
        self._tokenizer = tokenizer
        self._marker_ids: dict[str, int] = {}
        for text in (*tool_format.markers, *(tags.markers if tags is not None else ())):
            tokens = self._tokenize(text)
            if len(tokens) == 1 and not tokenizer.piece(tokens[0]):
                self._marker_ids[text] = tokens[0]
        self._markers = {token: text.encode() for text, token in self._marker_ids.items()}

    def answer_format(
        self,
        request: GenerateRequest,
        prompt: Sequence[int],
        *,
        place: Place = Place.BEGINNING,
        budget: int | None = None,
    ) -> AnswerFormat:
        """Find the format of the answers to a request with these tokens as its prompt.

        `place` is where in an answer the prompt ends. `budget`: tokens of reasoning."""
        tools = offered_tools(request)
        form = _form(request)
        loose = self._format.call_syntax.arguments is not ArgumentSyntax.JSON
        check = (
            functools.partial(AnswerCheck, tools, form, loose=loose)
            if tools or form is not None
            else None
        )
        if request.messages is None or (request.grammar is not None and not tools):
            return AnswerFormat(check=check)
        if not tools and self._tags is None and self._format is not HARMONY:
            return AnswerFormat()
        opened = place is Place.REASONING or self.opens_reasoning(prompt)
        forced = request.tool_choice.mode in _FORCED_MODES
        whole = bool(tools) and (forced or form is not None)
        return AnswerFormat(
            new_events=functools.partial(
                self._new_events,
                {tool.name: schema_of(tool) for tool in tools},
                opened=opened,
                continues=place is Place.TEXT,
                budget=budget,
                constrained=whole,
                one_call=bool(tools) and not _may_call_again(request),
            ),
            forced=self._whole_grammar(request, None if forced else form, opened=opened)
            if whole
            else None,
            lazy=self._lazy_grammar(request) if tools and not whole else None,
            check=check,
        )

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Tell whether a prompt ends with the opening tag of reasoning, as some templates write."""
        if self._tags is None:
            return False
        tail = b"".join(
            self._markers.get(token) or self._tokenizer.piece(token)
            for token in prompt[-_TAIL_TOKENS:]
            if token >= 0  # no part of an image
        )
        return tail.decode("utf-8", "replace").rstrip().endswith(self._tags.open.rstrip())

    def _whole_grammar(
        self, request: GenerateRequest, form: str | None, *, opened: bool
    ) -> CallGrammar:
        name = request.tool_choice.name
        return CallGrammar(
            tool_format=self._format,
            tools=tuple(tool for tool in request.tools if name in (None, tool.name)),
            marker_ids=self._marker_ids,
            preamble=Preamble(tags=self._tags, opened=opened),
            many=_may_call_again(request),
            forced=form is None,
            form=form,
            strict_form=form is not None and request.grammar is not None and request.grammar.strict,
        )

    def _lazy_grammar(self, request: GenerateRequest) -> CallGrammar:
        # Where nothing ends a section, each call is one of its own and the model decides again.
        many = bool(self._format.call_syntax.section_end) and request.parallel_tool_calls
        return CallGrammar(
            tool_format=self._format,
            tools=request.tools,
            marker_ids=self._marker_ids,
            preamble=None,
            many=many,
            forced=False,
        )

    def _new_events(
        self,
        tools: Mapping[str, Schema],
        *,
        opened: bool,
        continues: bool,
        budget: int | None,
        constrained: bool,
        one_call: bool,
    ) -> AnswerEvents:
        parser: AnswerParser
        if self._format is HARMONY:
            parser = HarmonyAnswerParser(
                tools,
                reasoning=opened,
                continues=continues,
                constrained=constrained,
                one_call=one_call,
            )
        else:
            parser = TaggedAnswerParser(
                self._format,
                self._tags,
                tools,
                reasoning=opened,
                continues=continues,
                constrained=constrained,
                one_call=one_call,
            )
        limit = None
        if budget is not None:
            closing = functools.partial(self._closing, calls=bool(tools))
            limit = ReasoningBudget(budget, parser, closing)
        return AnswerEvents(parser, markers=self._markers, tokenize=self._tokenize, budget=limit)

    def _closing(self, again: bool, *, calls: bool) -> list[int]:
        """Return the tokens that end the reasoning. A harmony model with tools chooses its next
        channel itself, but for `again`: after reasoning that has gone on."""
        if self._tags is not None:
            return self._tokenize(self._tags.forced_end)
        return self._tokenize(HARMONY_CALL_NEXT if calls and not again else HARMONY_ANSWER_NEXT)

    def _tokenize(self, text: str) -> list[int]:
        return self._tokenizer.tokenize(text, special=True, ends=False)


def offered_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """Return the tools that the prompt describes to the model."""
    return () if request.tool_choice.mode is ToolMode.NONE else request.tools


def _form(request: GenerateRequest) -> str | None:
    """Return the JSON Schema that the text of an answer must follow; None for none."""
    grammar = request.grammar
    if grammar is None:
        return None
    if grammar.kind is GrammarKind.JSON_OBJECT:
        return '{"type": "object"}'
    return grammar.text if grammar.kind is GrammarKind.JSON_SCHEMA else None


def _may_call_again(request: GenerateRequest) -> bool:
    return request.parallel_tool_calls and request.tool_choice.mode is not ToolMode.NAMED
