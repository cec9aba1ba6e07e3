"""The second tier of the KV cache: what slots give up comes back from host memory."""

import random
import threading

import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from localllm.core.hardware import Memory
from localllm.core.sizing.host_cache import MAX_BYTES, pressure_limit, reserve_bytes, store_limit
from localllm.engine.messages import Finished, GenerateRequest, Sampling
from localllm.engine.worker.kv_cache.host_cache import (
    MIN_GAIN_TOKENS,
    MIN_LOST_TOKENS,
    HostCache,
    State,
    value,
)
from localllm.engine.worker.kv_cache.host_memory import MemoryWatch, make_host_cache
from localllm.engine.worker.llama.lora import LoraKey
from tests.engine import tiny
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, settings

GIB = 2**30
LOST = 10
"""Tokens that are nowhere else."""
KINDS = {
    "plain": (tiny.plain, False),
    "pool": (tiny.plain, True),
    "windowed": (tiny.windowed, False),
    "recurrent": (tiny.recurrent, False),
    "hybrid": (tiny.hybrid, False),
}


def written(cells: memoryview) -> bool:
    cells[:] = b"x" * len(cells)
    return True


def held(cache: HostCache) -> set[tuple[int, ...]]:
    return {tuple(state.tokens) for _, state in cache.states()}


# --- what is kept ---


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 40)), max_size=40),
    st.integers(20, 200),
)
@given_settings(max_examples=40, deadline=None)
def test_it_never_takes_more_than_it_may_and_finds_what_it_has(
    stored: list[tuple[int, int, int]], limit: int
) -> None:
    cache = HostCache(lambda _held: limit)
    for family, length, size in stored:
        tokens = [family, *range(10, 10 + length)]
        if not cache.covers((), tokens):
            done = cache.store((), tokens, size, lost=LOST, oldest=0, copy=written)
            assert done == (size <= limit)
        states = cache.states()
        assert cache.size_bytes == sum(state.size_bytes for _, state in states) <= limit
        for _, state in states:
            found = {tuple(each.tokens): n for _, each, n in cache.match((), state.tokens)}
            assert found[tuple(state.tokens)] == len(state.tokens)
            others = [each for _, each in states if each is not state]
            assert not any(each.tokens[: len(state.tokens)] == state.tokens for each in others)
    cache.close()
    assert cache.size_bytes == 0


@given(
    st.floats(0, 1e6),
    st.integers(16, 10**6),
    st.integers(16, 10**6),
    st.integers(1, 2**40),
    st.integers(1, 2**40),
)
def test_what_saves_more_tokens_for_a_byte_or_was_used_later_is_worth_more(
    age: float, few: int, more: int, small: int, large: int
) -> None:
    few, more = sorted((few, more))
    small, large = sorted((small, large))
    assert value(age, few, small) <= value(age, more, small)
    assert value(age, few, large) <= value(age, few, small)
    assert value(age, few, large) <= value(value(age, more, small), few, large)


def test_tokens_that_take_fewer_bytes_stay_and_old_states_go_all_the_same() -> None:
    cache = HostCache(lambda _held: 100)
    cache.store((), [1, *range(50)], 50, lost=51, oldest=0, copy=written)
    cache.store((), [2, *range(9)], 50, lost=10, oldest=0, copy=written)
    cache.store((), [3, *range(9)], 50, lost=10, oldest=0, copy=written)
    assert {each[0] for each in held(cache)} == {1, 3}
    for number in range(4, 20):  # a state that nobody uses ages
        cache.store((), [number, *range(9)], 50, lost=10, oldest=0, copy=written)
    assert {each[0] for each in held(cache)} == {18, 19}


def test_a_state_is_stored_where_that_is_cheap_and_holds_nobody_up() -> None:
    cache = HostCache(lambda _held: 2**40)
    for _ in range(50):
        cache.record_step(100, 1.0)  # a token takes 10 ms; copies some GB/s, as long as none was
    gigabyte = 10**9
    assert cache.is_worth(1000, gigabyte)
    assert not cache.is_worth(100, gigabyte)  # 1 s to compute, 1 s to copy
    assert not cache.is_worth(15, 1)
    assert cache.is_worth(1000, gigabyte, most_tokens=512)
    assert not cache.is_worth(1000, gigabyte, most_tokens=64)  # others would wait for longer


def test_a_state_too_large_costs_no_other_its_place() -> None:
    cache = HostCache(lambda _held: 100)
    cache.store((), [1] * 20, 50, lost=20, oldest=0, copy=written)
    assert not cache.store((), [1] * 40, 101, lost=20, oldest=0, copy=written)
    assert held(cache) == {(1,) * 20}


def test_a_state_moves_into_its_slot_or_stays_for_the_others_that_begin_like_it() -> None:
    cache = HostCache(lambda _held: 1000)
    cache.store((), list(range(100)), 10, lost=LOST, oldest=0, copy=written)
    ((id_, _, _),) = cache.match((), list(range(40)))
    assert cache.restore(id_, 40, lambda state: len(state.tokens) == 100)
    assert held(cache)
    assert cache.restore(id_, 95, lambda _state: True)
    assert not held(cache)
    assert cache.size_bytes == 0
    assert not cache.restore(id_, 95, lambda _state: True)


def test_while_a_state_is_read_another_one_may_need_its_room() -> None:
    """A slot that takes a state gives up its own: also when there is room for one of them only."""
    cache = HostCache(lambda held_bytes: 10 if held_bytes else 20)
    cache.store((), list(range(100)), 10, lost=LOST, oldest=0, copy=written)
    ((id_, _, _),) = cache.match((), list(range(100)))

    def read(state: State) -> bool:
        cache.store((), [7] * 50, 10, lost=LOST, oldest=0, copy=written)
        return bytes(state.cells[:]) == b"x" * 10

    assert cache.restore(id_, 100, read)
    assert cache.size_bytes == sum(state.size_bytes for _, state in cache.states())


# --- whose memory it is ---


@given(st.integers(0, 64 * GIB), st.integers(0, 64 * GIB), st.integers(0, 16 * GIB))
def test_the_reserve_stays_free_and_half_of_the_rest(
    total: int, available: int, held_bytes: int
) -> None:
    limit = store_limit(total, available, held_bytes)
    assert 0 <= limit <= MAX_BYTES
    assert 2 * limit <= max(0, available + held_bytes - reserve_bytes(total))
    given_limit = store_limit(total, available, held_bytes, cache_ram=3 * GIB)
    assert given_limit == min(3 * GIB, pressure_limit(total, available, held_bytes))


def test_others_who_need_the_memory_get_it_also_while_nothing_is_computed() -> None:
    free = [Memory(total_bytes=8 * GIB, available_bytes=4 * GIB)]
    cache = HostCache(lambda _held: 10**6)
    for number in range(10):
        cache.store((), [number] * 20, 10**5, lost=LOST, oldest=0, copy=written)
    watch = MemoryWatch(cache, lambda: free[0], interval_s=0.001)
    assert watch.check() == 0
    missing = 2 * 10**5
    free[0] = Memory(total_bytes=8 * GIB, available_bytes=reserve_bytes(8 * GIB) - missing)
    thread = threading.Thread(target=watch.run)
    thread.start()
    with cache.changed:
        assert cache.changed.wait_for(lambda: cache.size_bytes <= 10**6 - missing, 60)
    cache.close()
    thread.join(60)
    assert not thread.is_alive()


def test_it_can_be_switched_off() -> None:
    assert make_host_cache(0) is None


# --- behind slots ---


def always_worth(cache: HostCache) -> HostCache:
    """Measured times are noise on models this small."""

    def is_worth(lost: int, size_bytes: int, *, most_tokens: int | None = None) -> bool:
        return lost >= MIN_LOST_TOKENS

    cache.is_worth = is_worth  # type: ignore[method-assign]
    return cache


@pytest.mark.parametrize("kind", KINDS)
def test_more_conversations_than_slots_find_what_they_had(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    make, unified = KINDS[kind]
    path = make(tmp_path_factory.mktemp("tiny") / f"{kind}.gguf")
    load = settings(parallel=2, context=150, kv_unified=unified)
    cache = always_worth(HostCache(lambda _held: 2**24))
    stepped = SteppedScheduler(path, load, host=cache)
    reference = Reference(path, settings(parallel=1))
    dice = random.Random(1)
    texts = ["".join(dice.choices(tiny.CHARACTERS, k=60)) for _ in range(7)]
    known = [0] * len(texts)
    for _ in range(3):
        for number, text in enumerate(texts):
            answer = stepped.ask(text, max_tokens=4)
            assert reference.agrees(text, answer, max_tokens=4, whole=True)
            end = stepped.events[-1]
            assert isinstance(end, Finished)
            # Of a pool the oldest cells are evicted one by one; a copy for a few does not pay.
            assert end.cached_tokens >= known[number] - (MIN_GAIN_TOKENS if unified else 0)
            known[number] = len(text)  # the next prompt goes on with it
            texts[number] = text + answer + "".join(dice.choices(tiny.CHARACTERS, k=5))
    assert cache.stats().restored >= (1 if unified else 2 * (len(texts) - 2))
    stepped.close()
    reference.close()
    assert cache.size_bytes == 0


def test_what_one_adapter_computed_is_not_restored_for_another() -> None:
    cache = HostCache(lambda _held: 1000)
    one: LoraKey = ((0, 1.0),)
    cache.store(one, list(range(50)), 10, lost=LOST, oldest=0, copy=written)
    assert cache.match((), list(range(50))) == []
    assert len(cache.match(one, list(range(50)))) == 1


def test_a_seed_gets_from_host_memory_only_what_was_computed_in_its_chunks(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")
    cache = always_worth(HostCache(lambda _held: 2**24))
    stepped = SteppedScheduler(path, settings(parallel=2, context=150), host=cache)
    dice = random.Random(1)
    texts = ["".join(dice.choices(tiny.CHARACTERS, k=100)) for _ in range(3)]
    found: list[int] = []
    answers: list[str] = []
    for number, text in enumerate(texts * 2):
        name = f"request{number}"
        stepped.submit_request(
            GenerateRequest(request_id=name, prompt=text, sampling=Sampling(seed=1), max_tokens=8)
        )
        stepped.run()
        found.append(stepped.finished(name).cached_tokens)
        answers.append(stepped.text(name))
    chunk = stepped.model.fixed_chunk_tokens
    assert found == [0] * 3 + [99 // chunk * chunk] * 3
    assert answers[:3] == answers[3:]
    stepped.close()
