"""The real engine is stopped (kill -STOP) while clients wait: they are told, the next is served."""

import asyncio
import os
import signal
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.watchdog import Patience
from localllm.library.store.store import InstalledModel, Store
from localllm.runtime.runtime import Runtime
from localllm.server.listen import Address, Limits, StopSignals, bound_address, open_socket, serve
from tests.server.house import KEY, MODEL, detect, make_app

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a long story."}]


async def test_clients_of_a_stopped_engine_get_an_error_and_the_next_an_answer(
    smollm2: Path, tmp_path: Path
) -> None:
    engines: list[ProcessEngine] = []

    def start() -> ProcessEngine:
        patience = Patience(silent_s=2.5, look_s=0.05)
        engines.append(ProcessEngine(log_dir=tmp_path / "logs", patience=patience))
        return engines[-1]

    runtime = Runtime(
        store=Store(tmp_path, find_starter=lambda: None), detect=detect, start_engine=start
    )
    installed = InstalledModel(name=MODEL, quant=None, path=smollm2, size_bytes=98_362_432)
    async for _ in runtime.load(installed, LoadSettings(context=512, parallel=2, threads=1)):
        pass
    sock = open_socket(Address(ip="127.0.0.1", port=0))
    address, stop = bound_address(sock), StopSignals()
    limits = Limits(grace_s=0.0)
    serving = asyncio.create_task(
        serve(make_app(runtime), sock, stop, end_answers=runtime.close, limits=limits)
    )
    client = openai.AsyncOpenAI(base_url=f"{address.url}/v1", api_key=KEY, max_retries=0)
    ask = client.chat.completions.create
    try:
        stream = await ask(model=MODEL, messages=HELLO, stream=True)
        await anext(stream)
        whole = asyncio.ensure_future(ask(model=MODEL, messages=HELLO))
        stopped = engines[-1].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(openai.APIError, match="stopped answering") as event:
            async for _ in stream:
                pass
        assert event.value.code == "engine_crashed"
        with pytest.raises(openai.APIStatusError, match="stopped answering") as answer:
            await whole
        assert (answer.value.status_code, answer.value.code) == (503, "engine_crashed")
        answered = await ask(model=MODEL, messages=HELLO, max_tokens=4)
        assert answered.usage is not None
        assert answered.usage.completion_tokens == 4
        assert engines[-1].pid not in (None, stopped)
    finally:
        stop.asked.set()
        await serving
        await runtime.close()
