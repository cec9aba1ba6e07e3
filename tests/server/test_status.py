"""`/health` and `/lora-adapters`."""

import pytest

from localllm.runtime.model_pool.listing import ModelState
from localllm.server.served_models import ServedModels
from tests.server.server_under_test import MODEL, ServerUnderTest, make_pool


async def test_health_needs_no_key_and_reports_a_crash(server: ServerUnderTest) -> None:
    answer = await server.request("GET /health", key=None)
    assert answer.document == {
        "status": "ok",
        "models": [{"id": MODEL, "status": "ready"}],
    }
    server.script.crash_after = 0
    with pytest.raises(Exception, match="SIGKILL"):
        await server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}]
        )
    answer = await server.request("GET /health", key=None)
    assert answer.document == {
        "status": "degraded",
        "models": [{"id": MODEL, "status": "crashed"}],
    }


async def test_models_are_listed_with_their_state(server: ServerUnderTest) -> None:
    models = ServedModels(make_pool(server.runtime, {"other": MODEL}))
    (ready,) = models.listed()
    assert (ready.name, ready.aliases, ready.state) == (MODEL, ("other",), ModelState.READY)
    assert ready.resident is not None
    server.script.crash_after = 0
    with pytest.raises(Exception, match="SIGKILL"):
        await server.client().completions.create(model=MODEL, prompt="x")
    (crashed,) = models.listed()
    assert (crashed.model, crashed.state) == (ready.model, ModelState.CRASHED)
    assert crashed.resident is None


async def test_without_adapters_the_list_is_empty(server: ServerUnderTest) -> None:
    answer = await server.request("GET /lora-adapters")
    assert (answer.status, answer.body) == (200, b"[]")
