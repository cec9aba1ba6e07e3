"""Real engines in a pool: three models of which one fits, swapped under load; one is killed while
it loads."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from localllm import machine
from localllm.core.sizing.load import Speculate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, Sampling
from localllm.errors import EngineCrashed
from localllm.library.store.store import Store
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import OnDemand, PoolModels
from localllm.runtime.runtime import Runtime
from tests.engine import tiny

CHOICE = LoadChoice(context=256, parallel=2, threads=1, speculate=Speculate.OFF)
NAMES = ("one", "two", "three")


async def test_three_models_share_the_memory_of_one(tmp_path: Path) -> None:
    engines: list[ProcessEngine] = []

    def start() -> ProcessEngine:
        engines.append(ProcessEngine(log_dir=tmp_path / "logs"))
        return engines[-1]

    store = Store(tmp_path / "library", find_starter=lambda: None)
    file = tiny.plain(tmp_path / "one.gguf")
    for name in NAMES:
        if name != "one":
            shutil.copyfile(file, tmp_path / f"{name}.gguf")
        store.adopt(tmp_path / f"{name}.gguf", name=name)
    runtime = Runtime(store=store, detect=machine.detect, start_engine=start)
    pool = ModelPool(runtime, PoolModels(runtime, (), on_demand=OnDemand(choice=CHOICE)))
    fit = await runtime.fit(await runtime.plan(runtime.resolve("one"), CHOICE))
    runtime.max_memory_bytes = int(1.5 * fit.with_draft_bytes)
    most = 0

    async def answer(number: int) -> int:
        nonlocal most
        name = NAMES[number % 3]
        request = GenerateRequest(
            request_id=f"r{number}", prompt="a", sampling=Sampling(temperature=0), max_tokens=2
        )
        async with pool.acquire(name, max_tokens=2):
            most = max(most, len(runtime.resident()))
            events = [event async for event in runtime.generate(name, request)]
        assert isinstance(events[-1], Finished)
        return events[-1].completion_tokens

    try:
        assert await asyncio.gather(*map(answer, range(9))) == [2] * 9
        assert most == 1
        assert sum(each.alive for each in engines) == 1
        held = next(each.name for each in pool.listed() if each.resident is not None)
        other = next(name for name in NAMES if name != held)
        started = len(engines)
        waiting = [asyncio.create_task(answer(NAMES.index(other))) for _ in range(2)]
        async with asyncio.timeout(60):
            while len(engines) == started or engines[-1].pid is None:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.001)
        os.kill(engines[-1].pid or 0, getattr(signal, "SIGKILL", signal.SIGTERM))
        crashes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, EngineCrashed) for each in crashes), crashes
        assert await answer(NAMES.index(other)) == 2
    finally:
        await pool.close()
    assert not any(each.alive for each in engines)
