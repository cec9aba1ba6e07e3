"""Kinds of memory: how the cells of a cache can be cut, copied and shared.

llama.cpp has one interface for every cache (`llama_memory_seq_rm`, `_seq_cp`). What it can do
depends on the model's layers, and on whether the slots have their cells in one pool (`kv_unified`)
or in a stream each. The KvCache keeps the books and leaves the differences to its MemoryKind:

    kind              layers              cells      continues at           shares with other slots
    UnifiedMemory     full attention      one pool   any position           at once, without a copy
    StreamMemory      attention           streams    any within the window  by a copy, a batch later
    WindowMemory      sliding window      one pool   any within the window  nothing
    RecurrentMemory   recurrent, hybrid   either     its newest position,   nothing
                                                     or before drafts

Where the last three cannot continue, a partial state that was kept may help (checkpoints.py).

Slots are sequence ids of llama.cpp. A cut or a copy that its memory cannot do may end the process
in an assertion, so each first looks at the positions that llama.cpp has for the slot.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.placement import Candidate, choose, neighbours, seat_beside
from localllm.engine.worker.kv_cache.radix_tree import (
    COPIED_CELLS,
    MIN_SHARED_TOKENS,
    UNUSED_TOKENS,
    RadixTree,
)
from localllm.engine.worker.llama.lora import LoraKey
from localllm.engine.worker.llama.model import Model

MAX_EXCHANGED_BYTES = 32 * 2**20
"""Cells are exchanged between two slots while that takes less time than one pass more does, which
every token of the answer would need: out and in again, at some GB/s, some ten milliseconds."""

Matches = Mapping[int, int]
"""Slots that hold a beginning of a prompt, and how many tokens of it: most first."""


def memory_kind(model: Model) -> "MemoryKind":
    """Choose the kind of memory that a loaded model has."""
    if model.is_recurrent:
        return RecurrentMemory(model)
    if not model.unified_cache:
        return StreamMemory(model)
    return WindowMemory(model) if model.window else UnifiedMemory(model)


class MemoryKind(ABC):
    """The operations on slots in which kinds of memory differ."""

    can_share: bool
    """True when a slot can be given what another one has computed."""
    can_rewind: bool = True
    """True when any number of tokens at the end can be taken back: a batch that was interrupted."""
    can_reject_drafts: bool = True
    """True when tokens at the end of the newest batch can be taken back, but for its first."""
    repeats: bool = True
    """True when cells that are kept have the bits, and stand in the order, of cells that are
    computed afresh."""
    min_gain: int = 1
    """Tokens that another slot must have more than one's own to be shared from."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._window = model.window
        if self._window:  # a cell that has left the window is used again: their order is another
            self.repeats = False

    @property
    def slots(self) -> int:
        """Sequence ids that can hold cells; the first `parallel` of them can be in a batch."""
        return self._model.settings.parallel

    @property
    def keeps_checkpoints(self) -> bool:
        """True when there are positions at which a slot can continue only with a partial state."""
        load = self._model.settings
        return 0 < self._window < self._model.cells_per_sequence and not load.swa_full

    # --- cells ---

    def can_cut(self, slot: int, tokens: int) -> bool:
        """Return True when `truncate` can remove what comes after the first `tokens`."""
        return tokens == 0 or self.can_continue_at(slot, tokens)

    def drop_snapshots(self, slot: int) -> None:  # noqa: B027
        """Take nothing back of the newest batch of `slot`, whose state was replaced."""

    def begin_batch(self, tokens: Mapping[int, int]) -> None:  # noqa: B027  # nothing, mostly
        """Record that a batch is about to append so many tokens to these slots."""

    def abandon_batch(self, slots: Iterable[int]) -> None:  # noqa: B027
        """Give up what these slots hold where a batch that was aborted has spoiled it."""

    def truncate(self, slot: int, tokens: int) -> bool:
        """Remove the cells of `slot` after its first `tokens`. Returns False, and leaves the slot
        empty, when this memory cannot be cut there."""
        continues = tokens > 0 and self.can_continue_at(slot, tokens)
        if continues and self._model.remove_cells(slot, tokens):
            return True
        self._model.remove_cells(slot)
        return tokens == 0

    @abstractmethod
    def share(self, source: int, slot: int, tokens: int) -> bool:
        """Give `slot`, instead of what it holds, the first `tokens` cells of `source`. Returns
        False, and leaves the slot empty, when that cannot be done."""

    def deduplicate(self, slot: int, source: int, start: int, end: int) -> bool:
        """Let `slot` use the cells of `source` for these positions, whose tokens are the same, and
        free its own. Returns False when nothing can be shared at once."""
        return False

    def can_continue_at(self, slot: int, tokens: int) -> bool:
        """Return True when every cell that position `tokens` attends to is still there.

        A slot has every position from its oldest to its newest (llama_kv_cache::apply_ubatch sees
        to that), and position p attends to p - window + 1 and later ones.
        """
        oldest = self._model.oldest_position(slot)
        newest = self._model.newest_position(slot)
        return self.continues(tokens, oldest=oldest, newest=newest)

    def continues(self, tokens: int, *, oldest: int, newest: int) -> bool:
        """Return True when a sequence that has these positions can be continued after its first
        `tokens`."""
        needed = max(0, tokens - self._window + 1) if self._window else 0
        return 0 <= oldest <= needed and newest >= tokens - 1

    @contextmanager
    def readable(self, slot: int, empty: int | None) -> Iterator[int | None]:
        """Give a slot whose state can be read and is that of `slot`; None when there is none.
        `empty` is a slot that holds nothing."""
        yield slot

    # --- which slot to use ---

    @abstractmethod
    def tree_key(self, lora_key: LoraKey, slot: int) -> Hashable:
        """Name the radix tree that `slot` is in: slots that share cells share a tree."""

    @abstractmethod
    def tree_keys(self, lora_key: LoraKey, idle: Collection[int]) -> Iterable[Hashable]:
        """Name the radix trees in which a prompt may find its beginning."""

    def usable(self, matches: Iterable[tuple[int, int]]) -> dict[int, int]:
        """Keep those matches whose cells can be continued."""
        return {slot: tokens for slot, tokens in matches if self.can_continue_at(slot, tokens)}

    @abstractmethod
    def choose_slot(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> int:
        """Choose the idle slot (there must be one) in which a prompt with these matches runs."""

    def place(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> tuple[int, int]:
        """Choose the idle slot for a prompt, and the slot whose cells it goes on with: its own, or
        those of one that has `min_gain` tokens more."""
        slot = self.choose_slot(matches, idle, running, tree)
        best = next(iter(matches), slot)
        gain = matches.get(best, 0) - matches.get(slot, 0)
        return slot, best if gain >= self.min_gain else slot

    def seat(self, slot: int, idle: Collection[int], running: Collection[int]) -> int:
        """Return the idle slot in which what is in `slot` had better run; itself, mostly."""
        return slot

    def exchange(self, one: int, other: int) -> bool:
        """Give each of two slots the other's cells; one that they could not be put in is empty.
        Returns False, and changes nothing, when that cannot be done or costs too much."""
        return False

    def place_to_read(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> tuple[int, int] | None:
        """Choose as `place` does, for cells that are read before the next batch. None: there are
        none."""
        return self.place(matches, idle, running, tree) if matches else None

    # --- freeing cells ---
    # Both cut the tree and return the slots that were cut, each with its new length.

    def evict(self, tree: RadixTree, needed: int, idle: Collection[int]) -> dict[int, int]:
        """Free cells of idle slots, least recently used first, until `needed` are free. Returns
        nothing when that would not help whoever needs them."""
        return {}

    def expire(self, tree: RadixTree) -> dict[int, int]:
        """Free cells that only cost time."""
        return {}

    def redundant(self, tree: RadixTree, slots: Iterable[int]) -> Iterator[int]:
        """Yield those of these slots that hold nothing of their own and may be emptied."""
        return iter(())


class _SharingMemory(MemoryKind):
    """Slots of the same adapters share cells, and so a radix tree."""

    can_share = True

    def share(self, source: int, slot: int, tokens: int) -> bool:
        self._model.remove_cells(slot)
        if not self.can_continue_at(source, tokens):
            return False
        self._copy(source, slot, tokens)
        return True

    @abstractmethod
    def _copy(self, source: int, slot: int, tokens: int) -> None: ...

    def tree_key(self, lora_key: LoraKey, slot: int) -> Hashable:
        return lora_key

    def tree_keys(self, lora_key: LoraKey, idle: Collection[int]) -> Iterable[Hashable]:
        return (lora_key,)


class UnifiedMemory(_SharingMemory):
    """Cells in one pool; each stays until the last slot that shares it drops it.

    It has more slots than can run: a spare one holds what an idle slot must give up. They cost
    nothing: `llama_kv_cache::seq_to_stream` has LLAMA_MAX_SEQ entries, whatever `n_seq_max` is.
    Only the batch and a written state (`llama_kv_cache::state_write_meta`) know no more than that.
    """

    @property
    def slots(self) -> int:
        return int(llama.llama_max_parallel_sequences())

    def _copy(self, source: int, slot: int, tokens: int) -> None:
        self._model.copy_cells(source, slot, 0, tokens)

    def deduplicate(self, slot: int, source: int, start: int, end: int) -> bool:
        self._model.remove_cells(slot, start, end)
        self._model.copy_cells(source, slot, start, end)
        return True

    @contextmanager
    def readable(self, slot: int, empty: int | None) -> Iterator[int | None]:
        """Let the first slot have the cells for a moment where `slot` is a spare one: llama.cpp
        writes states of the others only. Nothing is copied."""
        if slot < self._model.settings.parallel:
            yield slot
            return
        if empty is None:
            yield None
            return
        self._model.copy_cells(0, empty, 0, -1)
        self._model.remove_cells(0)
        self._model.copy_cells(slot, 0, 0, -1)
        try:
            yield 0
        finally:
            self._model.remove_cells(0)
            self._model.copy_cells(empty, 0, 0, -1)
            self._model.remove_cells(empty)

    def usable(self, matches: Iterable[tuple[int, int]]) -> dict[int, int]:
        return dict(matches)  # nothing leaves this memory behind the books' back

    def choose_slot(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> int:
        """Choose the one that goes on with all that it holds, or else the least recently used:
        whatever another slot holds costs nothing to share."""
        best = max(idle, key=lambda slot: matches.get(slot, 0))
        if 0 < matches.get(best, 0) == tree.length(best):
            return best
        return _least_recently_used(idle, tree)

    def evict(self, tree: RadixTree, needed: int, idle: Collection[int]) -> dict[int, int]:
        return tree.evict(needed - (self._model.cells - tree.cells))

    def expire(self, tree: RadixTree) -> dict[int, int]:
        return tree.expire(UNUSED_TOKENS)  # cells of others are masked, but passed over each time

    def redundant(self, tree: RadixTree, slots: Iterable[int]) -> Iterator[int]:
        return (slot for slot in slots if tree.length(slot) and tree.redundant(slot))


class StreamMemory(_SharingMemory):
    """A stream of cells for each slot; what another one has is copied.

    llama.cpp copies a stream whole, with the next batch. Slots that follow each other are computed
    in one go (llama_batch_allocr::split_equal), so of equal ones that beside a running one is best.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.min_gain = max(MIN_SHARED_TOKENS, model.cells_per_sequence // COPIED_CELLS)

    def _copy(self, source: int, slot: int, tokens: int) -> None:
        self._model.copy_stream(source, slot)
        self._model.remove_cells(slot, tokens)

    def choose_slot(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> int:
        """Choose its own slot for a conversation that goes on, for others one that loses nothing
        or was used least recently (`placement.choose`)."""
        candidates = _candidates(matches, idle, running, tree)
        return choose(candidates, max(matches.values(), default=0), self.min_gain)

    def seat(self, slot: int, idle: Collection[int], running: Collection[int]) -> int:
        return seat_beside(slot, idle, running)

    def exchange(self, one: int, other: int) -> bool:
        model = self._model
        states = [(one, other), (other, one)]
        if any(model.has_pending_copy(slot) for slot, _ in states):
            return False
        if sum(model.state_bytes(slot) for slot, _ in states) > MAX_EXCHANGED_BYTES:
            return False
        read = []
        for source, slot in states:
            cells = memoryview(bytearray(model.state_bytes(source)))
            if not model.copy_state(source, cells):
                return False
            read.append((slot, model.newest_position(source) + 1, cells))
        for slot, tokens, cells in read:
            model.remove_cells(slot)
            if tokens:
                model.put_state(slot, tokens, cells)
        return True

    def place_to_read(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> tuple[int, int] | None:
        best = next((slot for slot in matches if slot in idle), None)  # a copy would come too late
        return None if best is None else (best, best)


class _UnsharedMemory(MemoryKind):
    """Slots that share nothing: each has a radix tree of its own."""

    can_share = False

    def share(self, source: int, slot: int, tokens: int) -> bool:
        self._model.remove_cells(slot)
        return False

    def tree_key(self, lora_key: LoraKey, slot: int) -> Hashable:
        return (lora_key, slot)

    def tree_keys(self, lora_key: LoraKey, idle: Collection[int]) -> Iterable[Hashable]:
        return [(lora_key, slot) for slot in idle]

    def choose_slot(
        self, matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
    ) -> int:
        """Choose one that loses nothing or was used least recently, or that which holds most of the
        prompt where what is lost there is less than what would be computed elsewhere."""
        candidates = _candidates(matches, idle, running, tree)
        return choose(candidates, max(matches.values(), default=0), self._model.cells)

    def evict(self, tree: RadixTree, needed: int, idle: Collection[int]) -> dict[int, int]:
        """Empty the slot that was used least recently."""
        holding = [slot for slot in idle if tree.length(slot)]
        if not holding or not self._model.unified_cache:  # a stream's cells help nobody else
            return {}
        slot = _least_recently_used(holding, tree)
        tree.cut(slot, 0)
        return {slot: 0}


class WindowMemory(_UnsharedMemory):
    """Cells with a sliding window in one pool.

    llama.cpp uses a cell that has left the window again only when it belongs to one sequence alone
    (llama_kv_cache::find_slot): shared beginnings would stay in the pool, and in the way.
    """


class RecurrentMemory(_UnsharedMemory):
    """A state for each slot, that of its newest position (in a hybrid model beside the cells of its
    attention layers).

    Some architectures keep snapshots: the states after the last few tokens of the newest batch,
    its first included, but not the state before it. llama.cpp takes back what it has a snapshot
    for, once between two batches; it believes that a batch was long enough
    (llama_memory_recurrent::seq_rm), so that is looked after here.
    """

    can_rewind = False
    repeats = False

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.can_reject_drafts = model.snapshots > 0
        self._batch: dict[int, int] = {}
        """Tokens that the newest batch has of each slot whose snapshots are still unused."""

    def begin_batch(self, tokens: Mapping[int, int]) -> None:
        # A slot that is not in this batch may be moved by it, without its snapshots.
        self._batch = dict(tokens)

    def abandon_batch(self, slots: Iterable[int]) -> None:
        for slot in slots:  # llama_decode has taken the batch back as if it had snapshots of it
            self._model.remove_cells(slot)

    @property
    def keeps_checkpoints(self) -> bool:
        # Whether a partial state is right beside snapshots of it was not tested.
        return not self._model.snapshots

    def can_cut(self, slot: int, tokens: int) -> bool:
        return super().can_cut(slot, tokens) or self._has_snapshot(slot, tokens)

    def drop_snapshots(self, slot: int) -> None:
        self._batch.pop(slot, None)

    def _has_snapshot(self, slot: int, tokens: int) -> bool:
        most = min(self._model.snapshots, self._batch.get(slot, 0) - 1)
        return tokens > 0 and 0 < self._model.newest_position(slot) + 1 - tokens <= most

    def truncate(self, slot: int, tokens: int) -> bool:
        has_snapshot = self._has_snapshot(slot, tokens)
        self.drop_snapshots(slot)
        if has_snapshot and self._model.remove_cells(slot, tokens):
            return True
        return super().truncate(slot, tokens)

    def continues(self, tokens: int, *, oldest: int, newest: int) -> bool:
        return newest == tokens - 1


def _least_recently_used(slots: Iterable[int], tree: RadixTree) -> int:
    return min(slots, key=lambda slot: (tree.last_used(slot), slot))


def _candidates(
    matches: Matches, idle: Collection[int], running: Collection[int], tree: RadixTree
) -> list[Candidate]:
    return [
        Candidate(
            slot=slot,
            matched=matches.get(slot, 0),
            held=tree.length(slot),
            unshared=tree.unshared(slot),
            last_used=tree.last_used(slot),
            neighbours=neighbours(running, slot),
        )
        for slot in idle
    ]
