"""The kinds of memory: which model has which, and the slots that each of them chooses."""

from collections.abc import Callable, Hashable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.kv_cache.memory_kind import (
    MemoryKind,
    RecurrentMemory,
    StreamMemory,
    UnifiedMemory,
    WindowMemory,
)
from localllm.engine.worker.kv_cache.radix_tree import RadixTree
from localllm.engine.worker.llama.model import Model
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings


@pytest.mark.parametrize(
    ("make", "unified", "kind"),
    [
        (tiny.plain, True, UnifiedMemory),
        (tiny.plain, False, StreamMemory),
        (tiny.windowed, True, WindowMemory),
        (tiny.windowed, False, StreamMemory),
        (tiny.recurrent, True, RecurrentMemory),
        (tiny.hybrid, False, RecurrentMemory),
    ],
)
def test_a_model_has_the_kind_of_its_layers_and_streams(
    tmp_path: Path, make: Callable[[Path], Path], unified: bool, kind: type[MemoryKind]
) -> None:
    load = settings(kv_unified=unified)
    with closing(SteppedScheduler(make(tmp_path / "model.gguf"), load)) as stepped:
        assert type(stepped.memory) is kind


def test_one_slot_is_a_unified_cache(tmp_path: Path) -> None:
    path = tiny.plain(tmp_path / "model.gguf")
    with closing(SteppedScheduler(path, settings(parallel=1, kv_unified=False))) as stepped:
        assert isinstance(stepped.memory, UnifiedMemory)


@dataclass
class FakeModel:
    """The positions that a cache has for each slot, and nothing else of a model."""

    positions: dict[int, range] = field(default_factory=dict)
    window: int = 0
    snapshots: int = 0
    unified_cache: bool = True
    cells: int = 100
    cells_per_sequence: int = 100
    settings: LoadSettings = field(default_factory=lambda: LoadSettings(parallel=4))

    def oldest_position(self, slot: int) -> int:
        return min(self.positions.get(slot, ()), default=-1)

    def newest_position(self, slot: int) -> int:
        return max(self.positions.get(slot, ()), default=-1)

    def remove_cells(self, slot: int, start: int = 0, end: int = -1) -> bool:
        has = self.positions.get(slot, range(0))
        self.positions[slot] = range(has.start, min(has.stop, start)) if start else range(0)
        return True


def fake(kind: type[MemoryKind], model: FakeModel) -> MemoryKind:
    stand_in: Model = model  # type: ignore[assignment]  # all that memory asks of a model
    return kind(stand_in)


def tree_of(
    tokens: dict[int, list[int]], key: Callable[[int], Hashable] = lambda _: ()
) -> RadixTree:
    tree = RadixTree()
    for slot, has in tokens.items():
        tree.insert(slot, key(slot), has)
    return tree


def test_a_window_continues_where_every_token_in_it_is_there() -> None:
    memory = fake(WindowMemory, FakeModel({0: range(10, 30)}, window=8))
    assert [at for at in range(40) if memory.can_continue_at(0, at)] == list(range(17, 31))


def test_a_recurrent_state_continues_at_its_end_alone() -> None:
    memory = fake(RecurrentMemory, FakeModel({0: range(20)}))
    assert [at for at in range(40) if memory.can_continue_at(0, at)] == [20]
    assert not memory.can_rewind


def test_a_cut_that_is_impossible_empties_the_slot() -> None:
    model = FakeModel({0: range(20), 1: range(20)})
    memory = fake(RecurrentMemory, model)
    assert not memory.truncate(0, 10)
    assert memory.truncate(1, 20)
    assert memory.truncate(1, 0)
    assert [len(model.positions[slot]) for slot in (0, 1)] == [0, 0]


def test_unified_memory_overwrites_the_oldest_slot_and_shares_the_rest() -> None:
    memory = fake(UnifiedMemory, FakeModel())
    tree = tree_of({0: [1] * 30, 1: [2] * 30})
    assert memory.place({1: 20}, {0, 1}, set(), tree) == (0, 1)
    assert memory.place({1: 30}, {0, 1}, set(), tree) == (1, 1)  # it goes on with all of it


def test_stream_memory_keeps_what_is_remembered() -> None:
    memory = fake(StreamMemory, FakeModel(unified_cache=False))
    tree = tree_of({0: [1] * 40, 1: [2] * 40, 2: []})
    assert memory.place({1: 40}, {0, 1, 2}, set(), tree) == (1, 1)
    assert memory.place({1: 24}, {0, 1, 2}, set(), tree) == (1, 1)  # what it loses is a copy's cost
    assert memory.place({1: 23}, {0, 1, 2}, set(), tree) == (2, 1)  # a copy to the empty one
    assert memory.place({1: 15}, {0, 1, 2}, set(), tree) == (2, 2)  # too little for a copy
    assert memory.place({1: 10}, {0, 1}, set(), tree) == (1, 1)  # both lose; the other one more


def test_stream_memory_goes_on_in_its_own_slot_also_beside_nobody() -> None:
    memory = fake(StreamMemory, FakeModel(unified_cache=False))
    tree = tree_of({0: [1] * 40, 1: [2] * 40, 2: [3] * 40, 3: []})
    assert memory.place({2: 40}, {1, 2, 3}, {0}, tree) == (2, 2)
    assert memory.place({}, {1, 3}, {0, 2}, tree) == (3, 3)  # the empty one
    assert memory.place({}, {1, 3}, {2}, tree_of({2: [3] * 40})) == (1, 1)


def test_cells_that_are_read_now_are_not_copied_before() -> None:
    memory = fake(StreamMemory, FakeModel(unified_cache=False))
    tree = tree_of({0: [1] * 40, 1: [1] * 20, 2: []})
    assert memory.place_to_read({0: 40, 1: 20}, {1, 2}, {0}, tree) == (1, 1)
    assert memory.place_to_read({0: 40}, {1, 2}, {0}, tree) is None


def test_slots_that_share_nothing_go_on_with_what_they_have() -> None:
    memory = fake(WindowMemory, FakeModel(window=8))
    tree = tree_of({0: [1] * 40, 1: [2] * 40}, key=lambda slot: ((), slot))
    assert memory.place({0: 30}, {0, 1}, set(), tree) == (0, 0)
    assert memory.evict(tree, 10, {0, 1}) == {0: 0}
    assert tree.length(0) == 0
