"""Many models in one memory: on demand, one load at a time, none taken from under a request.

The machine's free memory is what its running engines leave, so that what fits is decided as on a
real one.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.engine.fake import Script
from localllm.engine.messages import GenerateRequest, HostCacheStats
from localllm.errors import DeadlineExceeded, EngineCrashed, LoadFailed, QueueFull
from localllm.runtime.model_pool import pool as pool_module
from localllm.runtime.model_pool.admission import InsufficientMemory
from localllm.runtime.model_pool.listing import ModelListing, ModelState
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.runtime import TooLarge
from tests.runtime.pool_machine import PoolMachine

LOADED = 5
"""Steps of a scripted load."""


@pytest.fixture
def machine(tmp_path: Path) -> PoolMachine:
    return PoolMachine(tmp_path)


class Request:
    """A request that is in flight until it is finished."""

    def __init__(self, pool: ModelPool, model: str, **options: float) -> None:
        self._done = asyncio.Event()
        self.served = asyncio.Event()
        self.task = asyncio.create_task(self._run(pool, model, options))

    async def _run(self, pool: ModelPool, model: str, options: dict[str, float]) -> None:
        async with pool.acquire(model, keep_alive=options.get("keep_alive")):
            assert pool.runtime.holds(model)
            self.served.set()
            await self._done.wait()
            assert pool.runtime.holds(model)

    async def finish(self) -> None:
        self._done.set()
        await self.task


async def use(pool: ModelPool, model: str, keep_alive: float | None = None) -> None:
    async with pool.acquire(model, keep_alive=keep_alive):
        assert pool.runtime.holds(model)


def listing(pool: ModelPool, name: str) -> ModelListing:
    return next(each for each in pool.listed() if each.name == name)


async def until(condition: Callable[[], bool]) -> None:
    """Pass the turn until something has come about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0.001)


async def until_waiting(pool: ModelPool, name: str, requests: int = 1) -> None:
    """Pass the turn until so many requests are at a model, and its load was decided on."""

    def waiting() -> bool:
        at = listing(pool, name)
        return at.requests == requests and at.plan is not None

    await until(waiting)


async def test_a_model_is_loaded_when_it_is_named_and_once_for_all(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    assert {each.state for each in pool.listed()} == {ModelState.UNLOADED}
    gate = asyncio.Semaphore(0)
    machine.scripts["a"] = Script(load_gate=gate)
    requests = [Request(pool, "a") for _ in range(5)]
    await until_waiting(pool, "a", 5)
    gate.release()
    gate.release()
    waiting = listing(pool, "a")
    assert (waiting.state, waiting.resident) == (ModelState.LOADING, None)
    for _ in range(LOADED):
        gate.release()
    await asyncio.gather(*(each.served.wait() for each in requests))
    assert machine.loads == ["a"]
    ready = listing(pool, "a")
    assert (ready.state, ready.requests, ready.slots) == (ModelState.READY, 5, 1)
    assert ready.estimated_bytes == machine.model_bytes
    assert ready.plan is not None
    assert "stay free" in ready.plan
    await asyncio.gather(*(each.finish() for each in requests))
    assert listing(pool, "a").last_used_s == 0
    await pool.close()


async def test_what_does_not_fit_beside_an_idle_model_replaces_it(
    machine: PoolMachine, smollm2: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "localllm.pool")
    pool = await machine.pool(smollm2)
    await use(pool, "a")
    await use(pool, "b")
    assert machine.running == ["b"]
    assert "after unloading a;" in caplog.text
    machine.room = 2.5
    await use(pool, "a")
    assert machine.running == ["b", "a"]
    assert not any(record.levelno > logging.INFO for record in caplog.records)
    await pool.close()


async def test_a_busy_model_is_waited_for_and_later_requests_for_it_come_after(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    first = Request(pool, "a")
    await first.served.wait()
    other = Request(pool, "b")
    await until_waiting(pool, "b")
    later = Request(pool, "a")
    await until_waiting(pool, "a", 2)
    assert not later.served.is_set()
    assert "waits for a" in (listing(pool, "b").plan or "")
    await first.finish()
    await other.served.wait()
    assert machine.running == ["b"]
    third = Request(pool, "b")  # it is in memory
    await third.served.wait()
    await third.finish()
    await other.finish()
    await later.served.wait()
    assert machine.loads == ["a", "b", "a"]
    await later.finish()
    await pool.close()


async def test_requests_that_share_a_load_are_all_served_before_the_next_swap(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    requests = [Request(pool, name) for name in "ababcb"]
    for each in requests:
        each._done.set()
    await asyncio.gather(*(each.task for each in requests))
    assert machine.loads == ["a", "b", "c"]
    await pool.close()


async def test_what_is_pinned_stays_and_the_refusal_has_the_numbers(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2, pinned="a")
    await use(pool, "a")
    with pytest.raises(InsufficientMemory, match=r"a \(\d+ MiB\) cannot be unloaded") as refused:
        await use(pool, "b")
    assert refused.value.retry_after is None
    assert "MiB is free" in str(refused.value)
    assert machine.running == ["a"]
    await pool.load("a", pin=False)
    await use(pool, "b")
    assert machine.running == ["b"]
    await pool.close()


async def test_a_wait_that_is_too_long_is_refused_at_once_with_its_length(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    async with pool.acquire("a", max_tokens=1000) as busy:
        busy.count_token()
        await machine.clock.advance(1)
        busy.count_token()
        with pytest.raises(InsufficientMemory, match="busy for about") as refused:
            await use(pool, "b")
        assert refused.value.retry_after == 998
    await use(pool, "b")
    await pool.close()


async def test_nobody_waits_for_ever_where_no_end_is_known(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    busy = Request(pool, "a")
    await busy.served.wait()
    other = Request(pool, "b")
    await until_waiting(pool, "b")
    await machine.clock.advance(pool_module.MAX_WAIT_S)
    with pytest.raises(InsufficientMemory) as refused:
        await other.task
    assert refused.value.retry_after == 30
    again = Request(pool, "a")  # which is no longer promised to b
    await again.served.wait()
    await busy.finish()
    await again.finish()
    await pool.close()


async def test_memory_that_others_hold_may_come_back_and_a_limit_never(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    machine.room = 0.5
    with pytest.raises(InsufficientMemory, match="Other programs hold") as refused:
        await use(pool, "a")
    assert refused.value.retry_after == 30
    limited = PoolMachine(machine.data_dir / "limited", max_memory_bytes=machine.model_bytes - 1)
    limited.data_dir.mkdir()
    pool = await limited.pool(smollm2)
    with pytest.raises(InsufficientMemory, match=r"in all \(--max-memory\)") as never:
        await use(pool, "a")
    assert never.value.retry_after is None
    assert not limited.loads


async def test_a_limit_on_all_models_unloads_the_idle_one(
    machine: PoolMachine, smollm2: Path
) -> None:
    machine.max_memory_bytes = 600_000_000
    machine.room = 10
    pool = await machine.pool(smollm2)
    machine.max_memory_bytes = None
    await use(pool, "a")
    held = (await pool.runtime.outlook()).held["a"].total_bytes
    assert machine.model_bytes + held < 600_000_000 < machine.model_bytes + 2 * held
    await use(pool, "b")
    assert machine.running == ["a", "b"]
    await use(pool, "c")
    assert machine.running == ["b", "c"]
    assert "of 572 MiB stay free" in (listing(pool, "c").plan or "")
    await pool.close()


async def test_an_idle_model_is_unloaded_and_looking_at_it_does_not_keep_it(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2, keep_alive_s={"a": 60})
    await use(pool, "a")
    await machine.clock.advance(59)
    assert listing(pool, "a").expires_in_s == 1
    await use(pool, "a")
    await machine.clock.advance(59)
    busy = Request(pool, "a")
    await busy.served.wait()
    await machine.clock.advance(600)
    assert listing(pool, "a").expires_in_s is None
    await busy.finish()
    await machine.clock.advance(61)
    await until(lambda: machine.running == [])
    assert listing(pool, "a").state is ModelState.UNLOADED
    await use(pool, "a")
    assert machine.loads == ["a", "a"]
    await pool.close()


async def test_a_request_can_change_how_long_its_model_stays(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2, pinned="c")
    await use(pool, "a", keep_alive=0)
    await machine.clock.advance(0)
    await until(lambda: machine.running == [])
    await use(pool, "a", keep_alive=10)
    await use(pool, "a", keep_alive=-1)
    assert listing(pool, "a").keep_alive_s == float("inf")
    await machine.clock.advance(1e9)
    assert machine.running == ["a"]
    await use(pool, "c", keep_alive=1)
    assert listing(pool, "c").expires_in_s is None
    await pool.close()


async def test_who_leaves_does_not_end_a_load_for_others(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    gate = asyncio.Semaphore(0)
    machine.scripts["a"] = Script(load_gate=gate)
    leaves, stays = Request(pool, "a"), Request(pool, "a")
    await until_waiting(pool, "a", 2)
    leaves.task.cancel()
    for _ in range(LOADED):
        gate.release()
    await stays.served.wait()
    # A load that has begun is not thrown away; one that waits for memory is not begun.
    gone = Request(pool, "b")
    await until_waiting(pool, "b")
    gone.task.cancel()
    await asyncio.wait((gone.task,))
    again = Request(pool, "a")
    await again.served.wait()
    await asyncio.gather(stays.finish(), again.finish())
    assert machine.loads == ["a"]
    await pool.close()


async def test_all_who_wait_learn_why_a_load_failed_and_the_next_one_tries_again(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    crash = EngineCrashed("The engine's process ended (SIGKILL).", reason="SIGKILL")
    machine.scripts["a"] = Script(load_error=crash)
    results = await asyncio.gather(*(use(pool, "a") for _ in range(3)), return_exceptions=True)
    assert results == [crash] * 3
    assert machine.loads == ["a"]
    with pytest.raises(EngineCrashed):
        await use(pool, "a")
    with pytest.raises(LoadFailed, match="tried again in 30 s"):  # which nothing is unloaded for
        await use(pool, "a")
    machine.scripts["a"].load_error = None
    await machine.clock.advance(30)
    await use(pool, "a")
    assert machine.loads == ["a", "a", "a"]
    await pool.close()


async def test_unloading_waits_for_requests_and_later_ones_load_again(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    assert not await pool.unload("a")
    busy = Request(pool, "a")
    await busy.served.wait()
    unloading = asyncio.create_task(pool.unload("a"))
    await asyncio.sleep(0)
    later = Request(pool, "a")
    await busy.finish()
    assert await unloading
    await later.served.wait()
    await later.finish()
    assert machine.loads == ["a", "a"]
    await pool.close()


async def test_conversations_without_a_slot_are_in_the_way_of_no_load(
    machine: PoolMachine, smollm2: Path
) -> None:
    machine.scripts["a"] = Script(tokens=("x",), host_cache=HostCacheStats(size_bytes=10**9))
    pool = await machine.pool(smollm2)
    await use(pool, "a")
    before = await pool.runtime.outlook()
    request = GenerateRequest(request_id="r", prompt="Hello")
    async with pool.acquire("a"):
        assert [event async for event in pool.runtime.generate("a", request)]
    after = await pool.runtime.outlook()
    assert after.free_host_bytes(()) == before.free_host_bytes(()) + 10**9
    await pool.unload("a")
    assert (await pool.runtime.outlook()).releasable_bytes == 0
    await pool.close()


async def test_memory_that_does_not_come_back_is_a_warning(
    machine: PoolMachine, smollm2: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = await machine.pool(smollm2)
    machine.model_bytes *= 4  # more than other programs may take meanwhile
    machine.room, machine.leaks = 1.25, False
    await use(pool, "a")
    held = (await pool.runtime.outlook()).held["a"]
    assert held.host_bytes < machine.model_bytes
    machine.leaks = True
    replaced = asyncio.create_task(use(pool, "b"))
    while not replaced.done():
        await asyncio.sleep(0.001)
        await machine.clock.advance(0.2)
    assert isinstance(replaced.exception(), TooLarge)
    assert "came back after unloading a" in caplog.text
    await pool.close()


async def test_closing_ends_loads_and_those_who_wait(machine: PoolMachine, smollm2: Path) -> None:
    pool = await machine.pool(smollm2)
    machine.scripts["a"] = Script(load_gate=asyncio.Semaphore(0))
    waits, behind = Request(pool, "a"), Request(pool, "b")
    await until_waiting(pool, "a")
    await pool.close()
    for each in (waits, behind):
        with pytest.raises(EngineCrashed) as closed:
            await each.task
        assert closed.value.reason == "closed"
    assert machine.running == []


async def test_a_deadline_counts_the_load_and_a_crowd_is_turned_away(
    machine: PoolMachine, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await machine.pool(smollm2)
    gate = asyncio.Semaphore(0)
    machine.scripts["a"] = Script(load_gate=gate)
    with pytest.raises(DeadlineExceeded, match="not in memory within"):
        async with pool.acquire("a", deadline_s=0.01):
            raise AssertionError
    monkeypatch.setattr(pool_module, "MAX_WAITING", 1)
    first = Request(pool, "a")
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await use(pool, "b")
    for _ in range(LOADED):
        gate.release()
    await first.finish()
    await pool.close()


@pytest.mark.parametrize("room", [1.5, 2.5])
async def test_a_crowd_of_clients_that_come_and_leave_is_served_without_a_hang(
    machine: PoolMachine, smollm2: Path, room: float
) -> None:
    machine.room = room
    pool = await machine.pool(smollm2)
    chance, served = random.Random(7), 0

    async def client(name: str) -> None:
        nonlocal served
        async with pool.acquire(name, keep_alive=chance.choice([-1, 0, None])):
            for _ in range(chance.randrange(5)):
                assert pool.runtime.holds(name)
                await asyncio.sleep(0)
            served += 1

    clients = []
    for _ in range(120):
        clients.append(asyncio.create_task(client(chance.choice("abc"))))
        if chance.random() < 0.2:
            chance.choice(clients).cancel()
        if chance.random() < 0.1:
            await machine.clock.advance(1)
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*clients, return_exceptions=True)
    left = sum(isinstance(each, asyncio.CancelledError) for each in results)
    assert [each for each in results if each is not None] == [
        each for each in results if isinstance(each, asyncio.CancelledError)
    ]
    assert served == len(clients) - left
    assert len(machine.running) <= room
    assert {each.requests for each in pool.listed()} == {0}
    await pool.close()


class Observed:
    """What a pool's observer is informed of."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def load_finished(self, model: str, seconds: float, *, failed: bool = False) -> None:
        assert seconds >= 0
        self.events.append(("failed" if failed else "loaded", model))

    def evicted(self, model: str) -> None:
        self.events.append(("evicted", model))

    def unloaded(self, model: str) -> None:
        self.events.append(("unloaded", model))


async def test_an_observer_is_informed_of_every_model_that_comes_and_goes(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    observed = Observed()
    pool.observer = observed
    await use(pool, "a")
    await use(pool, "b")
    await pool.unload("b")
    machine.scripts["c"] = Script(load_error=LoadFailed("It is no model."))
    with pytest.raises(LoadFailed):
        await use(pool, "c")
    await use(pool, "a", keep_alive=0)
    await until(lambda: observed.events[-1] == ("unloaded", "a"))
    assert observed.events == [
        ("loaded", "a"),
        ("evicted", "a"),
        ("loaded", "b"),
        ("unloaded", "b"),
        ("failed", "c"),
        ("loaded", "a"),
        ("unloaded", "a"),
    ]
    await pool.close()
