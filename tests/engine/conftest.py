"""A running engine on the first layers of the starter model, shared by a module's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import LoadRequest

SMALL = LoadSettings(context=512, parallel=4, threads=2)


@pytest.fixture(scope="module")
def engine_model(shallow_smollm2: Path) -> Path:
    """The model of `engine`, for a module that needs another one to replace."""
    return shallow_smollm2


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(engine_model: Path, tmp_path_factory) -> AsyncIterator[ProcessEngine]:  # type: ignore[no-untyped-def]
    """A model with four slots of 512 tokens."""
    engine = ProcessEngine(log_dir=tmp_path_factory.mktemp("log"))
    async for _ in engine.load(LoadRequest(path=str(engine_model), settings=SMALL)):
        pass
    yield engine
    await engine.close()
