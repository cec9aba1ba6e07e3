"""The KV cache's cells: what each sequence of llama.cpp holds of them, and who may use it again.

The scheduler runs requests; here it is known which tokens every sequence's cells stand for, so that
a prompt which begins like an earlier or a running one does not compute that beginning again.
What may be used again is decided in `prefix.py`, without llama.cpp.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

from localllm.engine.worker.kv_cache.radix_tree import (
    COPIED_CELLS,
    MIN_SHARED_TOKENS,
    UNUSED_TOKENS,
    RadixTree,
)
from localllm.engine.worker.llama.model import Model


class Cells:
    """Slots, the sequence ids that can run, and shelves, those that can only hold.

    An idle slot remembers the last request that ran in it. When the slot is needed for another
    one, that moves to a shelf, and stays until its cells are needed or the shelf is. Only a plain
    cache has shelves (`Model.sequences`).

    A *space* keeps apart what cannot be shared although its tokens are the same, such as what
    different LoRA adapters computed; () is the model's own.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tree = RadixTree()
        self._held: dict[int, list[int]] = {slot: [] for slot in range(model.sequences)}
        self._idle = set(range(model.settings.parallel))
        self._running: set[int] = set()
        self._shelves = range(model.settings.parallel, model.sequences)
        self._spaces: dict[int, Hashable] = {}

    @property
    def idle(self) -> Collection[int]:
        """Slots that run nothing."""
        return self._idle

    @property
    def held(self) -> Mapping[int, Sequence[int]]:
        """The tokens of every slot's and shelf's cells, by position."""
        return self._held

    @property
    def used(self) -> int:
        """Cells that hold something, those that slots have in common counted once."""
        if not self._model.pooled:
            return sum(map(len, self._held.values()))
        fresh = sum(self.count(slot) - self._tree.length(slot) for slot in self._running)
        return self._tree.cells + fresh

    def count(self, slot: int) -> int:
        """How many tokens are computed in this slot: the position of the next one."""
        return len(self._held[slot])

    # --- a request comes, grows, goes ---

    def take(self, prompt: list[int], space: Hashable = ()) -> int:
        """Give a prompt an idle slot (there must be one) that holds as much of its beginning as
        can be used again; `count` says how much. Its last token is always computed again."""
        found = self._usable(prompt, space)
        return self._occupy(self._choose(found), found, prompt, space)

    def _occupy(self, slot: int, found: dict[int, int], prompt: list[int], space: Hashable) -> int:
        source = next(iter(found), slot)  # who has most
        if source != slot and found[source] < found.get(slot, 0) + self.least_gain:
            source = slot
        if source != slot or found.get(slot, 0) < self.count(slot):
            shelf = self._shelve(slot, source)
            if source == slot and shelf is not None:
                source, found[shelf] = shelf, found.get(slot, 0)
        self._idle.remove(slot)
        self._running.add(slot)
        self._tree.pin(slot)
        self._spaces[slot] = space
        self._fill(slot, prompt[: found.get(source, 0)], source)
        return slot

    def catch_up(self, slot: int, prompt: list[int]) -> bool:
        """Share what another slot has computed of this prompt since it was taken. False when
        that is nothing or too little."""
        found = self._usable(prompt, self._spaces[slot])
        source = next(iter(found), slot)
        if found.get(source, 0) - self.count(slot) < max(MIN_SHARED_TOKENS, self.least_gain):
            return False
        self._fill(slot, prompt[: found[source]], source)
        return True

    def copy(self, source: int, slot: int) -> bool:
        """Share all of what another slot holds. False, and an empty slot, when that cannot be."""
        self._settle()
        self._fill(slot, list(self._held[source]), source)
        return bool(self._held[slot])

    def grow(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that these tokens have been computed in `slot`, after those it holds."""
        self._held[slot] += tokens
        self._tree.tick(len(tokens))

    def cut(self, slot: int, tokens: int) -> bool:
        """Keep the first `tokens` alone, and nothing of a batch that was not computed to its end.
        False, and an empty slot, when this kind of memory cannot be cut there."""
        kept = self._model.keep(slot, tokens)
        self._shorten(slot, tokens if kept else 0)
        return kept

    def give_back(self, slot: int) -> None:
        """Let `slot` be idle; its cells stay for a prompt that begins the same way."""
        self._settle()
        self._tree.unpin(slot)
        self._running.remove(slot)
        self._idle.add(slot)
        if self._model.plain:
            self._apply(self._tree.expire(UNUSED_TOKENS))

    def recall(self, tokens: list[int], space: Hashable = ()) -> int | None:
        """Let an idle slot hold as much of the beginning of `tokens` as the cache has: which one.
        It is taken until it is given back. None: there is no idle one, or nothing to hold."""
        wanted = [*tokens, 0]  # the last is left out
        found = self._usable(wanted, space)
        if not self._model.pooled:  # what is copied from another slot comes with the next batch
            found = {slot: count for slot, count in found.items() if slot in self._idle}
        if not self._idle or not found:
            return None
        slot = self._choose(found) if self._model.pooled else next(iter(found))
        return self._occupy(slot, found, wanted, space)

    def bring(
        self, tokens: Sequence[int], restore: Callable[[int], bool], space: Hashable = ()
    ) -> bool:
        """Remember a sequence that was computed earlier: `restore` puts its cells in the slot it
        is given. False when no slot is idle, or `restore` fails with all the room there is."""
        if not self._idle:
            return False
        slot = min(self._idle, key=lambda slot: (self._tree.used(slot), slot))
        self._shelve(slot)
        self._idle.remove(slot)
        self._running.add(slot)
        self._tree.pin(slot)
        self._spaces[slot] = space
        self._fill(slot, [], slot)
        while not (done := restore(slot)) and self.evict(len(tokens)):
            pass
        if done:
            self.grow(slot, tokens)
        self.give_back(slot)
        return done

    def forget(self, slot: int) -> None:
        self.cut(slot, 0)

    # --- room ---

    def evict(self, needed: int) -> bool:
        """Forget of what idle slots remember, least recently used first, as much as it takes to
        have `needed` cells. False: they hold nothing that helps."""
        if not self._model.pooled:
            return False
        self._settle()
        if self._model.plain:
            missing = needed - (self._model.cells - self.used)
            return self._apply(self._tree.evict(missing))
        remembered = [slot for slot in self._idle if self._held[slot]]
        if remembered:
            self.forget(min(remembered, key=self._tree.used))
        return bool(remembered)

    # --- which slot ---

    @property
    def least_gain(self) -> int:
        """Tokens that another slot must have more than one's own to be shared from: what is not
        pooled is copied."""
        if self._model.pooled:
            return 1
        return max(MIN_SHARED_TOKENS, self._model.cells_each // COPIED_CELLS)

    def _usable(self, prompt: list[int], space: Hashable) -> dict[int, int]:
        """Slots that hold a beginning of this prompt which can be used, and how many tokens of
        it: most first."""
        self._settle()
        wanted = prompt[:-1]
        if self._model.shares:
            found = self._tree.match(self._key(0, space), wanted)
        else:
            keys = {slot: self._key(slot, space) for slot in self._idle}
            found = [each for key in keys.values() for each in self._tree.match(key, wanted)]
            found.sort(key=lambda each: each[1], reverse=True)
        if self._model.plain:  # whatever the books say is there
            return dict(found)
        return {slot: n for slot, n in found if self._model.can_continue_at(slot, n)}

    def _choose(self, found: dict[int, int]) -> int:
        """The idle slot to run in: one that goes on with all that it holds; an empty one, where
        cells are shared freely; one that loses less than half of what it holds; one that holds
        nothing of its own; the one used least recently. What must be next to another one to be
        computed together with it is."""
        near = self._near() if self._model.shares else self._idle
        own = max(near, key=lambda slot: found.get(slot, 0))
        tokens = found.get(own, 0)
        if tokens and (tokens == self.count(own) or not self._model.shares):
            return own
        if self._model.plain:
            return min(near, key=lambda slot: (self._tree.used(slot), slot))
        if tokens >= MIN_SHARED_TOKENS and 2 * tokens >= self.count(own):
            return own
        near = self._near()
        return min(near, key=lambda s: (not self._tree.redundant(s), self._tree.used(s), s))

    def _near(self) -> Collection[int]:
        """The idle slots that would be computed in one go with others that run: where each has
        cells of its own, those between two of them, or else those beside one."""
        if self._model.pooled:
            return self._idle
        beside = {slot: {slot - 1, slot + 1} & self._running for slot in self._idle}
        most = max(map(len, beside.values()))
        return [slot for slot, others in beside.items() if len(others) == most]

    def _key(self, slot: int, space: Hashable) -> Hashable:
        """Where slots cannot share, each has a tree of its own."""
        return space if self._model.shares else (space, slot)

    # --- books and cells ---

    def _fill(self, slot: int, tokens: list[int], source: int) -> None:
        """Let `slot` hold these tokens, which `source` begins with."""
        if source == slot:
            kept = self._model.keep(slot, len(tokens))
        else:
            kept = self._model.share(source, slot, len(tokens))
        self._held[slot] = tokens if kept else []
        self._tree.hold(slot, self._key(slot, self._spaces[slot]), self._held[slot])

    def _shorten(self, slot: int, tokens: int) -> None:
        del self._held[slot][tokens:]
        if tokens < self._tree.length(slot):
            self._tree.cut(slot, tokens)

    def _settle(self) -> None:
        """Put what running slots have computed into the tree. Cells that another one has for the
        same tokens are given up for those."""
        for slot in self._running:
            held, known = self._held[slot], self._tree.length(slot)
            if len(held) == known:
                continue
            twice = self._tree.extend(slot, held[known:])
            if twice is not None and self._model.plain:
                source, count = twice
                self._model.replace(slot, source, known, known + count)

    def _shelve(self, slot: int, source: int | None = None) -> int | None:
        """Move what `slot` holds to a shelf, but not to `source`: an empty one, or that used least
        recently if that was before the slot was. None: there is no such shelf, or others hold all
        of it too."""
        shelf = min((s for s in self._shelves if s != source), key=self._tree.used, default=None)
        if shelf is None or self._tree.redundant(slot):
            return None
        if self._tree.used(shelf) > self._tree.used(slot):
            return None
        self.forget(shelf)
        self._model.share(slot, shelf, self.count(slot))
        self._tree.rename(slot, shelf)
        self._held[shelf], self._held[slot] = self._held[slot], []
        return shelf

    def _apply(self, cuts: dict[int, int]) -> bool:
        """Do to llama.cpp what the tree has done, and empty idle slots and shelves that hold
        nothing of their own. False when nothing was cut."""
        for holder, tokens in cuts.items():
            self._model.keep(holder, tokens)
            del self._held[holder][tokens:]
        for holder in (*self._idle, *self._shelves):
            if self._held[holder] and self._tree.redundant(holder):
                self.forget(holder)
        return bool(cuts)
