"""The second tier of the KV cache: states of sequences in host memory, behind the slots.

What a slot must give up is copied here (`llama_state_seq_get_data`), and copied back when a prompt
begins like it. A radix tree of its own finds it; what has the least value is dropped first. The
memory is the process's own and ends with it; nothing goes to a disk. Checkpoints
(checkpoints.py) are kept in the same memory.

Two threads come here: the one that computes stores and takes out between steps, and `MemoryWatch`
drops states when others need the memory, also while nothing is computed.
"""

import mmap
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from localllm.engine.messages import HostCacheStats
from localllm.engine.worker.kv_cache.radix_tree import RadixTree

MIN_LOST_TOKENS = 16
"""Fewer tokens are computed again."""

_STORE_GAIN = 4
"""A state is stored when computing what would be lost takes so many times what copying all of it
takes: once out, perhaps once back, and not every conversation goes on."""

_FIRST_TOKEN_S = 1e-3
_FIRST_BYTES_PER_S = 1e9
"""Expected before anything was measured."""

_WEIGHT = 0.2
"""Of the newest measurement."""

MIN_GAIN_TOKENS = 32
"""A state is taken out when it has so many tokens more of a prompt than the slots have."""

KEPT_SHARE = 0.9
"""A state of which a prompt goes on with at least this part moves into its slot. Of others a
conversation takes the beginning only: they stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A partial state of a sequence after its first `tokens`, kept as `id` in a HostCache."""

    id: int
    tokens: int


@dataclass(slots=True, kw_only=True)
class State:
    """The state of one sequence, or a checkpoint of one, without tokens. `oldest` is the lowest
    position that it has cells for; the first `repeatable` tokens have the bits that they always
    have; `saves` tokens were nowhere else when it was stored."""

    tokens: list[int]
    cells: mmap.mmap
    oldest: int
    repeatable: int
    saves: int
    checkpoints: tuple[Checkpoint, ...] = ()
    value: float = 0.0
    used: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.cells)


def value(age: float, saved_tokens: int, size_bytes: int) -> float:
    """Return what a state that is used now is worth: the tokens that it saves for each byte, on top
    of what states were worth that had to go before (GreedyDual-Size: Cao and Irani, 1997)."""
    return age + saved_tokens / max(1, size_bytes)


def _allocate(size_bytes: int) -> mmap.mmap:
    """Map memory that is the system's again as soon as it is closed. Raises OSError, ValueError."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size_bytes)
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class HostCache:
    """States of one model's sequences, at most `limit()` bytes of them.

    That of least `value` is dropped first. The age in it is the value of what was dropped last, so
    states that nobody uses lose against newer ones, and of two that are equally old the one goes
    whose tokens take more bytes. Computing a token costs about the same in all states of a model.
    """

    def __init__(self, limit: Callable[[int], int]) -> None:
        """`limit` gives the bytes that states may take, given those that they take now."""
        self._limit = limit
        self._lock = threading.RLock()
        self._tree = RadixTree()
        self._states: dict[int, State] = {}
        self._checkpoints: dict[int, int] = {}
        """How many slots and states have each checkpoint: it is dropped with the last of them."""
        self._next_id = 0
        self._size_bytes = 0
        self._age = 0.0
        self._uses = 0
        self._stored = self._restored = self._evicted = 0
        self._token_s = _FIRST_TOKEN_S
        self._bytes_per_s = _FIRST_BYTES_PER_S
        self.changed = threading.Condition(self._lock)
        """Notified when states are stored or dropped."""
        self._closed = False

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def stats(self) -> HostCacheStats:
        with self._lock:
            return HostCacheStats(
                states=len(self._states) - len(self._checkpoints),
                size_bytes=self._size_bytes,
                limit_bytes=self._limit(self._size_bytes),
                stored=self._stored,
                restored=self._restored,
                evicted=self._evicted,
            )

    def record_step(self, tokens: int, seconds: float) -> None:
        """Measure what computing a token of a prompt costs."""
        if tokens >= MIN_LOST_TOKENS:
            self._token_s += _WEIGHT * (seconds / tokens - self._token_s)

    def is_worth(self, lost: int, size_bytes: int, *, most_tokens: int | None = None) -> bool:
        """Return True when a state is to be stored of which `lost` tokens would be lost, and that
        takes no longer than computing `most_tokens`."""
        copy_s = size_bytes / self._bytes_per_s
        if most_tokens is not None and copy_s > most_tokens * self._token_s:
            return False
        return lost >= MIN_LOST_TOKENS and lost * self._token_s > _STORE_GAIN * copy_s

    def match(self, key: Hashable, tokens: Sequence[int]) -> list[tuple[int, State, int]]:
        """Return states that begin as these tokens do: id, state, and the number of tokens that
        they have in common; most first."""
        with self._lock:
            return [(id_, self._states[id_], n) for id_, n in self._tree.match(key, tokens)]

    def covers(self, key: Hashable, tokens: Sequence[int]) -> bool:
        """Return True when a state has all these tokens, which is then used as if it were stored
        now."""
        with self._lock:
            for _, state, count in self.match(key, tokens):
                if count == len(tokens):
                    self._use(state)
                    return True
            return False

    def store(
        self,
        key: Hashable,
        tokens: Sequence[int],
        size_bytes: int,
        *,
        lost: int,
        oldest: int,
        repeatable: int = 0,
        copy: Callable[[memoryview], bool],
        checkpoints: Sequence[Checkpoint] = (),
    ) -> bool:
        """Store a state of `size_bytes`, which `copy` writes, with checkpoints of its sequence;
        states whose tokens it begins with are dropped for it. `lost` tokens of it are nowhere else.
        Returns False when there is no room, or `copy` fails."""
        with self._lock:
            self.hold_checkpoints(checkpoints)  # those that it takes over are not dropped
            for id_, known, count in self.match(key, tokens) if self._has_room(size_bytes) else ():
                if count == len(known.tokens):
                    lost += known.saves  # they were this one's alone, and will be the new one's
                    self._drop(id_)
            cells = self._copy(size_bytes, copy)
            if cells is None:
                self.release_checkpoints(checkpoints)
                return False
            state = State(
                tokens=list(tokens),
                cells=cells,
                oldest=oldest,
                repeatable=repeatable,
                saves=min(lost, len(tokens)),
                checkpoints=tuple(checkpoints),
            )
            id_, self._next_id = self._next_id, self._next_id + 1
            self._add(id_, key, state)
            self._size_bytes += size_bytes
            self._stored += 1
            self.changed.notify_all()
            return True

    # --- checkpoints ---

    def store_checkpoint(
        self, tokens: int, size_bytes: int, copy: Callable[[memoryview], bool], *, saves: int
    ) -> Checkpoint | None:
        """Store a partial state after so many tokens, which `copy` writes; without it `saves` of
        them would be computed again. Returns None when there is no room, or `copy` fails."""
        with self._lock:
            cells = self._copy(size_bytes, copy)
            if cells is None:
                return None
            id_, self._next_id = self._next_id, self._next_id + 1
            state = State(tokens=[], cells=cells, oldest=0, repeatable=0, saves=saves)
            self._states[id_] = state
            self._use(state)
            self._size_bytes += size_bytes
            self._checkpoints[id_] = 1
            self.changed.notify_all()
            return Checkpoint(id=id_, tokens=tokens)

    def has_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Return True as long as it was not dropped."""
        return checkpoint.id in self._checkpoints

    def read_checkpoint(self, checkpoint: Checkpoint, read: Callable[[memoryview], bool]) -> bool:
        """Let `read` have a checkpoint's state. Returns False when it is not there any more, or
        `read` fails."""
        with self._lock:
            if checkpoint.id not in self._checkpoints:
                return False
            state = self._states[checkpoint.id]
            self._use(state)
            with memoryview(state.cells) as view:
                return read(view)

    def hold_checkpoints(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Keep these until they are released once more."""
        with self._lock:
            for each in checkpoints:
                if each.id in self._checkpoints:
                    self._checkpoints[each.id] += 1

    def release_checkpoints(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Drop those of these that nobody else holds."""
        with self._lock:
            for each in checkpoints:
                if each.id in self._checkpoints:
                    self._checkpoints[each.id] -= 1
                    if not self._checkpoints[each.id]:
                        self._drop(each.id)

    # --- whole states ---

    def restore(self, id_: int, tokens: int, copy: Callable[[State], bool]) -> bool:
        """Let `copy` read a state, of which `tokens` tokens are wanted. It is dropped when that is
        nearly all of it. Returns False when it is not there any more, or `copy` fails."""
        with self._lock:
            state = self._states.pop(id_, None)
            if state is None:
                return False
            # Out of the books while it is read: it is in the way of nothing that is stored now.
            key = self._tree.namespace(id_)
            self._tree.drop(id_)
            done = copy(state)
            if done and tokens < KEPT_SHARE * len(state.tokens):
                self._add(id_, key, state)
            else:
                self._size_bytes -= state.size_bytes
                state.cells.close()
                self.release_checkpoints(state.checkpoints)
            self._restored += done
            return done

    def states(self) -> list[tuple[Hashable, State]]:
        """Return all states with their keys, those of most value first."""
        with self._lock:
            whole = (each for each in self._states.items() if each[0] not in self._checkpoints)
            by_value = sorted(whole, key=lambda item: -item[1].value)
            return [(self._tree.namespace(id_), state) for id_, state in by_value]

    def shrink(self, size_bytes: int) -> int:
        """Drop states until they take at most `size_bytes`. Returns the bytes that are free now."""
        with self._lock:
            before = self._size_bytes
            while self._size_bytes > size_bytes and self._states:
                self._evict_one()
            self.changed.notify_all()
            return before - self._size_bytes

    def wait(self, interval_s: float) -> bool:
        """Wait until there are states, and then so long. Returns False when the cache is closed."""
        with self._lock:
            while not self._states and not self._closed:
                self.changed.wait()
            return not (self._closed or self.changed.wait_for(lambda: self._closed, interval_s))

    def close(self) -> None:
        """Drop everything, and end the threads that wait."""
        with self._lock:
            self._closed = True
            self.shrink(0)
            self.changed.notify_all()

    # --- inside ---

    def _has_room(self, size_bytes: int) -> bool:
        return not self._closed and size_bytes <= self._limit(self._size_bytes)

    def _copy(self, size_bytes: int, copy: Callable[[memoryview], bool]) -> mmap.mmap | None:
        """Make room for so many bytes, which `copy` writes."""
        if not self._has_room(size_bytes):
            return None
        most = self._limit(self._size_bytes) - size_bytes
        self.shrink(most)
        if self._size_bytes > most:  # a large one is just being read
            return None
        try:
            cells = _allocate(size_bytes)
        except (OSError, ValueError, MemoryError):
            return None
        started = time.perf_counter()
        with memoryview(cells) as view:
            copied = copy(view)
        if not copied:
            cells.close()
            return None
        rate = size_bytes / max(time.perf_counter() - started, 1e-6)
        self._bytes_per_s += _WEIGHT * (rate - self._bytes_per_s)
        return cells

    def _add(self, id_: int, key: Hashable, state: State) -> None:
        self._states[id_] = state
        self._tree.insert(id_, key, state.tokens)
        self._use(state)

    def _use(self, state: State) -> None:
        self._uses += 1
        state.used = self._uses
        state.value = value(self._age, state.saves, state.size_bytes)

    def _evict_one(self) -> None:
        states = self._states
        id_ = min(states, key=lambda each: (states[each].value, states[each].used))
        self._age = self._states[id_].value
        self._evicted += 1
        self._drop(id_)

    def _drop(self, id_: int) -> None:
        state = self._states.pop(id_)
        self._tree.drop(id_)
        self._checkpoints.pop(id_, None)
        self._size_bytes -= state.size_bytes
        state.cells.close()
        self.release_checkpoints(state.checkpoints)
