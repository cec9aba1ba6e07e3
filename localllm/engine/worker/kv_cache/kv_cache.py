"""The KV cache: which tokens the cells of every slot stand for, so that a prompt which begins like
an earlier or a running one does not compute that beginning again.

This module keeps the books, radix_tree.py finds common beginnings and decides what to evict (pure),
memory_kind.py knows what llama.cpp can do with the cells of this model, and host_cache.py keeps in
host memory what the slots must give up.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from localllm.engine.messages import CacheReuse
from localllm.engine.worker.kv_cache.checkpoints import Checkpoints
from localllm.engine.worker.kv_cache.chunking import FixedChunks
from localllm.engine.worker.kv_cache.host_cache import (
    MIN_GAIN_TOKENS,
    MIN_LOST_TOKENS,
    Checkpoint,
    HostCache,
    State,
)
from localllm.engine.worker.kv_cache.memory_kind import MemoryKind, memory_kind
from localllm.engine.worker.kv_cache.radix_tree import MIN_SHARED_TOKENS, RadixTree
from localllm.engine.worker.llama.lora import LoraKey
from localllm.engine.worker.llama.model import Model


class KvCache:
    """Slots, which are sequence ids of llama.cpp, and the tokens of their cells.

        idle ----acquire----> running ----release----> idle

    An idle slot still has the cells of the last request that ran in it. When it is acquired for
    another one, these move to a spare slot, which never runs, until their cells are needed or the
    spare slot is. Only a unified cache has spare slots (`MemoryKind.slots`).

    Slots of different `LoraKey`s share nothing: the same tokens are other cells.

    What no slot can keep is copied to `host`, the second tier, if there is one, and back when a
    prompt begins like it. What has positions of images is not: they are no tokens.
    """

    def __init__(self, model: Model, host: HostCache | None = None) -> None:
        self.memory: MemoryKind = memory_kind(model)
        parallel, slots = model.settings.parallel, self.memory.slots
        self.host = host
        self._model = model
        self._checkpoints = Checkpoints(model, self.memory, host)
        self._tree = RadixTree()
        self._tokens: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self._idle = set(range(parallel))
        self._running: set[int] = set()
        self._spare = range(parallel, slots)
        self._lora_keys: dict[int, LoraKey] = {}
        self._reuse: dict[int, CacheReuse] = {}
        self.chunks = FixedChunks(model.fixed_chunk_tokens)
        self._repeatable = dict.fromkeys(range(slots), 0)
        """Tokens at the beginning of each slot whose cells have the bits that they always have, as
        far as the slot still holds them."""
        self._one_pool = model.unified_cache

    @property
    def idle(self) -> Collection[int]:
        """Slots in which nothing runs."""
        return self._idle

    @property
    def tokens(self) -> Mapping[int, Sequence[int]]:
        """The tokens of every slot's cells, by position."""
        return self._tokens

    @property
    def used_cells(self) -> int:
        """Cells in use, those that slots share counted once."""
        fresh = sum(self.length(slot) - self._tree.length(slot) for slot in self._running)
        return self._tree.cells + fresh

    def length(self, slot: int) -> int:
        """The number of tokens that are computed in this slot: the position of the next one."""
        return len(self._tokens[slot])

    def reuse(self, slot: int) -> CacheReuse:
        """Where the tokens came from that the request in this slot did not compute."""
        return self._reuse.get(slot, CacheReuse())

    def held(self, prompt: Sequence[int], lora_key: LoraKey) -> dict[int, int]:
        """Return how much of the beginning of a prompt every slot has, whether it can be continued
        there or not."""
        self._sync()
        keys = self.memory.tree_keys(lora_key, self._tokens)
        return {slot: length for key in keys for slot, length in self._tree.match(key, prompt)}

    def matched(self, prompt: Sequence[int], lora_key: LoraKey = ()) -> int:
        """Return how many tokens of a prompt's beginning some slot or the second tier has. Changes
        nothing; what is being computed in this moment is left out."""
        found = next(iter(self._slots_with(prompt, lora_key, goes_back=True).values()), 0)
        if self.host is not None:
            stored = self.host.match(lora_key, prompt[:-1])
            found = max(found, *(tokens for _, _, tokens in stored[:1]), 0)
        return found

    # --- a request's slot ---

    def acquire(
        self,
        prompt: list[int],
        lora_key: LoraKey = (),
        *,
        repeatable: bool = False,
        preamble: int = 0,
    ) -> int:
        """Return an idle slot (there must be one) for a prompt, with as much of its beginning as
        can be reused; `length` says how much. Its last token is always computed again.

        `preamble`: tokens that other conversations begin with too, the system prompt.
        `repeatable`: only cells are reused that have the bits which an empty cache would give them.
        """

        def match() -> dict[int, int]:
            matches = self._match(prompt, lora_key, goes_back=True)
            return self._repeatable_part(matches, prompt) if repeatable else matches

        matches = match()
        if not repeatable and self._apply(self.memory.expire(self._tree)):
            matches = match()
        restored = self._restore(prompt, lora_key, matches, repeatable=repeatable)
        if restored:
            matches = match()
        slot = source = seat = self._own_slot(matches, preamble)
        if slot is None or source is None or seat is None:
            slot, source = self.memory.place(matches, self._idle, self._running, self._tree)
            seat = self._take_seat(slot)
        if seat != slot:
            slot, source = seat, {slot: seat, seat: slot}.get(source, source)
            matches = match()
        if source != slot and not self.memory.can_continue_at(source, matches.get(source, 0)):
            source = slot  # a slot goes back for what runs in it, not for others
        self._occupy(slot, source, matches, prompt, lora_key)
        if restored:
            self._reuse[slot] = CacheReuse(host=self.length(slot))
        return slot

    def _own_slot(self, matches: dict[int, int], preamble: int) -> int | None:
        """Return the slot that must go back for this prompt and has more than its preamble: what is
        given up there is an earlier turn of the same conversation."""
        best = next(iter(matches), None)
        if best is None or best not in self._idle or matches[best] <= preamble:
            return None
        return None if self.memory.can_continue_at(best, matches[best]) else best

    def _take_seat(self, slot: int) -> int:
        """Exchange the cells of `slot`, which is about to run, with those of the slot in which they
        had better be. Returns where they are."""
        seat = self.memory.seat(slot, self._idle, self._running)
        tokens, known = self._tokens, self._repeatable
        has_images = any(token < 0 for each in (slot, seat) for token in tokens[each])
        if seat == slot or has_images or not self.memory.exchange(slot, seat):
            return slot
        tokens[slot], tokens[seat] = tokens[seat], tokens[slot]
        known[slot], known[seat] = known[seat], known[slot]
        keys = self._lora_keys
        keys[slot], keys[seat] = keys.get(seat, ()), keys.get(slot, ())
        self._tree.exchange(slot, seat)
        self._checkpoints.exchange(slot, seat)
        for each in (slot, seat):
            if not self.memory.can_continue_at(each, self.length(each)):
                self.clear(each)
        return seat

    def _repeatable_part(self, matches: dict[int, int], prompt: list[int]) -> dict[int, int]:
        """Keep of these matches what has the bits that an empty cache would give it. In one pool
        the order of cells is that of sums: all others are given up."""
        parts: dict[int, int] = {}
        for slot, tokens in matches.items() if self.memory.repeats else ():
            known = min(tokens, self._repeatable[slot])
            if part := self.chunks.reusable(known, len(prompt)):
                parts[slot] = part
        parts = dict(sorted(parts.items(), key=lambda part: part[1], reverse=True))
        if not self._one_pool:
            return parts
        kept = next(iter(parts), None)
        for slot in (*self._idle, *self._spare):
            length = parts[slot] if slot == kept else 0
            self._give_up(slot, length)
            self.truncate(slot, length)
        return {} if kept is None else {kept: parts[kept]}

    def _occupy(
        self, slot: int, source: int, matches: dict[int, int], prompt: list[int], lora_key: LoraKey
    ) -> int:
        own, tokens = matches.get(slot, 0), matches.get(source, 0)
        # Where most of a spare slot is used, the prompt goes on with what had to move there.
        moved = source in self._spare and 2 * tokens >= self.length(source)
        continues = source == slot or moved
        if source != slot or own < self.length(slot):
            spare = self._move_to_spare(slot, source)
            if source == slot and spare is not None:
                source, tokens = spare, own
            if spare is None:
                self._give_up(slot, own)
        self._idle.remove(slot)
        self._running.add(slot)
        self._tree.pin(slot)
        self._lora_keys[slot] = lora_key
        goes_back = continues and not self.memory.can_continue_at(slot, tokens)
        self._fill(slot, prompt[:tokens], source)
        found = self.length(slot)
        if goes_back:
            self._reuse[slot] = CacheReuse(checkpoint=found)
        else:
            self._reuse[slot] = CacheReuse(own=found) if continues else CacheReuse(shared=found)
        return slot

    def catch_up(self, slot: int, prompt: list[int]) -> bool:
        """Share what another slot has computed of this prompt since the slot was acquired. Returns
        False when that is nothing or too little."""
        matches = self._match(prompt, self._lora_keys[slot])
        source = next(iter(matches), slot)
        before = self.length(slot)
        gain = matches.get(source, 0) - before
        if gain < max(MIN_SHARED_TOKENS, self.memory.min_gain):
            return False
        self._fill(slot, prompt[: matches[source]], source)
        reuse, gained = self.reuse(slot), self.length(slot) - before
        self._reuse[slot] = (
            replace(reuse, shared=reuse.shared + gained) if gained > 0 else reuse.limited(0)
        )
        return True

    def copy(self, source: int, slot: int) -> bool:
        """Share all that `source` has with `slot`. Returns False, and leaves the slot empty, when
        that cannot be done."""
        self._sync()
        self._fill(slot, list(self._tokens[source]), source)
        return bool(self._tokens[slot])

    def append(self, slot: int, tokens: Sequence[int], *, alone: bool = False) -> None:
        """Record that these tokens have been computed in `slot`, after those that it has. `alone`:
        in a batch without others."""
        start = len(self._tokens[slot])
        known = min(self._repeatable[slot], start)
        if alone:
            known = self.chunks.extended(known, start, len(tokens))
        self._repeatable[slot] = known
        self._tokens[slot] += tokens
        self._tree.tick(len(tokens))

    def truncate(self, slot: int, tokens: int) -> bool:
        """Keep the first `tokens` alone, and nothing of a batch that was not computed to its end.
        Returns False, and leaves fewer or none, when this kind of memory cannot be cut there."""
        kept = self._cut(slot, tokens)
        if kept == tokens:
            del self._tokens[slot][tokens:]
        else:  # a new list: the caller may need those that are lost
            self._tokens[slot] = self._tokens[slot][:kept]
        if kept < self._tree.length(slot):
            self._tree.cut(slot, kept)
        if kept < (reuse := self.reuse(slot)).total:
            self._reuse[slot] = reuse.limited(kept)
        return kept == tokens

    def clear(self, slot: int) -> None:
        self.truncate(slot, 0)

    def release(self, slot: int) -> None:
        """Make `slot` idle; its cells stay for a prompt that begins the same way."""
        self._sync()
        self._tree.unpin(slot)
        self._running.remove(slot)
        self._idle.add(slot)
        self._apply({})

    # --- checkpoints ---

    def chunk_end(self, slot: int, positions: Sequence[int]) -> int | None:
        """Return where the next chunk of the prompt in `slot` must end to take a checkpoint that is
        wanted at one of these positions."""
        return self._checkpoints.chunk_end(slot, self.length(slot), positions)

    def take_checkpoint(self, slot: int) -> None:
        """Take one at the end of what `slot` has, when it is wanted there."""
        self._checkpoints.take(slot, self.length(slot))

    # --- states ---

    def conversations(self, lora_key: LoraKey = ()) -> list[list[int]]:
        """Return the tokens of every slot that these adapters computed, the one used last first."""
        self._sync()
        slots = [
            slot
            for slot in self._tokens
            if self._tree.length(slot)
            and self._tree.namespace(slot) == self.memory.tree_key(lora_key, slot)
        ]
        slots.sort(key=self._tree.last_used, reverse=True)
        return [list(self._tokens[slot]) for slot in slots]

    def acquire_to_read(self, tokens: list[int], lora_key: LoraKey = ()) -> int | None:
        """Return an idle slot with as much of the beginning of `tokens` as the cache has, whose
        cells can be read now. It runs until it is released. None: no slot is idle, or the cache has
        nothing of it."""
        if not self._idle:
            return None
        prompt = [*tokens, 0]  # the last is left out
        matches = self._match(prompt, lora_key)
        placed = self.memory.place_to_read(matches, self._idle, self._running, self._tree)
        return None if placed is None else self._occupy(*placed, matches, prompt, lora_key)

    def insert(
        self,
        tokens: Sequence[int],
        restore: Callable[[int], bool],
        lora_key: LoraKey = (),
        checkpoints: Sequence[Checkpoint] = (),
    ) -> bool:
        """Add a sequence that was computed earlier: `restore` puts its cells in the slot that it is
        given. Returns False when no slot is idle, or `restore` fails with all that can be evicted.
        """
        if not (idle := self._insertable()):
            return False
        slot = self.memory.choose_slot({}, idle, self._running, self._tree)
        if self._move_to_spare(slot) is None:
            self._give_up(slot, 0)
        self._idle.remove(slot)
        self._running.add(slot)
        self._tree.pin(slot)
        self._lora_keys[slot] = lora_key
        self._fill(slot, [], slot)
        while not (done := restore(slot)) and self.evict(len(tokens)):
            pass
        if done:
            self.append(slot, tokens)
            self._checkpoints.hold(slot, checkpoints)
        self.release(slot)
        return done

    def _insertable(self) -> list[int]:
        """Return the idle slots in which a state can be put now."""
        return [slot for slot in self._idle if not self._model.has_pending_copy(slot)]

    # --- eviction ---

    def evict(self, needed: int) -> bool:
        """Free cells of idle slots, those least recently used first, until `needed` are free.
        Returns False when they have nothing that helps."""
        self._sync()
        return self._apply(self.memory.evict(self._tree, needed, self._idle))

    # --- the second tier ---

    def _give_up(self, slot: int, kept: int) -> None:
        """Store what a slot holds when more than a little behind its first `kept` tokens is about
        to be lost."""
        self._store(slot, min(self.length(slot) - kept, self._tree.unshared(slot)))

    def _store(self, slot: int, lost: int) -> None:
        """Store what a slot holds, when computing `lost` tokens of it again costs more."""
        tokens = self._tokens[slot]
        if self.host is None or lost < MIN_LOST_TOKENS or min(tokens) < 0:
            return
        key = self._lora_keys[slot]
        if self.host.covers(key, tokens):
            return
        with self.memory.readable(slot, self._empty_spare(slot)) as place:
            if place is None:
                return
            size_bytes = self._model.state_bytes(place)
            # Streams that run wait no longer for it than for a chunk of a prompt.
            most = self._model.max_batch_tokens if self._running else None
            if not self.host.is_worth(lost, size_bytes, most_tokens=most):
                return
            self.host.store(
                key,
                tokens,
                size_bytes,
                lost=lost,
                oldest=self._model.oldest_position(place),
                repeatable=0 if self._one_pool else self._repeatable[slot],
                copy=lambda cells: self._model.copy_state(place, cells),
                checkpoints=self._checkpoints.of(slot),
            )

    def _empty_spare(self, slot: int) -> int | None:
        spares = (spare for spare in self._spare if spare != slot and not self.length(spare))
        return next(spares, None)

    def _restore(
        self,
        prompt: list[int],
        lora_key: LoraKey,
        matches: Mapping[int, int],
        *,
        repeatable: bool,
    ) -> bool:
        """Put a state from host memory into an idle slot when it has clearly more of a prompt than
        the slots, which have these matches. Returns False when there is none."""
        if self.host is None or not self._insertable():
            return False
        known = next(iter(matches.values()), 0)
        for id_, state, found in self.host.match(lora_key, prompt[:-1]):
            tokens = found
            if repeatable:
                tokens = self.chunks.reusable(min(tokens, state.repeatable), len(prompt))
            elif found - known < MIN_GAIN_TOKENS:
                return False
            if tokens - known < MIN_GAIN_TOKENS:
                continue
            if self.memory.continues(tokens, oldest=state.oldest, newest=len(state.tokens) - 1):
                return self.host.restore(id_, tokens, lambda state: self._put(state, lora_key))
            before = self._checkpoints.continuable(state.checkpoints, tokens)
            if not repeatable and before - known >= MIN_GAIN_TOKENS:
                return self.host.restore(id_, before, lambda state: self._put(state, lora_key))
        return False

    def _put(self, state: State, lora_key: LoraKey) -> bool:
        taken: list[int] = []

        def put(slot: int) -> bool:
            taken.append(slot)
            with memoryview(state.cells) as cells:
                return self._model.put_state(slot, len(state.tokens), cells)

        if not self.insert(state.tokens, put, lora_key, state.checkpoints):
            return False
        self._repeatable[taken[-1]] = state.repeatable
        return True

    # --- books and cells ---

    def _match(
        self, prompt: list[int], lora_key: LoraKey, *, goes_back: bool = False
    ) -> dict[int, int]:
        """Return the slots that have a reusable beginning of this prompt, and how many tokens of
        it: most first. `goes_back`: with a checkpoint too, for what is to run in that slot."""
        self._sync()
        return self._slots_with(prompt, lora_key, goes_back=goes_back)

    def _slots_with(
        self, prompt: Sequence[int], lora_key: LoraKey, *, goes_back: bool
    ) -> dict[int, int]:
        beginning = prompt[:-1]
        keys = self.memory.tree_keys(lora_key, self._idle)
        matches = [match for key in keys for match in self._tree.match(key, beginning)]
        matches.sort(key=lambda match: match[1], reverse=True)
        usable = self.memory.usable(matches)
        if not goes_back or len(usable) == len(matches):
            return usable
        for slot, tokens in matches:
            if slot not in usable and slot in self._idle:
                usable[slot] = self._checkpoints.position(slot, tokens)
        best = sorted(usable.items(), key=lambda match: match[1], reverse=True)
        return {slot: tokens for slot, tokens in best if tokens}

    def _cut(self, slot: int, tokens: int) -> int:
        """Cut the cells of `slot`, and its checkpoints. Returns what it has then: its first
        `tokens`, or fewer or none where it cannot be cut there."""
        can_cut = self.memory.can_cut(slot, tokens)
        if not can_cut and (restored := self._checkpoints.restore(slot, tokens)):
            return restored
        kept = tokens if self.memory.truncate(slot, tokens) else 0
        self._checkpoints.cut(slot, kept)
        return kept

    def _fill(self, slot: int, tokens: list[int], source: int) -> None:
        """Let `slot` have these tokens, which `source` begins with."""
        if source == slot:
            kept = self._cut(slot, len(tokens))
        else:
            kept = len(tokens) if self.memory.share(source, slot, len(tokens)) else 0
            self._checkpoints.cut(slot, 0)
        self._tokens[slot] = tokens[:kept]
        self._repeatable[slot] = min(kept, self._repeatable[source])
        key = self.memory.tree_key(self._lora_keys[slot], slot)
        self._tree.insert(slot, key, self._tokens[slot])

    def _sync(self) -> None:
        """Bring the tree up to date with what running slots have computed. Two that computed the
        same tokens share one's cells from now on, where memory can be shared at once."""
        for slot in self._running:
            tokens, known = self._tokens[slot], self._tree.length(slot)
            if len(tokens) == known:
                continue
            duplicate = self._tree.extend(slot, tokens[known:])
            if duplicate is not None:
                source, count = duplicate
                if self.memory.deduplicate(slot, source, known, known + count):
                    self._repeatable[slot] = min(self._repeatable[slot], known)

    def _move_to_spare(self, slot: int, source: int | None = None) -> int | None:
        """Move the cells of `slot` to a spare slot other than `source`: an empty one, or that used
        least recently if that was before the slot was. Returns None when there is no such spare
        slot, or other slots share all the cells."""
        spares = (spare for spare in self._spare if spare != source)
        spare = min(spares, key=self._tree.last_used, default=None)
        if spare is None or self._tree.redundant(slot):
            return None
        if self._tree.last_used(spare) > self._tree.last_used(slot):
            return None
        self._give_up(spare, 0)
        self.clear(spare)
        self.memory.share(slot, spare, self.length(slot))
        self._lora_keys[spare] = self._lora_keys[slot]
        self._tree.rename(slot, spare)
        self._tokens[spare], self._tokens[slot] = self._tokens[slot], []
        self._repeatable[spare] = self._repeatable[slot]
        return spare

    def _apply(self, cuts: Mapping[int, int]) -> bool:
        """Cut slots in llama.cpp as the tree has cut them, and empty those that have nothing of
        their own any more. Returns False when nothing was cut."""
        for slot, tokens in cuts.items():
            self._store(slot, len(self._tokens[slot]))  # all of it: it is cut piece by piece
            self._cut(slot, tokens)
            del self._tokens[slot][tokens:]
        for slot in self.memory.redundant(self._tree, (*self._idle, *self._spare)):
            self.clear(slot)
        return bool(cuts)
