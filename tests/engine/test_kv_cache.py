"""The books of the KV cache beside llama.cpp's own, on a tiny model with a unified cache."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import Finished
from localllm.engine.worker.kv_cache.radix_tree import UNUSED_TOKENS
from localllm.engine.worker.llama.lora import LoraKey
from localllm.engine.worker.llama.model import BatchToken
from tests.engine import native, tiny
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, settings

CELL_BYTES = 2 * 2 * tiny.WIDTH * 4 + 8
"""Of a written state, for each cell: keys and values of two layers in F32, a position, a count."""


class Counted(SteppedScheduler):
    """Checks after each step that as many cells are used as the books say."""

    def __init__(self, path: Path, load: LoadSettings) -> None:
        super().__init__(path, load)
        self.empty = native.llama_state_get_size(self.model.handle)

    def check(self) -> None:
        super().check()
        kv_cache = self.scheduler.kv_cache
        marks = sum(kv_cache.length(slot) for slot in range(self.model.settings.parallel))
        written = native.llama_state_get_size(self.model.handle) - self.empty - 4 * marks
        assert written // CELL_BYTES == kv_cache.used_cells

    def cached(self, prompt: str, *, max_tokens: int = 4) -> int:
        """Ask, and return the number of the prompt's tokens that were in the cache."""
        self.ask(prompt, max_tokens=max_tokens)
        end = next(e for e in reversed(self.events) if isinstance(e, Finished))
        return end.cached_tokens


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


@pytest.fixture
def alone(plain: Path) -> Iterator[Counted]:
    """One slot and 512 cells."""
    stepped = Counted(plain, settings(kv_unified=True, parallel=1, context=512))
    yield stepped
    stepped.close()


def texts(count: int, length: int, seed: int = 1) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices(tiny.CHARACTERS, k=length)) for _ in range(count)]


def test_one_slot_remembers_many_conversations(alone: Counted) -> None:
    conversations = texts(6, 60)
    assert [alone.cached(text) for text in conversations] == [0] * 6
    assert [alone.cached(text + "more") for text in conversations] == [60] * 6


def test_when_every_spare_slot_is_full_the_oldest_conversation_is_dropped(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=1, context=4096))
    conversations = texts(280, 5)
    for text in conversations:
        stepped.ask(text, max_tokens=1)
    assert [stepped.cached(text + "!", max_tokens=1) for text in conversations[-200:]] == [5] * 200
    assert sum(stepped.cached(text + "!", max_tokens=1) for text in conversations[:20]) < 40
    stepped.close()


def test_the_last_spare_slot_is_not_cleared_for_a_prompt_that_continues_it(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=255, context=16))
    conversations = texts(256, 4)
    for text in conversations:
        stepped.ask(text, max_tokens=1)
    kv_cache = stepped.scheduler.kv_cache
    assert kv_cache.length(255) == 4  # the only spare slot, and the first is in it
    assert stepped.cached(conversations[0] + "!", max_tokens=1) == 4
    stepped.close()


def test_a_conversation_that_is_edited_keeps_what_came_after_too(alone: Counted) -> None:
    (text,) = texts(1, 100)
    alone.ask(text, max_tokens=4)
    assert alone.cached(text[:80] + "other words") == 80
    assert alone.cached(text + "and on") == 100


def test_a_full_cache_evicts_the_oldest_and_no_more_than_it_must(alone: Counted) -> None:
    first, second, third = texts(3, 200)
    alone.ask(first, max_tokens=1)
    alone.ask(second, max_tokens=1)
    alone.ask(third, max_tokens=1)  # 600 for 512 cells
    assert alone.scheduler.kv_cache.used_cells == 512
    assert alone.cached(second, max_tokens=1) == 199  # all but the last, which is computed again,
    assert alone.cached(first, max_tokens=1) == 200 - 88 - 1  # and took one more from the first
    assert alone.cached(second, max_tokens=1) == 199
    assert alone.cached(third, max_tokens=1) < 199


def test_a_system_prompt_outlives_the_conversations_that_had_it(alone: Counted) -> None:
    system, *rest = texts(9, 100)
    for text in rest:
        alone.ask(system + text, max_tokens=1)
    assert alone.cached(system + "a new one", max_tokens=1) >= 100


def test_a_conversation_that_nobody_continues_expires(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=1, context=4096))
    system, ended = texts(2, 50)
    stepped.ask(system + ended, max_tokens=1)
    others = texts(45, 100, seed=2)
    for text in others[:15]:
        stepped.ask(system + text, max_tokens=1)
    assert stepped.cached(system + ended, max_tokens=1) == 99
    for text in others[15:]:
        stepped.ask(system + text, max_tokens=1)
    assert stepped.cached(system + ended, max_tokens=1) < 60
    assert stepped.scheduler.kv_cache.used_cells < UNUSED_TOKENS + 200
    stepped.close()


def test_what_one_computed_is_not_used_with_other_adapters(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=2))
    prompt = list(range(30))
    kv_cache = stepped.scheduler.kv_cache
    keys: tuple[LoraKey, ...] = ((), ((0, 1.0),))
    for key in keys:
        slot = kv_cache.acquire(prompt, key)
        assert kv_cache.length(slot) == 0
        stepped.model.decode([BatchToken(token, i, slot, False) for i, token in enumerate(prompt)])
        kv_cache.append(slot, prompt)
        kv_cache.release(slot)
    assert kv_cache.used_cells == 60
    for key in keys:
        assert kv_cache.length(kv_cache.acquire(prompt, key)) == 29
    stepped.close()


def test_what_two_compute_at_once_is_kept_once(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=2))
    (prompt,) = texts(1, 25)  # too short to wait for
    stepped.submit("one", prompt, max_tokens=6)
    stepped.submit("two", prompt, max_tokens=6)
    stepped.run()
    assert stepped.text("one") == stepped.text("two")
    assert stepped.scheduler.kv_cache.used_cells == 25 + 5
    stepped.close()


def test_an_answer_that_is_still_being_written_is_used_by_the_next_prompt(plain: Path) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=2))
    (prompt,) = texts(1, 30)
    stepped.submit("writes", prompt, max_tokens=60)
    while len(stepped.text("writes")) < 40:
        stepped.step()
    said = stepped.text("writes")[:30]
    stepped.submit("reads", prompt + said + "?", max_tokens=2)
    stepped.run()
    end = stepped.end("reads")
    assert isinstance(end, Finished)
    assert end.cached_tokens == 60
    stepped.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_books_are_right_whatever_happens(plain: Path, seed: int) -> None:
    stepped = Counted(plain, settings(kv_unified=True, parallel=3, context=200))
    reference = Reference(plain, settings(kv_unified=True, parallel=1, context=200))
    dice = random.Random(seed)
    known = texts(4, 120, seed)
    asked: dict[str, str] = {}
    for number in range(60):
        begin = dice.choice(known)[: dice.randrange(1, 120)]
        asked[f"r{number}"] = begin + "".join(dice.choices(tiny.CHARACTERS, k=dice.randrange(9)))
        stepped.submit(f"r{number}", asked[f"r{number}"], max_tokens=dice.randrange(1, 40))
        for _ in range(dice.randrange(12)):
            stepped.step(aborted=dice.random() < 0.05)
        if dice.random() < 0.2:
            stepped.scheduler.cancel(dice.choice(list(asked)))
            stepped.check()
    stepped.run()
    for request_id in dice.sample(list(asked), 12):
        assert isinstance(stepped.end(request_id), Finished)
        answer = stepped.text(request_id)
        assert reference.agrees(asked[request_id], answer, max_tokens=40, whole=False)
    stepped.close()
    reference.close()


def test_conversations_that_go_on_are_side_by_side_and_nothing_is_computed_twice(
    plain: Path,
) -> None:
    """Eight over eight slots, three of them at a time, in any order."""
    stepped = SteppedScheduler(plain, settings(parallel=8, context=512))
    dice, system = random.Random(5), texts(1, 60)[0]
    conversations = [system] * 8
    for turn in range(8):
        order = dice.sample(range(8), 3 if turn else 8)
        before = list(conversations)
        for number, i in enumerate(order):
            conversations[i] += texts(1, 12, seed=100 * turn + number)[0]
            stepped.submit(f"{turn}:{i}", conversations[i], max_tokens=24)
            stepped.step()
        if turn:
            slots = sorted(each.slot for each in stepped.running.values())
            assert slots == list(range(slots[0], slots[0] + 3))
        stepped.run()
        for i in order:
            end = stepped.finished(f"{turn}:{i}")
            assert end.cached_tokens >= (len(before[i]) - 1 if turn else 0)
            conversations[i] += stepped.text(f"{turn}:{i}")
    alone = Reference(plain, settings(parallel=1, context=512))
    for i, text in enumerate(conversations):  # what was moved is what was computed
        answer = stepped.ask(text, max_tokens=8)
        assert alone.agrees(text, answer, max_tokens=8, whole=True), i
    alone.close()
    stepped.close()
