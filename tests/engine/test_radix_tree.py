"""The radix tree beside a model of it that is too simple to be wrong: a list for each slot."""

import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localllm.engine.worker.kv_cache.radix_tree import RadixTree, _Node, common

SLOTS = range(6)
NAMESPACES = ((), ("adapter", 1.0))

Cell = tuple[object, tuple[int, ...]]
"""A cell is what it stands for: its namespace, and every symbol up to its own."""

symbols = st.lists(st.integers(-1, 2), max_size=12)
slots = st.sampled_from(SLOTS)


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
        self.symbols: dict[int, tuple[object, list[int]]] = {}
        self.used: dict[Cell, int] = {}
        self.pinned: set[int] = set()
        self.time = 0

    def cells_of(self, slot: int) -> list[Cell]:
        namespace, has = self.symbols[slot]
        return [(namespace, tuple(has[: i + 1])) for i in range(len(has))]

    def all_cells(self) -> set[Cell]:
        return {cell for slot in self.symbols for cell in self.cells_of(slot)}

    def touch(self, slot: int) -> None:
        self.time += 1
        self.used |= dict.fromkeys(self.cells_of(slot), self.time)

    @rule(slot=slots, namespace=st.sampled_from(NAMESPACES), has=symbols)
    def insert(self, slot: int, namespace: object, has: list[int]) -> None:
        self.tree.insert(slot, namespace, has)
        self.symbols[slot] = (namespace, list(has))
        self.touch(slot)

    @rule(slot=slots, source=slots, length=st.integers(0, 12), more=symbols)
    def insert_with_a_common_beginning(
        self, slot: int, source: int, length: int, more: list[int]
    ) -> None:
        namespace, has = self.symbols.get(source, ((), []))
        self.insert(slot, namespace, has[:length] + more)

    @precondition(lambda self: self.symbols)
    @rule(data=st.data(), more=symbols)
    def extend(self, data: st.DataObject, more: list[int]) -> None:
        slot = data.draw(st.sampled_from(sorted(self.symbols)))
        namespace, has = self.symbols[slot]
        known = self.tree.extend(slot, more)
        others = [
            common(other[len(has) :], more)
            for name, (where, other) in self.symbols.items()
            if name != slot and where == namespace and other[: len(has)] == has
        ]
        longest = max(others, default=0)
        assert (known is None) == (longest == 0)
        if known is not None:
            source, count = known
            assert count == longest
            assert self.symbols[source][1][: len(has) + count] == has + more[:count]
        has += more
        self.touch(slot)

    @rule(one=slots, other=slots)
    def exchange(self, one: int, other: int) -> None:
        if {one, other} & self.pinned or one == other:
            return
        self.tree.exchange(one, other)
        has = {slot: self.symbols.pop(slot, None) for slot in (one, other)}
        self.symbols |= {
            new: held for old, new in ((one, other), (other, one)) if (held := has[old]) is not None
        }

    @precondition(lambda self: self.symbols)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.symbols)))
        length = data.draw(st.integers(0, len(self.symbols[slot][1])))
        self.tree.cut(slot, length)
        del self.symbols[slot][1][length:]

    @rule(slot=slots)
    def drop(self, slot: int) -> None:
        self.tree.drop(slot)
        self.symbols.pop(slot, None)

    def without_any(self) -> list[int]:
        """Holders that are not known, or known with nothing."""
        return sorted(h for h in SLOTS if not self.symbols.get(h, ((), []))[1])

    @precondition(lambda self: self.symbols and self.without_any())
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.symbols)))
        new = data.draw(st.sampled_from(self.without_any()))
        if new == old:
            return
        self.tree.rename(old, new)
        self.symbols[new] = self.symbols.pop(old)

    @rule(slot=slots)
    def pin(self, slot: int) -> None:
        self.tree.pin(slot)
        self.pinned.add(slot)

    @rule(slot=slots)
    def unpin(self, slot: int) -> None:
        self.tree.unpin(slot)
        self.pinned.discard(slot)
        if slot in self.symbols:
            self.touch(slot)

    @rule(count=st.integers(0, 20))
    def evict(self, count: int) -> None:
        before = {slot: len(has) for slot, (_, has) in self.symbols.items()}
        for _ in range(count):
            self.evict_one()
        after = {slot: len(has) for slot, (_, has) in self.symbols.items()}
        cuts = {slot: length for slot, length in after.items() if length != before[slot]}
        assert self.tree.evict(count) == cuts

    @rule(time=st.integers(1, 5))
    def tick(self, time: int) -> None:
        self.tree.tick(time)
        self.time += time

    @rule(age=st.integers(0, 12))
    def expire(self, age: int) -> None:
        before = {slot: len(has) for slot, (_, has) in self.symbols.items()}
        while self.evict_one(unused_since=self.time - age):
            pass
        after = {slot: len(has) for slot, (_, has) in self.symbols.items()}
        cuts = {slot: length for slot, length in after.items() if length != before[slot]}
        assert self.tree.expire(age) == cuts

    def evict_one(self, unused_since: float = math.inf) -> bool:
        """The last cell of the branch that was used least recently, unless it is pinned."""
        kept = {c for h in self.symbols if h in self.pinned for c in self.cells_of(h)}
        inner = {(namespace, path[:-1]) for namespace, path in self.all_cells()}
        ends = self.all_cells() - kept - inner
        oldest = min(ends, key=lambda cell: self.used[cell], default=None)
        if oldest is None or self.used[oldest] >= unused_since:
            return False
        for slot in self.symbols:
            if oldest in self.cells_of(slot):
                self.symbols[slot][1].pop()
        return True

    @rule(namespace=st.sampled_from(NAMESPACES), prompt=symbols)
    def match(self, namespace: object, prompt: list[int]) -> None:
        expected = {
            slot: length
            for slot, (where, has) in self.symbols.items()
            if where == namespace and (length := common(has, prompt))
        }
        found = self.tree.match(namespace, prompt)
        assert dict(found) == expected
        assert len(found) == len(expected)
        assert [length for _, length in found] == sorted(expected.values(), reverse=True)

    @invariant()
    def no_cell_is_counted_twice_or_forgotten(self) -> None:
        assert self.tree.cells == len(self.all_cells())

    @invariant()
    def every_holder_has_what_it_was_given(self) -> None:
        for slot in SLOTS:
            length = len(self.symbols[slot][1]) if slot in self.symbols else 0
            assert self.tree.length(slot) == length
            cells = set(self.cells_of(slot)) if length else set()
            last = self.used[self.cells_of(slot)[-1]] if length else 0
            assert self.tree.last_used(slot) == last
            others = {c for h in self.symbols if h != slot for c in self.cells_of(h)}
            assert self.tree.redundant(slot) == (cells <= others)
            assert self.tree.unshared(slot) == len(cells - others)

    @invariant()
    def nodes_are_runs_of_cells_with_the_same_holders(self) -> None:
        for root in self.tree._roots.values():
            for child in root.children.values():
                self.check_node(child)

    def check_node(self, node: _Node) -> None:
        assert node.symbols
        assert node.slots
        assert node.parent is not None
        assert node.start == node.parent.end
        assert node.parent.children[node.symbols[0]] is node
        assert node.slots <= node.parent.slots
        for child in node.children.values():
            assert child.slots != node.slots or child.used != node.used
            self.check_node(child)


TestTreeAndModel = TreeAndModel.TestCase
TestTreeAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def tree_of(*has: Sequence[int]) -> RadixTree:
    tree = RadixTree()
    for slot, each in enumerate(has):
        tree.insert(slot, (), each)
    return tree


def test_a_system_prompt_of_many_is_kept_once() -> None:
    tree = tree_of(*([1, 2, 3, 10 + i] for i in range(5)))
    assert tree.cells == 3 + 5


def test_the_same_tokens_in_another_namespace_are_other_cells() -> None:
    tree = tree_of([1, 2, 3])
    tree.insert(1, "adapter", [1, 2, 3])
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
    tree.insert(1, (), [1, 2, 7])
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
