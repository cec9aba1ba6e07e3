"""What a client sees of models that are not in memory: their load, its progress, and refusals."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from localllm.engine.fake import Script
from localllm.engine.messages import Finished, GenerateEvent, GenerateRequest
from localllm.errors import EngineCrashed
from localllm.runtime.model_pool.admission import InsufficientMemory
from localllm.server.errors import api_error
from localllm.server.generation.choices import Choices
from localllm.server.served_models import ServedModels
from localllm.server.streaming import DescribedStream
from tests.runtime.pool_machine import PoolMachine


async def test_a_stream_says_that_its_model_is_loading(tmp_path: Path, smollm2: Path) -> None:
    machine = PoolMachine(tmp_path)
    pool = await machine.pool(smollm2)
    gate = asyncio.Semaphore(0)
    machine.scripts["a"] = Script(load_gate=gate)
    stream = ServedModels(pool).generate("A", GenerateRequest(request_id="r", prompt="x"))
    choices = Choices()
    choices.describe_waits([stream])
    assert choices.progress.sentence() == "waiting for the engine"
    reading = asyncio.create_task(choices.read([stream]))
    for _ in range(3):
        gate.release()
    async with asyncio.timeout(60):
        while choices.progress.sentence() != "loading a: 50%":  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.001)
    for _ in range(2):
        gate.release()
    await reading
    assert isinstance(choices.finish(), Finished)
    assert choices.progress.waits_for is None
    await pool.close()


async def test_closing_a_described_stream_closes_what_it_describes() -> None:
    closed: list[str] = []

    async def events() -> AsyncGenerator[GenerateEvent, None]:
        try:
            yield Finished.__new__(Finished)
        finally:
            closed.append("yes")

    stream = DescribedStream(events(), lambda: None)
    await anext(stream)
    await stream.aclose()
    assert closed == ["yes"]


@pytest.mark.parametrize(
    ("retry_after_s", "status", "header"), [(2.1, 503, "3"), (0.0, 503, "1"), (None, 507, None)]
)
def test_a_refusal_says_when_to_try_again(
    retry_after_s: float | None, status: int, header: str | None
) -> None:
    error = api_error(InsufficientMemory("a needs 5 GiB.", retry_after_s=retry_after_s))
    assert (error.status, error.code) == (status, "insufficient_memory")
    assert error.headers.get("Retry-After") == header


@pytest.mark.parametrize(
    ("reason", "retry_after_s", "header"),
    [("SIGKILL", None, None), ("crashed again", 29.2, "30"), ("closed", None, "5")],
)
def test_only_what_passes_by_waiting_says_how_long(
    reason: str, retry_after_s: float | None, header: str | None
) -> None:
    error = api_error(EngineCrashed("x", reason=reason, retry_after_s=retry_after_s))
    assert error.status == 503
    assert error.headers.get("Retry-After") == header
