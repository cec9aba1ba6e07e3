"""The real engine behind a runtime dies under eight streams; the next request is answered."""

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from localllm import machine
from localllm.core.sizing.load import Speculate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.watchdog import WatchdogTimeouts
from localllm.engine.messages import GenerateRequest, Sampling, Token
from localllm.errors import EngineCrashed
from localllm.library.store.store import Store
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.engine import tiny

CHOICE = replace(CHAT, context=2048, parallel=8, threads=1, speculate=Speculate.OFF)
TIMEOUTS = WatchdogTimeouts(silent_s=2.5, interval_s=0.05)


def request(request_id: str, max_tokens: int) -> GenerateRequest:
    sampling = Sampling(temperature=0)
    return GenerateRequest(
        request_id=request_id, prompt="hello", sampling=sampling, max_tokens=max_tokens
    )


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGSTOP"])
async def test_eight_streams_get_the_reason_and_the_next_request_its_answer(
    tmp_path: Path, name: str
) -> None:
    engines: list[ProcessEngine] = []

    def start() -> ProcessEngine:
        engines.append(ProcessEngine(log_dir=tmp_path / "logs", timeouts=TIMEOUTS))
        return engines[-1]

    runtime = Runtime(store=Store(tmp_path), detect=machine.detect, start_engine=start)
    model = await runtime.adopt(tiny.plain(tmp_path / "plain.gguf"))
    plan = await runtime.plan(model, CHOICE)
    loads = [event async for event in runtime.load(plan)]
    assert isinstance(loads[-1], ResidentModel)
    running = asyncio.Barrier(9)

    async def stream(request_id: str) -> EngineCrashed:
        with pytest.raises(EngineCrashed) as caught:
            async with aclosing(runtime.generate(model.name, request(request_id, 2000))) as events:
                await anext(events)
                await running.wait()
                async for _ in events:
                    pass
        return caught.value

    streams = [asyncio.ensure_future(stream(f"s{i}")) for i in range(8)]
    await running.wait()
    pid = engines[-1].pid
    assert pid is not None
    os.kill(pid, getattr(signal, name))
    crashes = await asyncio.gather(*streams)
    assert len({id(crash) for crash in crashes}) == 1
    expected = "stopped answering" if name == "SIGSTOP" else name
    assert crashes[0].reason.startswith(expected)
    assert crashes[0].log_tail
    assert runtime.resident() == ()
    assert await runtime.crash(model.name) is crashes[0]

    started = len(engines)
    answers = await asyncio.gather(*(text(runtime, model.name, f"n{i}") for i in range(8)))
    assert len(set(answers)) == 1
    assert answers[0]
    assert len(engines) == started + 1  # one restart for all of them
    assert not psutil.pid_exists(pid)
    await runtime.close()


async def text(runtime: Runtime, name: str, request_id: str) -> str:
    return "".join(
        [
            e.text
            async for e in runtime.generate(name, request(request_id, 8))
            if isinstance(e, Token)
        ]
    )
