"""A running engine on the real starter model, shared by a module's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import LoadRequest

SMALL = LoadSettings(context=512, parallel=4, threads=2)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(smollm2: Path, tmp_path_factory) -> AsyncIterator[ProcessEngine]:  # type: ignore[no-untyped-def]
    """SmolLM2 with four slots of 512 tokens."""
    engine = ProcessEngine(log_dir=tmp_path_factory.mktemp("log"))
    async for _ in engine.load(LoadRequest(path=str(smollm2), settings=SMALL)):
        pass
    yield engine
    await engine.close()
