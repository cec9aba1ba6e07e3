"""Which turns of a conversation stay when it has outgrown the context. Pure: a function that is
passed in tells how long a prompt is.

A turn is a question together with its answers, its tool calls and their results. The leading
system messages and the last turn always stay; what goes are the oldest turns.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence, Sized
from typing import TypeVar

from localllm.engine.messages import Message, Role
from localllm.errors import ContextOverflow

FILL_AFTER_CUT = 3 / 4
"""Of its limit, what a newly cut conversation may fill. To the brim, every following turn would
cut again, and a prompt that begins otherwise each time finds nothing in the cache."""

MAX_CUTS = 256
"""Conversations whose cut is remembered; one that is forgotten is cut anew."""

P = TypeVar("P", bound=Sized)


def prompt_limit(context: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have, so that the answer has a place too: `max_tokens`,
    at most half of the context; a quarter of it when that is None."""
    reserve = context // 4 if max_tokens is None else min(max_tokens, context // 2)
    return max(1, context - reserve)


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Find where each turn begins: at every user message after the leading system messages, and
    where these end."""
    head = next((i for i, m in enumerate(messages) if m.role is not Role.SYSTEM), len(messages))
    return [i for i in range(head, len(messages)) if i == head or messages[i].role is Role.USER]


class RollingWindow:
    """Cuts conversations, each at the same place as before for as long as that fits."""

    def __init__(self) -> None:
        self._cuts: OrderedDict[Hashable, None] = OrderedDict()

    def fit(
        self, messages: Sequence[Message], limit: int, render: Callable[[tuple[Message, ...]], P]
    ) -> tuple[P, int]:
        """Return the prompt of the messages that stay, and how many were left out.

        It is longer than `limit` only when the last turn alone is. `render` makes a prompt out of
        messages, a shorter one out of fewer; it is called about as often as the number of turns
        has binary digits, and once for a conversation that was cut before. It may raise
        ContextOverflow for what is far too long, which comes out only for the last turn alone.
        """
        starts = turn_starts(messages)

        def attempt(turn: int) -> P | None:
            """Render the conversation from a turn on; None when that is longer than the limit."""
            try:
                prompt = render(_from_turn(messages, starts, turn))
            except ContextOverflow:
                if turn == last:
                    raise
                return None
            return prompt if len(prompt) <= limit or turn == last else None

        last = max(0, len(starts) - 1)
        keys = _prefix_keys(messages, starts, limit)
        for turn in range(1, last + 1):
            if keys[turn] in self._cuts:
                if (prompt := attempt(turn)) is not None and len(prompt) <= limit:
                    self._cuts.move_to_end(keys[turn])
                    return prompt, starts[turn] - starts[0]
                del self._cuts[keys[turn]]
        if (prompt := attempt(0)) is not None:
            return prompt, 0
        prompt, turn = _earliest(attempt, last, int(limit * FILL_AFTER_CUT))
        self._remember(keys[turn])
        return prompt, starts[turn] - starts[0]

    def _remember(self, key: Hashable) -> None:
        self._cuts[key] = None
        while len(self._cuts) > MAX_CUTS:
            self._cuts.popitem(last=False)


def _earliest(attempt: Callable[[int], P | None], last: int, target: int) -> tuple[P, int]:
    """Find the first turn, from 1 on, from where on the conversation has at most `target` tokens;
    the last one when there is none."""
    low, high = 1, last  # the answer is one of low..high
    found: P | None = None
    while low < high:
        middle = (low + high) // 2
        prompt = attempt(middle)
        if prompt is not None and len(prompt) <= target:
            found, high = prompt, middle
        else:
            low = middle + 1
    if found is None:
        found = attempt(high)  # the last turn
        assert found is not None  # which is never too long for `attempt`
    return found, high


def _from_turn(messages: Sequence[Message], starts: list[int], turn: int) -> tuple[Message, ...]:
    """Return the leading system messages and everything from this turn on."""
    if turn == 0:
        return tuple(messages)
    return (*messages[: starts[0]], *messages[starts[turn] :])


def _prefix_keys(messages: Sequence[Message], starts: list[int], limit: int) -> list[Hashable]:
    """Return, for each turn, a key of everything before it. Two conversations that have one key by
    chance are cut at the same place, which is checked to fit as any other."""
    keys: list[Hashable] = []
    running, done = 0, 0
    for start in starts:
        for message in messages[done:start]:
            running = hash((running, message))
        done = start
        keys.append((limit, running))
    return keys
