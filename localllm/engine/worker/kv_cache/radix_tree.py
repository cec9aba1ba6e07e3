"""A radix tree of the tokens in the KV cache: slots share the nodes of a common beginning.

Pure: integers in, integers out; kv_cache.py does to llama.cpp what is decided here. The tree's
edges are runs of symbols (tokens; negative numbers for positions of an image), each one cell of the
cache. A slot is a sequence of llama.cpp; it has every cell on its path from the root. (SGLang's
`mem_cache/radix_cache.py` is the same idea, with requests at the leaves.)
"""

from collections.abc import Hashable, Sequence

MIN_SHARED_TOKENS = 16
"""Sharing fewer tokens from another slot is not worth giving up what the idle slot holds."""

COPIED_CELLS = 500
"""So many cells are copied, with all that are beside them, in less time than one token takes to
be computed: SmolLM2-135M on two cores copies 1,000 to 1,700; larger models compute longer."""

UNUSED_TOKENS = 2048
"""Cells that nobody has used while so many tokens were computed are expired: for other slots they
are masked, and passed over for every token. Measured with SmolLM2-135M on one core: 0.9 us a token
and cell, 7 % of decode for every 1,000 cells; computing a cell again costs about 3 ms, which is
what it costs to store it while some 3,000 tokens are computed."""

MIN_AWAITED_TOKENS = 32
"""Waiting for another sequence to compute fewer tokens is not worth the step it takes."""

_NO_SLOT = -1
"""No sequence of llama.cpp: what a slot has is there while two are exchanged."""


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    shortest = min(len(one), len(other))
    if one[:shortest] == other[:shortest]:
        return shortest
    low, high = 0, shortest  # one[:low] matches, one[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


class _Node:
    """A run of symbols that follow each other and belong to the same slots."""

    __slots__ = ("children", "parent", "slots", "start", "symbols", "used")

    def __init__(self, parent: "_Node | None", start: int, symbols: list[int], used: int) -> None:
        self.parent = parent
        self.start = start
        self.symbols = symbols
        self.used = used
        self.slots: set[int] = set()
        self.children: dict[int, _Node] = {}

    @property
    def end(self) -> int:
        return self.start + len(self.symbols)


class RadixTree:
    """The cells of each slot, as runs of symbols on its path from the root.

    A namespace is a tree of its own: the same symbols in two of them are not the same cells. What a
    pinned slot has is not evicted. All cells of a slot are used when it is inserted, extended or
    unpinned; that also advances the clock by one.
    """

    def __init__(self) -> None:
        self.cells = 0
        """Cells of all slots, shared ones counted once."""
        self._roots: dict[Hashable, _Node] = {}
        self._ends: dict[int, _Node] = {}
        self._namespaces: dict[int, Hashable] = {}
        self._pinned: set[int] = set()
        self._clock = 0

    # --- queries ---

    def length(self, slot: int) -> int:
        """The number of symbols that this slot has; 0 for one that is not in the tree."""
        return self._ends[slot].end if slot in self._ends else 0

    def last_used(self, slot: int) -> int:
        """The clock when its last cell was used; 0 when it has none."""
        return self._ends[slot].used if self.length(slot) else 0

    def namespace(self, slot: int) -> Hashable:
        """The tree that this slot is in; None when it is in none."""
        return self._namespaces.get(slot)

    def redundant(self, slot: int) -> bool:
        """True when other slots have every cell that it has."""
        end = self._ends.get(slot)
        return end is None or end.parent is None or len(end.slots) > 1

    def unshared(self, slot: int) -> int:
        """The number of symbols at its end that no other slot has."""
        node: _Node | None = self._ends.get(slot)
        length = self.length(slot)
        while node is not None and node.parent is not None and len(node.slots) == 1:
            node = node.parent
        return length - node.end if node is not None else 0

    def match(self, namespace: Hashable, symbols: Sequence[int]) -> list[tuple[int, int]]:
        """Return every slot that begins as `symbols` do, with the number that they have in common:
        most first, of equals the one used last."""
        found: list[tuple[int, int]] = []
        seen: set[int] = set()
        for node, matched in reversed(self._path(namespace, symbols)):
            fresh = sorted(node.slots - seen, key=self.last_used, reverse=True)
            found += ((slot, matched) for slot in fresh)
            seen |= node.slots
        return found

    # --- slots ---

    def insert(self, slot: int, namespace: Hashable, symbols: Sequence[int]) -> None:
        """Let `slot` have exactly these symbols instead of what it had."""
        self.drop(slot)
        if namespace not in self._roots:
            self._roots[namespace] = _Node(None, 0, [], 0)
        root = self._roots[namespace]
        root.slots.add(slot)
        self._ends[slot], self._namespaces[slot] = root, namespace
        self.extend(slot, symbols)

    def extend(self, slot: int, symbols: Sequence[int]) -> tuple[int, int] | None:
        """Append these symbols to what `slot` has. Returns another slot that has the first of them
        already, and so cells for them, with their number; None when there is none."""
        end, known = self._ends[slot], 0
        while known < len(symbols) and (child := end.children.get(symbols[known])) is not None:
            same = common(child.symbols, symbols[known : known + len(child.symbols)])
            end = self._split(child, same)
            end.slots.add(slot)
            known += same
        self._ends[slot] = end
        others = end.slots - {slot}
        self._append(slot, end, symbols[known:])
        self._touch(slot)
        return (min(others), known) if known else None

    def cut(self, slot: int, length: int) -> None:
        """Remove from `slot` what it has after its first `length` symbols."""
        node = self._ends[slot]
        while node.parent is not None and node.start >= length:
            node = self._remove(slot, node)
        if node.end > length:
            node = self._split(node, length - node.start)
            self._remove(slot, next(c for c in node.children.values() if slot in c.slots))
        self._ends[slot] = node

    def drop(self, slot: int) -> None:
        """Remove this slot, if it is in the tree."""
        if slot not in self._ends:
            return
        self.cut(slot, 0)
        root, namespace = self._ends.pop(slot), self._namespaces.pop(slot)
        root.slots.discard(slot)
        if not root.slots:
            del self._roots[namespace]

    def rename(self, old: int, new: int) -> None:
        """Give everything that `old` has to `new`, which has nothing."""
        assert self.length(new) == 0
        self.drop(new)
        end = self._ends.pop(old)
        self._ends[new], self._namespaces[new] = end, self._namespaces.pop(old)
        node: _Node | None = end
        while node is not None:
            node.slots.remove(old)
            node.slots.add(new)
            node = node.parent

    def exchange(self, one: int, other: int) -> None:
        """Give each of two slots what the other one has."""
        for old, new in ((one, _NO_SLOT), (other, one), (_NO_SLOT, other)):
            if old in self._ends:
                self.rename(old, new)

    def pin(self, slot: int) -> None:
        """Protect what this slot has, and what it will have, from being evicted."""
        self._pinned.add(slot)

    def unpin(self, slot: int) -> None:
        self._pinned.discard(slot)
        if slot in self._ends:
            self._touch(slot)

    def evict(self, cells: int) -> dict[int, int]:
        """Free so many cells, or all that no pinned slot has: from the ends of branches, those used
        least recently first. Returns the slots that were cut, each with its new length."""
        cuts: dict[int, int] = {}
        while cells > 0 and (leaf := self._oldest_leaf()) is not None:
            count = min(cells, len(leaf.symbols))
            cells -= count
            cuts |= self._cut_all(leaf, leaf.end - count)
        return cuts

    def expire(self, age: int) -> dict[int, int]:
        """Free cells that no pinned slot has and that were not used for longer than `age`; as
        `evict`."""
        cuts: dict[int, int] = {}
        while (leaf := self._oldest_leaf()) is not None and leaf.used + age < self._clock:
            cuts |= self._cut_all(leaf, leaf.start)
        return cuts

    def tick(self, count: int) -> None:
        """Advance the clock: `count` tokens were computed."""
        self._clock += count

    # --- nodes ---

    def _path(self, namespace: Hashable, symbols: Sequence[int]) -> list[tuple[_Node, int]]:
        """Return the nodes that match, from the root on, with the number of symbols that match up
        to their end or, in the last one, within it."""
        path: list[tuple[_Node, int]] = []
        node, known = self._roots.get(namespace), 0
        while node is not None and known == node.end and known < len(symbols):
            node = node.children.get(symbols[known])
            if node is not None:
                known += common(node.symbols, symbols[known : known + len(node.symbols)])
                path.append((node, known))
        return path

    def _cut_all(self, leaf: _Node, length: int) -> dict[int, int]:
        """Cut all slots that end in `leaf`."""
        cuts = dict.fromkeys(sorted(leaf.slots), length)
        for slot in cuts:
            self.cut(slot, length)
        return cuts

    def _oldest_leaf(self) -> _Node | None:
        """Return the branch end used least recently of those that no pinned slot has."""
        ends = {id(node): node for node in self._ends.values()}.values()
        leaves = (
            node
            for node in ends
            if node.parent is not None and not node.children and not node.slots & self._pinned
        )
        return min(leaves, key=lambda node: node.used, default=None)

    def _split(self, node: _Node, length: int) -> _Node:
        """Return a node of the first `length` symbols of `node`; the others become its child."""
        if length == len(node.symbols):
            return node
        below = _Node(node, node.start + length, node.symbols[length:], node.used)
        below.slots, below.children = set(node.slots), node.children
        self._relink(node, below)
        del node.symbols[length:]
        node.children = {below.symbols[0]: below}
        return node

    def _append(self, slot: int, end: _Node, symbols: Sequence[int]) -> None:
        if not symbols:
            return
        self.cells += len(symbols)
        if end.parent is not None and end.slots == {slot}:  # then it has no children
            end.symbols += symbols
            return
        node = _Node(end, end.end, list(symbols), self._clock)
        node.slots.add(slot)
        end.children[symbols[0]] = node
        self._ends[slot] = node

    def _remove(self, slot: int, node: _Node) -> _Node:
        """Remove `slot` from `node`, where it ends; returns the node where it ends then."""
        parent = node.parent
        assert parent is not None
        node.slots.discard(slot)
        if node.slots:
            self._merge_child(node)
        else:
            del parent.children[node.symbols[0]]
            self.cells -= len(node.symbols)
        return parent

    def _touch(self, slot: int) -> None:
        self._clock += 1
        node: _Node | None = self._ends[slot]
        while node is not None:
            node.used = self._clock
            self._merge_child(node)
            node = node.parent

    def _merge_child(self, node: _Node) -> None:
        """Merge `node` and its only child when the same slots used both at the same time."""
        if node.parent is None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if child.slots == node.slots and child.used == node.used:
            node.symbols += child.symbols
            node.children = child.children
            self._relink(child, node)

    def _relink(self, old: _Node, new: _Node) -> None:
        """Let the slots that end in `old` end in `new`, and the children there be `new`'s."""
        for slot in old.slots:
            if self._ends.get(slot) is old:
                self._ends[slot] = new
        for child in new.children.values():
            child.parent = new
