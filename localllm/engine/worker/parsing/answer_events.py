"""From the tokens of an answer to its events, and to the grammar of a call that it has begun.

A sequence has one `AnswerEvents`, and nothing here knows of sequences: `AnswerFormat` makes them.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from localllm.engine.messages import Event, FinishReason, Token
from localllm.engine.worker.parsing.parser import AnswerParser
from localllm.engine.worker.parsing.reasoning_budget import ReasoningBudget

if TYPE_CHECKING:
    from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer

    # Imports llguidance and numpy, which an answer without a grammar does not need.
    from localllm.engine.worker.sampling.grammar import Constraint


class AnswerEvents:
    """Turns the tokens of one answer into its events."""

    def __init__(
        self,
        parser: AnswerParser | None = None,
        *,
        markers: Mapping[int, bytes] | None = None,
        tokenize: Callable[[str], list[int]] | None = None,
        budget: ReasoningBudget | None = None,
    ) -> None:
        """Without a `parser` everything is text. `markers`: control tokens, which have no bytes of
        their own, and the text by which the parser knows them. `tokenize` turns a call that has
        begun into tokens, markers included; `attach` needs it. `budget` is that of the parser's
        reasoning."""
        self._parser = parser
        self._markers = markers or {}
        self._tokenize = tokenize
        self._budget = budget
        self._lazy: LazyGrammar | None = None
        self.reasoning_tokens = 0
        """Tokens of the reasoning so far, with those that ended it."""

    def attach(self, calls: "Constraint") -> None:
        """Constrain each section of calls of this answer, which is free not to call."""
        assert self._parser is not None
        assert self._tokenize is not None
        self._lazy = LazyGrammar(calls, self._parser, self._tokenize)

    def marker(self, token: int) -> bytes:
        """The bytes that the parser must see of a control token; b"" for none."""
        return self._markers.get(token, b"")

    @property
    def ended(self) -> bool:
        """True when the answer may say nothing more."""
        return self._parser is not None and self._parser.ended

    def forced_token(self, text: "IncrementalDetokenizer") -> int | None:
        """Return the token that must come next, to keep the budget of the reasoning; None: any may.
        `text` is where the tokens' bytes become text."""
        if self._budget is None:
            return None
        return self._budget.forced(in_character=text.in_character)

    def push(self, token: Token, token_id: int) -> list[Event]:
        """Return the events of a token: exactly one of them has its log probabilities."""
        if self._parser is None:
            return [token]
        was_reasoning = self._parser.in_reasoning
        events = self._parser.push(token)
        self.reasoning_tokens += was_reasoning
        if self._budget is not None:
            self._budget.count(token_id, was_reasoning=was_reasoning)
        return events

    def finish(self, rest: Token) -> list[Event]:
        """Return the events of what is left at the end; `rest` is text that was held back."""
        if self._parser is not None:
            return self._parser.finish(rest)
        return [rest] if rest.text else []

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """Return TOOL_CALLS for an answer that has stopped after calls, else `reason`."""
        called = self._parser is not None and self._parser.has_called
        return FinishReason.TOOL_CALLS if called and reason is FinishReason.STOP else reason

    @property
    def calls_are_bound(self) -> bool:
        """False when a call of this answer did not begin as its grammar says."""
        return self._lazy is None or not self._lazy.has_rejected

    @property
    def in_lazy_grammar(self) -> bool:
        """True while the constraint is that of a section of calls, not of the whole answer."""
        return self._lazy is not None and self._lazy.active

    def next_constraint(
        self, constraint: "Constraint | None", *, complete: bool, text: "IncrementalDetokenizer"
    ) -> "Constraint | None":
        """Choose what constrains the next token, after one has been pushed.

        `constraint` is what the last token had to follow, `complete` says that it ends there, and
        `text` is where the tokens' bytes become text.
        """
        if self._lazy is None:
            return constraint
        return self._lazy.next_constraint(constraint, complete=complete, text=text)


class _LazyState(Enum):
    WAITING = auto()  # no call has begun
    ACTIVE = auto()
    REJECTED = auto()  # this call does not begin as the grammar says: it is parsed all the same


class LazyGrammar:
    """Constrains an answer as soon as it has begun to call, as llama.cpp's lazy grammars do.

        WAITING   a call has begun as the grammar says -> ACTIVE, otherwise -> REJECTED
        ACTIVE    the section is complete -> WAITING
        REJECTED  the section has ended -> WAITING

    A constraint of the whole answer is left as it is.
    """

    def __init__(
        self, calls: "Constraint", parser: AnswerParser, tokenize: Callable[[str], list[int]]
    ) -> None:
        self._calls = calls
        self._parser = parser
        self._tokenize = tokenize
        self._state = _LazyState.WAITING
        self.has_rejected = False

    @property
    def active(self) -> bool:
        return self._state is _LazyState.ACTIVE

    def next_constraint(
        self, constraint: "Constraint | None", *, complete: bool, text: "IncrementalDetokenizer"
    ) -> "Constraint | None":
        """See `AnswerEvents.next_constraint`."""
        if self.active:
            if not complete:
                return constraint
            self._state = _LazyState.WAITING
            self._parser.constrain(False)
            return None
        prefix = self._parser.call_prefix
        if prefix is None:
            self._state = _LazyState.WAITING
        elif self._state is _LazyState.WAITING and not text.has_pending:
            # The grammar reads on from text: what the detokenizer holds back would be missing.
            if self._calls.begin_after(self._tokenize(prefix)):
                self._state = _LazyState.ACTIVE
                self._parser.constrain(True)
                return self._calls
            self._state = _LazyState.REJECTED
            self.has_rejected = True
        return constraint
