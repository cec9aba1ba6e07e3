"""The end of a model's reasoning after so many tokens: its own end tag, token by token. Pure.

The tokens of the reasoning are counted as they are drawn; the one after the last that the budget
allows is no longer the model's choice. Only inside a character of several tokens is the end put
off, by three tokens at most, so that the reasoning does not end in half of one.
"""

from collections import deque
from collections.abc import Callable, Iterable

from localllm.engine.worker.parsing.parser import AnswerParser

_MOST_PUT_OFF = 3
"""Tokens: the bytes that a UTF-8 character may have after its first."""


class ReasoningBudget:
    """Counts the reasoning of one answer, and ends it."""

    def __init__(
        self, tokens: int, parser: AnswerParser, closing: Callable[[bool], Iterable[int]]
    ) -> None:
        """`closing` makes the tokens that end the reasoning, when it has to be ended `again`, too:
        a model may open it a second time."""
        self._tokens = tokens
        self._parser = parser
        self._closing = closing
        self._forced: deque[int] = deque()
        self._used = 0
        self._ended = False

    def count(self, token: int, *, was_reasoning: bool) -> None:
        """Count a token that was drawn; `was_reasoning`: the reasoning had begun before it."""
        if self._forced:
            if token == self._forced[0]:
                self._forced.popleft()
            else:  # a grammar did not allow it
                self._forced.clear()
        elif was_reasoning:
            self._used += 1

    def forced(self, *, in_character: bool) -> int | None:
        """Return the token that must come next, if any; `in_character`: the last one has ended
        inside a character."""
        if self._forced:
            return self._forced[0]
        left = self._tokens - self._used
        if not self._parser.in_reasoning or left > 0:
            return None
        if in_character and left > -_MOST_PUT_OFF:
            return None
        self._forced.extend(self._closing(self._ended))
        self._ended = True
        return self._forced[0] if self._forced else None
