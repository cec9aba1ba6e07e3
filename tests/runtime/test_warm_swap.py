"""Conversations of models that are unloaded come back with the next load, and cost no load."""

import asyncio
import logging
import os
import secrets
import signal
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from localllm.engine.messages import Finished, GenerateRequest, Sampling, Token
from localllm.errors import EngineCrashed
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import PoolModel, PoolModels
from localllm.runtime.model_pool.swap_places import SwapPlace, delete_leftovers, disk_place
from localllm.runtime.model_pool.warm_swap import (
    MAX_COPY_S,
    KeptConversations,
    KeptState,
    SwapLimits,
    WarmSwap,
    worth_taking_back,
)
from localllm.runtime.runtime import Runtime
from tests.runtime.pool_machine import CHOICE, PoolMachine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

STORY = "The old ship left the harbour in the morning and nobody knew its name. " * 8


@pytest.fixture
def machine(tmp_path: Path) -> PoolMachine:
    return PoolMachine(tmp_path)


def warm(machine: PoolMachine, pool: ModelPool, **limits: int) -> WarmSwap:
    swap = WarmSwap(pool.runtime, SwapLimits(**limits), machine.data_dir / "swap")
    pool.warm_swap = swap
    machine.kept_bytes = lambda: swap.ram_bytes
    return swap


async def use(pool: ModelPool, model: str) -> None:
    async with pool.acquire(model):
        assert pool.runtime.holds(model)


def kept(pool: ModelPool, name: str) -> KeptConversations | None:
    return next(each.kept for each in pool.listed() if each.name == name)


def open_places() -> int:
    """Count the memory files and deleted files that this process has open."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(str(link.readlink()))
    return sum("localllm-swap" in name or ".swap" in name for name in names)


async def test_conversations_come_back_in_their_order(
    machine: PoolMachine, smollm2: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "localllm.pool")
    pool = await machine.pool(smollm2)
    swap = warm(machine, pool)
    machine.scripts["a"] = Script(conversations=(300, 200, 100))
    await use(pool, "a")
    assert (kept(pool, "a"), swap.ram_bytes) == (None, 0)
    await use(pool, "b")
    assert kept(pool, "a") == KeptConversations(conversations=3, ram_bytes=600_000, disk_bytes=0)
    assert "a: kept: 3 conversations, 586 KiB." in caplog.text
    assert open_places() == 3
    await use(pool, "a")
    assert machine.scripts["a"].imported == [100, 200, 300]  # that used last comes last
    assert (kept(pool, "a"), open_places()) == (None, 0)
    assert "a goes on with 3 of 3 conversations (600 tokens)" in caplog.text
    await use(pool, "b")
    assert swap.ram_bytes == 600_000
    await pool.close()
    assert open_places() == 0


async def test_an_idle_model_leaves_them_behind_and_an_unwanted_one_does_not(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2, keep_alive_s={"a": 60})
    warm(machine, pool)
    machine.scripts["a"] = Script(conversations=(300,))
    await use(pool, "a")
    await asyncio.sleep(0)
    await machine.clock.advance(61)
    async with asyncio.timeout(30):
        while machine.running or kept(pool, "a") is None:  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.001)
    await use(pool, "a")
    assert machine.scripts["a"].imported == [300]
    await pool.unload("a")  # somebody wants the memory
    assert (kept(pool, "a"), open_places()) == (None, 0)
    await pool.close()


async def test_limits_hold_and_the_oldest_goes_first(machine: PoolMachine, smollm2: Path) -> None:
    pool = await machine.pool(smollm2)
    swap = warm(machine, pool, ram_bytes=500_000, disk_bytes=250_000)
    machine.scripts |= {
        "a": Script(conversations=(300, 100, 200, 150)),
        "b": Script(conversations=(450,)),
        "c": Script(conversations=(600,)),
    }
    await use(pool, "a")
    await use(pool, "b")  # 300 and 100 in memory, 200 on the disk; no room for 150
    assert kept(pool, "a") == KeptConversations(
        conversations=3, ram_bytes=400_000, disk_bytes=200_000
    )
    assert list((machine.data_dir / "swap").iterdir()) == []  # without a name
    await use(pool, "c")
    assert kept(pool, "a") == KeptConversations(conversations=1, ram_bytes=0, disk_bytes=200_000)
    assert kept(pool, "b") == KeptConversations(conversations=1, ram_bytes=450_000, disk_bytes=0)
    await use(pool, "b")
    assert (kept(pool, "b"), kept(pool, "c")) == (None, None)
    assert machine.scripts["b"].imported == [450]
    await use(pool, "a")
    assert machine.scripts["a"].imported == [200]
    assert swap.ram_bytes == 450_000
    await pool.close()
    assert open_places() == 0


async def test_they_are_kept_nowhere_when_that_is_wanted(
    machine: PoolMachine, smollm2: Path
) -> None:
    pool = await machine.pool(smollm2)
    warm(machine, pool, ram_bytes=0)
    machine.scripts["a"] = Script(conversations=(300,))
    await use(pool, "a")
    await use(pool, "b")
    await use(pool, "a")
    assert machine.scripts["a"].imported == []
    await pool.close()


async def test_a_load_that_needs_their_memory_gets_it(machine: PoolMachine, smollm2: Path) -> None:
    pool = await machine.pool(smollm2)
    swap = warm(machine, pool, ram_bytes=2**40)
    big = int(0.35 * machine.model_bytes / 1000)
    machine.scripts |= {name: Script(conversations=(big,)) for name in "ab"}
    machine.room = 1.9
    await use(pool, "a")
    await use(pool, "b")
    assert swap.ram_bytes == 1000 * big
    machine.room = 1.26  # another program has taken the rest
    await use(pool, "c")
    assert machine.loads == ["a", "b", "c"]
    assert swap.ram_bytes == 0
    machine.room = 2.5
    await use(pool, "a")
    assert machine.scripts["a"].imported == []
    await pool.close()


async def test_what_cannot_come_back_is_read_again(machine: PoolMachine, smollm2: Path) -> None:
    pool = await machine.pool(smollm2)
    swap = warm(machine, pool)
    machine.scripts["a"] = Script(conversations=(300, 200), torn=True)
    await use(pool, "a")
    await use(pool, "b")
    await use(pool, "a")
    assert machine.scripts["a"].imported == []
    machine.scripts["a"].crash_on_export = True
    await use(pool, "b")  # its engine ends while it copies: the load goes on
    assert machine.running == ["b"]
    assert (swap.ram_bytes, open_places()) == (0, 0)
    await pool.close()


@given(
    st.lists(st.tuples(st.integers(16, 5000), st.floats(0, 3)), max_size=8),
    st.none() | st.floats(1, 10_000),
)
def test_taking_back_takes_no_longer_than_reading(
    states: list[tuple[int, float]], rate: float | None
) -> None:
    given = [
        KeptState(model="a", place=SwapPlace(None, ""), tokens=tokens, size_bytes=1, copy_s=copy_s)
        for tokens, copy_s in states
    ]
    chosen = worth_taking_back(given, rate)
    spent = sum(each.copy_s for each in chosen)
    if rate is None:
        assert given[:1] == chosen[:1]
        assert spent <= max(MAX_COPY_S, given[0].copy_s if given else 0)
    elif chosen:
        assert all(each.copy_s < each.tokens / rate for each in chosen)
        assert spent < chosen[0].tokens / rate or spent == chosen[0].copy_s


def test_files_of_servers_that_were_killed_are_deleted(tmp_path: Path) -> None:
    directory = tmp_path / "swap"
    place = disk_place(directory)
    left, other = directory / "99999999-x.swap", directory / f"{os.getpid()}-y.swap"
    for path in (left, other, directory / "else"):
        path.write_bytes(b"x")
    delete_leftovers(directory)
    assert {each.name for each in directory.iterdir()} == {other.name, "else"}
    assert Path(place.path).read_bytes() == b""
    place.close()
    place.close()
    named = SwapPlace(None, str(other), key="00")  # as on Windows and macOS
    named.close()
    assert not other.exists()


async def ask(pool: ModelPool, model: str, prompt: str) -> tuple[str, Finished]:
    request = GenerateRequest(
        request_id=secrets.token_hex(4),
        prompt=prompt,
        sampling=Sampling(temperature=0),
        max_tokens=8,
    )
    text = ""
    async with pool.acquire(model), aclosing(pool.runtime.generate(model, request)) as events:
        async for event in events:
            if isinstance(event, Token):
                text += event.text
            elif isinstance(event, Finished):
                return text, event
    raise AssertionError("an answer ends with Finished")


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
async def test_real_models_go_on_after_a_swap(
    machine: PoolMachine, smollm2: Path, tmp_path: Path, on_disk: bool
) -> None:
    engines: list[ProcessEngine] = []

    def start() -> ProcessEngine:
        engines.append(ProcessEngine(log_dir=tmp_path / "logs"))
        return engines[-1]

    runtime = Runtime(
        store=Store(tmp_path / "data", find_starter=lambda: None),
        detect=machine.detect,
        start_engine=start,
    )
    models = []
    for name in "ab":
        (tmp_path / f"{name}.gguf").symlink_to(smollm2)
        model = InstalledModel(
            name=name, quant=None, path=tmp_path / f"{name}.gguf", size_bytes=98_362_432
        )
        models.append(PoolModel(model=model, choice=CHOICE))
    fit = await runtime.fit(await runtime.plan(models[0].model, CHOICE))
    runtime.max_memory_bytes = fit.total_bytes * 3 // 2
    limits = SwapLimits(ram_bytes=0, disk_bytes=2**30) if on_disk else SwapLimits(ram_bytes=2**30)
    swap = WarmSwap(runtime, limits, tmp_path / "swap")
    pool = ModelPool(runtime, PoolModels(runtime, models), warm_swap=swap)
    try:
        first, end = await ask(pool, "a", STORY)
        prompt = STORY + first + " And then"
        second, _ = await ask(pool, "a", prompt)
        await ask(pool, "b", "Hello")
        state = kept(pool, "a")
        assert state is not None
        assert (state.conversations, state.ram_bytes > 0, state.disk_bytes > 0) == (
            1,
            not on_disk,
            on_disk,
        )
        again, end = await ask(pool, "a", prompt)
        assert end.cached_tokens == end.prompt_tokens - 1
        assert again == second
        pid = engines[-1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # nothing is kept of what has crashed
        with suppress(EngineCrashed):
            await ask(pool, "a", prompt)
        await ask(pool, "b", "Hello")
    finally:
        await pool.close()
    assert open_places() == 0
    assert not (tmp_path / "swap").exists() or list((tmp_path / "swap").iterdir()) == []
