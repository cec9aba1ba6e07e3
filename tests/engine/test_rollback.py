"""A recurrent state that keeps snapshots takes draft tokens back, and never more than it can."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.worker.kv_cache.memory_kind import RecurrentMemory
from localllm.engine.worker.llama.model import Aborted, BatchToken, Model
from localllm.engine.worker.sampling.logits import logits_of
from tests.engine import tiny
from tests.engine.stepped_scheduler import log, settings

DRAFTS = 4
CLOSE = 1e-4
"""Logits: batches of other sizes sum in another order, which made a difference of 1.4e-6 here."""
TEXT = [3 + i % 20 for i in range(24)]
START = 6


class Slots:
    """A model whose slots have computed the beginning of TEXT, and its memory."""

    def __init__(self, path: Path, load: LoadSettings) -> None:
        self.model = Model(str(path), load, log=log(), on_progress=lambda _: None)
        self.memory = RecurrentMemory(self.model)

    def compute(self, *parts: tuple[int, list[int], int]) -> list[np.ndarray]:
        """Compute (slot, tokens, start) in one batch; the logits of its rows."""
        self.memory.begin_batch({slot: len(tokens) for slot, tokens, _ in parts})
        batch = [
            BatchToken(token, start + i, slot, output=True)
            for slot, tokens, start in parts
            for i, token in enumerate(tokens)
        ]
        self.model.decode(batch)
        width = self.model.vocab.size
        return [logits_of(self.model.handle, row, width).copy() for row in range(len(batch))]

    def begin(self, *slots: int) -> None:
        for slot in slots:
            self.model.remove_cells(slot)
            self.compute((slot, TEXT[:START], 0))

    def drafted(self, right: int, wrong: int) -> list[int]:
        return TEXT[START : START + right] + [2] * wrong


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.rolling_back(tmp_path_factory.mktemp("tiny") / "lfm2.gguf")


@pytest.fixture(scope="module")
def slots(path: Path) -> Iterator[Slots]:
    load = replace(settings(), speculate=Speculate.NGRAM, draft_max=DRAFTS)
    slots = Slots(path, load)
    yield slots
    slots.model.close()


@pytest.fixture(scope="module")
def expected(slots: Slots) -> list[np.ndarray]:
    """The logits after each token of TEXT, computed one by one."""
    slots.model.remove_cells(0)
    return [slots.compute((0, [token], i))[0] for i, token in enumerate(TEXT)]


def check(row: np.ndarray, expected: np.ndarray) -> None:
    assert float(np.abs(row - expected).max()) < CLOSE


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_as_many_are_taken_back_as_the_newest_batch_has_snapshots_of(
    slots: Slots, expected: list[np.ndarray], size: int
) -> None:
    assert slots.model.snapshots == DRAFTS
    for wrong in range(1, size + 1):
        slots.begin(0)
        slots.compute((0, slots.drafted(size - wrong, wrong), START))
        kept = START + size - wrong
        can = wrong <= min(DRAFTS, size - 1)
        assert slots.memory.truncate(0, kept) is can
        assert slots.model.newest_position(0) == (kept - 1 if can else -1)
        if can:
            for i in range(kept, kept + 3):
                check(slots.compute((0, [TEXT[i]], i))[0], expected[i])


def test_a_second_cut_of_the_same_batch_is_refused(slots: Slots) -> None:
    slots.begin(0)
    slots.compute((0, slots.drafted(3, 1), START))
    assert slots.memory.truncate(0, START + 3)
    assert not slots.memory.truncate(0, START + 2)
    assert slots.model.newest_position(0) == -1


def test_an_aborted_batch_leaves_nothing_to_go_on_from(slots: Slots) -> None:
    slots.begin(0)
    slots.compute((0, slots.drafted(4, 0), START))
    slots.model.abort.raise_()
    with pytest.raises(Aborted):
        slots.compute((0, [TEXT[START + 4]], START + 4))
    slots.model.abort.lower()
    slots.memory.abandon_batch([0])
    assert not slots.memory.truncate(0, START + 4)


def test_slots_are_cut_each_by_its_own_number_of_drafts(
    slots: Slots, expected: list[np.ndarray]
) -> None:
    slots.begin(0, 1, 2)
    for right, wrong in (((1, 1, 1), (1, 0, 3)), ((1, 3, 1), (2, 0, 0)), ((2, 1, 1), (0, 1, 2))):
        starts = [slots.model.newest_position(slot) + 1 for slot in range(3)]
        ends = [start + count for start, count in zip(starts, right, strict=True)]
        slots.compute(
            *(
                (slot, TEXT[starts[slot] : ends[slot]] + [2] * wrong[slot], starts[slot])
                for slot in range(3)
            )
        )
        for slot in range(3):
            assert slots.memory.truncate(slot, ends[slot])
        for slot in (2, 0):  # a batch without a slot that was cut leaves it as it is
            check(slots.compute((slot, [TEXT[ends[slot]]], ends[slot]))[0], expected[ends[slot]])
    for slot in range(3):
        at = slots.model.newest_position(slot) + 1
        check(slots.compute((slot, [TEXT[at]], at))[0], expected[at])


def test_a_state_is_that_of_the_tokens_that_are_left(
    slots: Slots, expected: list[np.ndarray]
) -> None:
    slots.begin(0)
    slots.compute((0, slots.drafted(2, 2), START))
    assert slots.memory.truncate(0, START + 2)
    state = memoryview(bytearray(slots.model.state_bytes(0)))
    assert slots.model.copy_state(0, state)
    slots.model.remove_cells(1)
    assert slots.model.put_state(1, START + 2, state)
    for slot in (1, 0):
        check(slots.compute((slot, [TEXT[START + 2]], START + 2))[0], expected[START + 2])
