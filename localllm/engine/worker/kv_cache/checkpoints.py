"""Checkpoints: partial states of the slots of a model that cannot go back, each at a position where
a later prompt is likely to part from what its slot holds.

A recurrent state is that of its newest position, and cells that have left a sliding window are used
again: such a slot continues at its end or, with a window, a little before. With a checkpoint it
goes back to where that was taken, and only what comes after is computed again. The states
themselves are in the HostCache, whose limit they count against, and which may drop them at any
time.
"""

from collections.abc import Sequence

from localllm.engine.worker.kv_cache.host_cache import Checkpoint, HostCache
from localllm.engine.worker.kv_cache.memory_kind import MemoryKind
from localllm.engine.worker.llama.model import Model

MAX_CHECKPOINTS = 8
"""Of one slot: beside the end of the system prompt the ends of the last few turns, and fewer and
fewer of those before."""

MIN_GAP_TOKENS = 16
"""Fewer tokens are computed again."""


def least_useful(positions: Sequence[int]) -> int:
    """Return the index of the checkpoint to drop, of three or more in rising order: never the first
    nor the last. The others are the closer together the later they are: an edit goes back a turn or
    two more often than ten.
    """
    end = positions[-1]

    def gap(i: int) -> float:
        return (positions[i + 1] - positions[i - 1]) / (end - positions[i])

    return min(range(1, len(positions) - 1), key=gap)


class Checkpoints:
    """The checkpoints of every slot, by rising position. All of a slot's are of tokens that it has.

    There are none without a HostCache, nor for a model that can always go back.
    """

    def __init__(self, model: Model, memory: MemoryKind, host: HostCache | None) -> None:
        self._model = model
        self._memory = memory
        self._host = host if memory.keeps_checkpoints else None
        self._slots: dict[int, list[Checkpoint]] = {}
        self._size_bytes = 0

    def of(self, slot: int) -> list[Checkpoint]:
        """Return those of a slot that are still there."""
        host = self._host
        if host is None:
            return []
        found = [each for each in self._slots.get(slot, ()) if host.has_checkpoint(each)]
        self._slots[slot] = found
        return found

    @staticmethod
    def continuable(checkpoints: Sequence[Checkpoint], tokens: int) -> int:
        """Return the last position up to `tokens` at which one of these lets a sequence continue;
        0 for none."""
        return max((each.tokens for each in checkpoints if each.tokens <= tokens), default=0)

    def position(self, slot: int, tokens: int) -> int:
        """Return the last position up to `tokens` at which `slot` can continue with a checkpoint;
        0 for none."""
        return self.continuable(self.of(slot), tokens)

    # --- taking them ---

    def is_wanted(self, slot: int, position: int) -> bool:
        """Return True when a checkpoint is worth taking there: with those that there are, many more
        tokens would be computed again."""
        if self._host is None:
            return False
        self._size_bytes = max(self._size_bytes, self._model.partial_state_bytes(slot))
        gap = position - self.position(slot, position)
        return gap >= MIN_GAP_TOKENS and self._host.is_worth(gap, self._size_bytes)

    def chunk_end(self, slot: int, start: int, positions: Sequence[int]) -> int | None:
        """Return where a chunk of a prompt that begins at `start` must end for a checkpoint."""
        if self._host is None:
            return None
        later = (each for each in positions if each > start and self.is_wanted(slot, each))
        return next(later, None)

    def take(self, slot: int, tokens: int) -> None:
        """Take a checkpoint of `slot`, which has so many tokens, when it is wanted there."""
        if self._host is None or not self.is_wanted(slot, tokens):
            return
        checkpoint = self._host.store_checkpoint(
            tokens,
            self._model.partial_state_bytes(slot),
            lambda state: self._model.copy_partial_state(slot, state),
            saves=tokens - self.position(slot, tokens),
        )
        if checkpoint is None:
            return
        held = self.of(slot)
        held.append(checkpoint)
        if len(held) > MAX_CHECKPOINTS:
            dropped = held.pop(least_useful([each.tokens for each in held]))
            self._host.release_checkpoints([dropped])

    def hold(self, slot: int, checkpoints: Sequence[Checkpoint]) -> None:
        """Let a slot that has none have those of a state that was put in it."""
        if self._host is not None:
            self._slots[slot] = list(checkpoints)
            self._host.hold_checkpoints(checkpoints)

    # --- going back ---

    def restore(self, slot: int, tokens: int) -> int:
        """Take `slot` back to the last position up to `tokens` that a checkpoint allows. Returns
        it; 0, with the slot as it was or empty, when there is none."""
        host = self._host
        for each in reversed(self.of(slot)):
            position = each.tokens
            if host is None or position > tokens:
                continue
            if self._model.newest_position(slot) < position - 1:  # lost, or moved on too far
                return 0

            def put(state: memoryview, position: int = position) -> bool:
                return self._model.put_partial_state(slot, position, state)

            self._memory.drop_snapshots(slot)
            restored = host.read_checkpoint(each, put)
            if restored and self._memory.can_continue_at(slot, position):
                self.cut(slot, position)
                return position
            if restored or self._model.newest_position(slot) < 0:
                break
        return 0

    def cut(self, slot: int, tokens: int) -> None:
        """Drop what is of no use when only the first `tokens` of a slot are kept."""
        held = self._slots.get(slot)
        if self._host is None or not held:
            return
        self._slots[slot] = [each for each in held if each.tokens <= tokens]
        self._host.release_checkpoints([each for each in held if each.tokens > tokens])

    def exchange(self, one: int, other: int) -> None:
        """Give each of two slots the other's."""
        slots = self._slots
        slots[one], slots[other] = slots.get(other, []), slots.get(one, [])
