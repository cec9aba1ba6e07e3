"""The radix tree beside a model of it that is too simple to be wrong: a list for each holder."""

import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localllm.engine.worker.kv_cache.radix_tree import RadixTree, _Node, common

HOLDERS = range(6)
SPACES = ((), ("adapter", 1.0))

Cell = tuple[object, tuple[int, ...]]
"""A cell is what it stands for: its space, and every symbol up to its own."""

symbols = st.lists(st.integers(-1, 2), max_size=12)
holders = st.sampled_from(HOLDERS)


@given(symbols, symbols)
def test_common_is_the_longest_shared_beginning(one: list[int], other: list[int]) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


class TreeAndModel(RuleBasedStateMachine):
    """Whatever is done to both, both say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RadixTree()
        self.held: dict[int, tuple[object, list[int]]] = {}
        self.used: dict[Cell, int] = {}
        self.pinned: set[int] = set()
        self.time = 0

    def cells_of(self, holder: int) -> list[Cell]:
        space, held = self.held[holder]
        return [(space, tuple(held[: i + 1])) for i in range(len(held))]

    def all_cells(self) -> set[Cell]:
        return {cell for holder in self.held for cell in self.cells_of(holder)}

    def touch(self, holder: int) -> None:
        self.time += 1
        self.used |= dict.fromkeys(self.cells_of(holder), self.time)

    @rule(holder=holders, space=st.sampled_from(SPACES), held=symbols)
    def hold(self, holder: int, space: object, held: list[int]) -> None:
        self.tree.hold(holder, space, held)
        self.held[holder] = (space, list(held))
        self.touch(holder)

    @rule(holder=holders, source=holders, length=st.integers(0, 12), more=symbols)
    def hold_what_begins_as_another(
        self, holder: int, source: int, length: int, more: list[int]
    ) -> None:
        space, held = self.held.get(source, ((), []))
        self.hold(holder, space, held[:length] + more)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=symbols)
    def extend(self, data: st.DataObject, more: list[int]) -> None:
        holder = data.draw(st.sampled_from(sorted(self.held)))
        space, held = self.held[holder]
        known = self.tree.extend(holder, more)
        others = [
            common(other[len(held) :], more)
            for name, (where, other) in self.held.items()
            if name != holder and where == space and other[: len(held)] == held
        ]
        longest = max(others, default=0)
        assert (known is None) == (longest == 0)
        if known is not None:
            source, count = known
            assert count == longest
            assert self.held[source][1][: len(held) + count] == held + more[:count]
        held += more
        self.touch(holder)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.held)))
        length = data.draw(st.integers(0, len(self.held[holder][1])))
        self.tree.cut(holder, length)
        del self.held[holder][1][length:]

    @rule(holder=holders)
    def drop(self, holder: int) -> None:
        self.tree.drop(holder)
        self.held.pop(holder, None)

    def without_any(self) -> list[int]:
        """Holders that are not known, or known with nothing."""
        return sorted(h for h in HOLDERS if not self.held.get(h, ((), []))[1])

    @precondition(lambda self: self.held and self.without_any())
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.held)))
        new = data.draw(st.sampled_from(self.without_any()))
        if new == old:
            return
        self.tree.rename(old, new)
        self.held[new] = self.held.pop(old)

    @rule(holder=holders)
    def pin(self, holder: int) -> None:
        self.tree.pin(holder)
        self.pinned.add(holder)

    @rule(holder=holders)
    def unpin(self, holder: int) -> None:
        self.tree.unpin(holder)
        self.pinned.discard(holder)
        if holder in self.held:
            self.touch(holder)

    @rule(count=st.integers(0, 20))
    def evict(self, count: int) -> None:
        before = {holder: len(held) for holder, (_, held) in self.held.items()}
        for _ in range(count):
            self.evict_one()
        after = {holder: len(held) for holder, (_, held) in self.held.items()}
        cuts = {holder: length for holder, length in after.items() if length != before[holder]}
        assert self.tree.evict(count) == cuts

    @rule(time=st.integers(1, 5))
    def tick(self, time: int) -> None:
        self.tree.tick(time)
        self.time += time

    @rule(age=st.integers(0, 12))
    def expire(self, age: int) -> None:
        before = {holder: len(held) for holder, (_, held) in self.held.items()}
        while self.evict_one(unused_since=self.time - age):
            pass
        after = {holder: len(held) for holder, (_, held) in self.held.items()}
        cuts = {holder: length for holder, length in after.items() if length != before[holder]}
        assert self.tree.expire(age) == cuts

    def evict_one(self, unused_since: float = math.inf) -> bool:
        """The last cell of the branch that was used least recently, unless it is pinned."""
        kept = {c for h in self.held if h in self.pinned for c in self.cells_of(h)}
        inner = {(space, path[:-1]) for space, path in self.all_cells()}
        ends = self.all_cells() - kept - inner
        oldest = min(ends, key=lambda cell: self.used[cell], default=None)
        if oldest is None or self.used[oldest] >= unused_since:
            return False
        for holder in self.held:
            if oldest in self.cells_of(holder):
                self.held[holder][1].pop()
        return True

    @rule(space=st.sampled_from(SPACES), prompt=symbols)
    def match(self, space: object, prompt: list[int]) -> None:
        expected = {
            holder: length
            for holder, (where, held) in self.held.items()
            if where == space and (length := common(held, prompt))
        }
        found = self.tree.match(space, prompt)
        assert dict(found) == expected
        assert len(found) == len(expected)
        assert [length for _, length in found] == sorted(expected.values(), reverse=True)

    @invariant()
    def no_cell_is_counted_twice_or_forgotten(self) -> None:
        assert self.tree.cells == len(self.all_cells())

    @invariant()
    def every_holder_has_what_it_was_given(self) -> None:
        for holder in HOLDERS:
            length = len(self.held[holder][1]) if holder in self.held else 0
            assert self.tree.length(holder) == length
            cells = set(self.cells_of(holder)) if length else set()
            last = self.used[self.cells_of(holder)[-1]] if length else 0
            assert self.tree.used(holder) == last
            others = {c for h in self.held if h != holder for c in self.cells_of(h)}
            assert self.tree.redundant(holder) == (cells <= others)

    @invariant()
    def nodes_are_runs_of_cells_with_the_same_holders(self) -> None:
        for root in self.tree._roots.values():
            for child in root.children.values():
                self.check_node(child)

    def check_node(self, node: _Node) -> None:
        assert node.symbols and node.holders
        assert node.parent is not None and node.start == node.parent.end
        assert node.parent.children[node.symbols[0]] is node
        assert node.holders <= node.parent.holders
        for child in node.children.values():
            assert child.holders != node.holders or child.used != node.used
            self.check_node(child)


TestTreeAndModel = TreeAndModel.TestCase
TestTreeAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def tree_of(*held: Sequence[int]) -> RadixTree:
    tree = RadixTree()
    for holder, each in enumerate(held):
        tree.hold(holder, (), each)
    return tree


def test_a_system_prompt_of_many_is_kept_once() -> None:
    tree = tree_of(*([1, 2, 3, 10 + i] for i in range(5)))
    assert tree.cells == 3 + 5


def test_the_same_tokens_in_another_space_are_other_cells() -> None:
    tree = tree_of([1, 2, 3])
    tree.hold(1, "adapter", [1, 2, 3])
    assert tree.cells == 6
    assert tree.match("adapter", [1, 2, 9]) == [(1, 2)]
    assert tree.match("unknown", [1, 2, 9]) == []


def test_the_end_of_the_branch_used_least_recently_goes_first_and_no_more_than_needed() -> None:
    tree = tree_of([1, 2, 3, 4], [1, 2, 5, 6], [9, 9])
    assert tree.evict(1) == {0: 3}
    assert tree.evict(2) == {0: 2, 1: 3}
    assert tree.cells == 3 + 2


def test_a_beginning_that_others_still_use_outlives_the_branch_that_came_first() -> None:
    tree = tree_of([1, 2, 3, 4])
    tree.hold(1, (), [1, 2, 7])
    tree.drop(1)
    assert tree.evict(2) == {0: 2}
    assert tree.match((), [1, 2, 3]) == [(0, 2)]


def test_what_a_running_sequence_has_is_never_evicted() -> None:
    tree = tree_of([1, 2, 3], [1, 2, 4])
    tree.pin(0)
    assert tree.evict(100) == {1: 2}
    assert tree.evict(100) == {}
    tree.unpin(0)
    assert tree.evict(100) == {0: 0, 1: 0}
    assert tree.cells == 0
