"""A radix tree of what the KV cache holds, so that a common beginning is kept and computed once.

Pure: integers in, integers out; `cells.py` does to llama.cpp what is decided here. The tree's
edges are runs of symbols (tokens; negative numbers for what is no token), each one cell of the
cache; a *holder* is a sequence of llama.cpp, which has every cell on its way from the root.
"""

from collections.abc import Hashable, Sequence

MIN_SHARED_TOKENS = 16
"""Sharing fewer tokens from another slot is not worth giving up what the idle slot holds."""

COPIED_CELLS = 500
"""So many cells are copied, with all that are beside them, in less time than one token takes to
be computed: SmolLM2-135M on two cores copies 1,000 to 1,700; larger models compute longer."""

UNUSED_TOKENS = 2048
"""What nobody has used while so many tokens were computed is in the way: the cells of others are
masked, and passed over for every token. Measured with SmolLM2-135M on one core: 0.9 us a token and
cell, 7 % of decode for every 1,000 cells; computing a cell again costs about 3 ms, which is what it
costs to keep it while some 3,000 tokens are computed."""

MIN_AWAITED_TOKENS = 32
"""Waiting for another sequence to compute fewer tokens is not worth the step it takes."""


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
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
    """A run of symbols that follow each other, and who holds them: always the same holders."""

    __slots__ = ("children", "holders", "parent", "start", "symbols", "used")

    def __init__(self, parent: "_Node | None", start: int, symbols: list[int], used: int) -> None:
        self.parent = parent
        self.start = start
        self.symbols = symbols
        self.used = used
        self.holders: set[int] = set()
        self.children: dict[int, _Node] = {}

    @property
    def end(self) -> int:
        return self.start + len(self.symbols)


class RadixTree:
    """Who holds which cells.

    Spaces are trees of their own: the same symbols in two of them are not the same cells. What a
    pinned holder has is not evicted. All that a holder has counts as used when it is put there,
    goes on, or is unpinned. Time passes by one whenever that happens, and when it is said.
    """

    def __init__(self) -> None:
        self.cells = 0
        """Cells that somebody holds, each counted once."""
        self._roots: dict[Hashable, _Node] = {}
        self._ends: dict[int, _Node] = {}
        self._spaces: dict[int, Hashable] = {}
        self._pinned: set[int] = set()
        self._clock = 0

    # --- questions ---

    def length(self, holder: int) -> int:
        """How many symbols this holder has; 0 also for one that is not in the tree."""
        return self._ends[holder].end if holder in self._ends else 0

    def used(self, holder: int) -> int:
        """When its last cell was used: a number that grows with time. 0 when it has none."""
        return self._ends[holder].used if self.length(holder) else 0

    def redundant(self, holder: int) -> bool:
        """Whether others hold every cell that it has."""
        end = self._ends.get(holder)
        return end is None or end.parent is None or len(end.holders) > 1

    def match(self, space: Hashable, symbols: Sequence[int]) -> list[tuple[int, int]]:
        """Every holder that begins as `symbols` do, with how many it has in common: most first,
        of equals the one used last."""
        found: list[tuple[int, int]] = []
        seen: set[int] = set()
        for node, matched in reversed(self._way(space, symbols)):
            fresh = sorted(node.holders - seen, key=self.used, reverse=True)
            found += ((holder, matched) for holder in fresh)
            seen |= node.holders
        return found

    # --- holders come, go on, go ---

    def hold(self, holder: int, space: Hashable, symbols: Sequence[int]) -> None:
        """Let `holder` have exactly these symbols, whatever it had."""
        self.drop(holder)
        if space not in self._roots:
            self._roots[space] = _Node(None, 0, [], 0)
        root = self._roots[space]
        root.holders.add(holder)
        self._ends[holder], self._spaces[holder] = root, space
        self.extend(holder, symbols)

    def extend(self, holder: int, symbols: Sequence[int]) -> tuple[int, int] | None:
        """Let `holder` go on with these symbols. When others have some of them already, and so
        the cells for them: one who has, and how many of the symbols."""
        end, known = self._ends[holder], 0
        while known < len(symbols) and (child := end.children.get(symbols[known])) is not None:
            same = common(child.symbols, symbols[known : known + len(child.symbols)])
            end = self._split(child, same)
            end.holders.add(holder)
            known += same
        self._ends[holder] = end
        others = end.holders - {holder}
        self._append(holder, end, symbols[known:])
        self._touch(holder)
        return (min(others), known) if known else None

    def cut(self, holder: int, length: int) -> None:
        """Take from `holder` what it has after its first `length` symbols."""
        node = self._ends[holder]
        while node.parent is not None and node.start >= length:
            node = self._leave(holder, node)
        if node.end > length:
            node = self._split(node, length - node.start)
            self._leave(holder, next(c for c in node.children.values() if holder in c.holders))
        self._ends[holder] = node

    def drop(self, holder: int) -> None:
        """Forget this holder, if it is known."""
        if holder not in self._ends:
            return
        self.cut(holder, 0)
        root, space = self._ends.pop(holder), self._spaces.pop(holder)
        root.holders.discard(holder)
        if not root.holders:
            del self._roots[space]

    def rename(self, old: int, new: int) -> None:
        """Let `new`, which has nothing, have what `old` has, and `old` nothing."""
        assert self.length(new) == 0
        self.drop(new)
        end = self._ends.pop(old)
        self._ends[new], self._spaces[new] = end, self._spaces.pop(old)
        node: _Node | None = end
        while node is not None:
            node.holders.remove(old)
            node.holders.add(new)
            node = node.parent

    def pin(self, holder: int) -> None:
        """Keep what this holder has, and what it will have, from being evicted."""
        self._pinned.add(holder)

    def unpin(self, holder: int) -> None:
        self._pinned.discard(holder)
        if holder in self._ends:
            self._touch(holder)

    def evict(self, cells: int) -> dict[int, int]:
        """Free so many cells, or all that no pinned holder has: from the ends of branches, those
        used least recently first. Returns who was cut, and to what length."""
        cuts: dict[int, int] = {}
        while cells > 0 and (leaf := self._oldest_leaf()) is not None:
            count = min(cells, len(leaf.symbols))
            cells -= count
            cuts |= self._cut_all(leaf, leaf.end - count)
        return cuts

    def expire(self, age: int) -> dict[int, int]:
        """Free what no pinned holder has and nobody used for longer than `age`, as in `evict`."""
        cuts: dict[int, int] = {}
        while (leaf := self._oldest_leaf()) is not None and leaf.used + age < self._clock:
            cuts |= self._cut_all(leaf, leaf.start)
        return cuts

    def tick(self, time: int) -> None:
        """Let time pass."""
        self._clock += time

    # --- nodes ---

    def _way(self, space: Hashable, symbols: Sequence[int]) -> list[tuple[_Node, int]]:
        """The nodes that match, from the root on, with how many symbols match up to their end
        or, in the last one, within it."""
        way: list[tuple[_Node, int]] = []
        node, known = self._roots.get(space), 0
        while node is not None and known == node.end and known < len(symbols):
            node = node.children.get(symbols[known])
            if node is not None:
                known += common(node.symbols, symbols[known : known + len(node.symbols)])
                way.append((node, known))
        return way

    def _cut_all(self, leaf: _Node, length: int) -> dict[int, int]:
        """Cut all who end in `leaf`."""
        cuts = dict.fromkeys(sorted(leaf.holders), length)
        for holder in cuts:
            self.cut(holder, length)
        return cuts

    def _oldest_leaf(self) -> _Node | None:
        """The branch end used least recently of those that no pinned holder has."""
        ends = {id(node): node for node in self._ends.values()}.values()
        leaves = (
            node
            for node in ends
            if node.parent is not None and not node.children and not node.holders & self._pinned
        )
        return min(leaves, key=lambda node: node.used, default=None)

    def _split(self, node: _Node, length: int) -> _Node:
        """The first `length` symbols of `node` as a node; the others become its only child."""
        if length == len(node.symbols):
            return node
        below = _Node(node, node.start + length, node.symbols[length:], node.used)
        below.holders, below.children = set(node.holders), node.children
        self._move(node, below)
        del node.symbols[length:]
        node.children = {below.symbols[0]: below}
        return node

    def _append(self, holder: int, end: _Node, symbols: Sequence[int]) -> None:
        if not symbols:
            return
        self.cells += len(symbols)
        if end.parent is not None and end.holders == {holder}:  # then it has no children
            end.symbols += symbols
            return
        node = _Node(end, end.end, list(symbols), self._clock)
        node.holders.add(holder)
        end.children[symbols[0]] = node
        self._ends[holder] = node

    def _leave(self, holder: int, node: _Node) -> _Node:
        """Take `holder` from `node`, where it ends; returns where it ends then."""
        parent = node.parent
        assert parent is not None
        node.holders.discard(holder)
        if node.holders:
            self._tidy(node)
        else:
            del parent.children[node.symbols[0]]
            self.cells -= len(node.symbols)
        return parent

    def _touch(self, holder: int) -> None:
        self._clock += 1
        node: _Node | None = self._ends[holder]
        while node is not None:
            node.used = self._clock
            self._tidy(node)
            node = node.parent

    def _tidy(self, node: _Node) -> None:
        """Make one of `node` and its child when the same holders used both at the same time."""
        if node.parent is None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if child.holders == node.holders and child.used == node.used:
            node.symbols += child.symbols
            node.children = child.children
            self._move(child, node)

    def _move(self, old: _Node, new: _Node) -> None:
        """Whoever ends in `old` ends in `new`, and the children there are `new`'s."""
        for holder in old.holders:
            if self._ends.get(holder) is old:
                self._ends[holder] = new
        for child in new.children.values():
            child.parent = new
