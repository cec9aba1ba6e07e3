"""Which turns of a conversation stay when it has outgrown the context. Pure: how long a prompt is
says a function that is passed in.

The system prompt and the last turn always stay; what goes are the oldest turns, whole: a
question together with its answers, its tool calls and their results.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence, Sized
from typing import TypeVar

from localllm.engine.messages import Message, Role
from localllm.errors import ContextOverflow

KEPT = 3 / 4
"""Of the room, what a newly cut conversation may fill. To the brim, every following turn would
cut again, and a prompt that begins otherwise each time finds nothing in the cache."""

MAX_CUTS = 256
"""Conversations whose cut is remembered; one that is forgotten is cut anew."""

P = TypeVar("P", bound=Sized)


def room(context: int, max_tokens: int | None) -> int:
    """Tokens a prompt may have, so that the answer has room too: what was asked for, at most half
    of the context; a quarter of it when nothing was."""
    reserve = context // 4 if max_tokens is None else min(max_tokens, context // 2)
    return max(1, context - reserve)


def borders(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: at every user message after the leading system messages, and
    where these end."""
    head = next((i for i, m in enumerate(messages) if m.role is not Role.SYSTEM), len(messages))
    return [i for i in range(head, len(messages)) if i == head or messages[i].role is Role.USER]


class RollingWindow:
    """Cuts conversations, each at the same place as before for as long as that fits."""

    def __init__(self) -> None:
        self._cuts: OrderedDict[Hashable, None] = OrderedDict()

    def fit(
        self, messages: Sequence[Message], room: int, render: Callable[[tuple[Message, ...]], P]
    ) -> tuple[P, int]:
        """The prompt of what stays, and how many messages were left out.

        It is longer than `room` only when the last turn alone is. `render` makes a prompt out of
        messages, a shorter one out of fewer; it is called about as often as the number of turns
        has binary digits, and once for a conversation that was cut before. It may raise
        ContextOverflow for what is far too long, which comes out only for the last turn alone.
        """
        starts = borders(messages)

        def attempt(turn: int) -> P | None:
            """None: longer than the room."""
            try:
                prompt = render(_without(messages, starts, turn))
            except ContextOverflow:
                if turn == last:
                    raise
                return None
            return prompt if len(prompt) <= room or turn == last else None

        last = max(0, len(starts) - 1)
        keys = _keys(messages, starts, room)
        for turn in range(1, last + 1):
            if keys[turn] in self._cuts:
                if (prompt := attempt(turn)) is not None and len(prompt) <= room:
                    self._cuts.move_to_end(keys[turn])
                    return prompt, starts[turn] - starts[0]
                del self._cuts[keys[turn]]
        if (prompt := attempt(0)) is not None:
            return prompt, 0
        prompt, turn = _earliest(attempt, last, int(room * KEPT))
        self._remember(keys[turn])
        return prompt, starts[turn] - starts[0]

    def _remember(self, key: Hashable) -> None:
        self._cuts[key] = None
        while len(self._cuts) > MAX_CUTS:
            self._cuts.popitem(last=False)


def _earliest(attempt: Callable[[int], P | None], last: int, target: int) -> tuple[P, int]:
    """The first turn, from 1 on, from where on the conversation has at most `target` tokens; the
    last one when there is none."""
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


def _without(messages: Sequence[Message], starts: list[int], turn: int) -> tuple[Message, ...]:
    """The leading system messages and everything from this turn on."""
    if turn == 0:
        return tuple(messages)
    return (*messages[: starts[0]], *messages[starts[turn] :])


def _keys(messages: Sequence[Message], starts: list[int], room: int) -> list[Hashable]:
    """Of each turn: a name for everything before it. Two conversations of one name by chance are
    cut at the same place, which is checked to fit as any other."""
    keys: list[Hashable] = []
    running, done = 0, 0
    for start in starts:
        for message in messages[done:start]:
            running = hash((running, message))
        done = start
        keys.append((room, running))
    return keys
