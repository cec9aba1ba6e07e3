"""Responses that later requests go on with: in memory only, bounded in bytes and in age.

Each is one step of a conversation and knows the one before it, so that the items of a long
conversation are held once. A step whose response is gone stays as long as a later one needs it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from localllm.policy.active import active_policy

MAX_AGE_S = 60 * 60.0
"""Since a response was made or last used."""
MAX_BYTES = 64 * 2**20
"""Of all responses together, as the JSON that they came and went as."""

Item = dict[str, object]


@dataclass(kw_only=True, eq=False)
class _Step:
    """One request and its answer; `users` are later steps and the response itself."""

    previous: "_Step | None"
    items: tuple[Item, ...]
    size_bytes: int
    users: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response that a client can read again. `input` is all that the model was given."""

    document: bytes
    input: tuple[Item, ...]
    output: tuple[Item, ...]

    @property
    def conversation(self) -> tuple[Item, ...]:
        return (*self.input, *self.output)


@dataclass(kw_only=True, eq=False)
class _Entry:
    owner: str
    document: bytes
    step: _Step
    outputs: int
    used_at: float = field(default=0.0)


class ResponseStore:
    """Responses by their ids, each for the key that made it and for no other.

    `clock`: seconds that only grow. The least recently used go first when there is no room.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._items: dict[tuple[str, str], tuple[_Step, Item]] = {}
        self.size_bytes = 0

    def put(
        self,
        response_id: str,
        owner: str,
        document: bytes,
        *,
        previous_id: str | None,
        new_input: Sequence[Item],
        output: Sequence[Item],
        size_bytes: int,
    ) -> None:
        """Keep a response that was made of `new_input` after the response `previous_id`.

        `size_bytes`: of the new items. One that is larger than all the room is not kept,
        nor is any where the policy keeps nothing.
        """
        if active_policy().allows_keeping("memory") is not None:
            return
        self._drop_old()
        previous = self._entries.get(previous_id or "")
        size = size_bytes + len(document)
        if size > self._max_bytes or (previous_id is not None and previous is None):
            return
        step = _Step(
            previous=previous.step if previous is not None else None,
            items=(*new_input, *output),
            size_bytes=size,
        )
        if step.previous is not None:
            step.previous.users += 1
        self.size_bytes += size
        self._entries[response_id] = _Entry(
            owner=owner, document=document, step=step, outputs=len(output), used_at=self._clock()
        )
        for item in step.items:
            if isinstance(item_id := item.get("id"), str):
                self._items[owner, item_id] = (step, item)
        while self.size_bytes > self._max_bytes and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))
        if self.size_bytes > self._max_bytes:  # the conversation before it takes all the room
            self._drop(response_id)

    def get(self, response_id: str, owner: str) -> StoredResponse | None:
        """Return a response of `owner`, which thereby stays longer; None: there is none."""
        self._drop_old()
        entry = self._entries.get(response_id)
        if entry is None or entry.owner != owner:
            return None
        entry.used_at = self._clock()
        self._entries.move_to_end(response_id)
        conversation = _conversation(entry.step)
        border = len(conversation) - entry.outputs
        return StoredResponse(
            document=entry.document, input=conversation[:border], output=conversation[border:]
        )

    def item(self, item_id: str, owner: str) -> Item | None:
        """Return one item of a conversation of `owner`, by its id."""
        self._drop_old()
        found = self._items.get((owner, item_id))
        return None if found is None else found[1]

    def delete(self, response_id: str, owner: str) -> bool:
        """Forget a response of `owner`; False: there is none."""
        entry = self._entries.get(response_id)
        if entry is None or entry.owner != owner:
            return False
        self._drop(response_id)
        return True

    def _drop_old(self) -> None:
        oldest = self._clock() - self.max_age_s
        while self._entries and next(iter(self._entries.values())).used_at < oldest:
            self._drop(next(iter(self._entries)))

    def _drop(self, response_id: str) -> None:
        entry = self._entries.pop(response_id)
        step: _Step | None = entry.step
        while step is not None:
            step.users -= 1
            if step.users:
                break
            self.size_bytes -= step.size_bytes
            for item in step.items:
                key = (entry.owner, item_id if isinstance(item_id := item.get("id"), str) else "")
                if key in self._items and self._items[key][0] is step:
                    del self._items[key]
            step = step.previous


def _conversation(last: _Step) -> tuple[Item, ...]:
    steps = []
    step: _Step | None = last
    while step is not None:
        steps.append(step.items)
        step = step.previous
    return tuple(item for items in reversed(steps) for item in items)
