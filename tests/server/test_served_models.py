"""A real engine stops (kill -STOP) while clients wait: they get an error, the next an answer."""

import asyncio
import os
import signal
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.watchdog import WatchdogTimeouts
from localllm.engine.fake import Script
from tests.server.server_under_test import MODEL, start_server

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a long story."}]


async def test_clients_of_a_stopped_engine_get_an_error_and_the_next_an_answer(
    smollm2: Path, tmp_path: Path
) -> None:
    engines: list[ProcessEngine] = []

    def start_engine() -> ProcessEngine:
        timeouts = WatchdogTimeouts(silent_s=2.5, interval_s=0.05)
        engines.append(ProcessEngine(log_dir=tmp_path / "logs", timeouts=timeouts))
        return engines[-1]

    async with start_server(
        Script(), smollm2, tmp_path / "data", start_engine=start_engine
    ) as server:
        create = server.client().chat.completions.create
        stream = await create(model=MODEL, messages=HELLO, stream=True)
        await anext(stream)
        whole = asyncio.ensure_future(create(model=MODEL, messages=HELLO))
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
        answered = await create(model=MODEL, messages=HELLO, max_tokens=4)
        assert answered.usage is not None
        assert answered.usage.completion_tokens == 4
        assert engines[-1].pid not in (None, stopped)
