"""Fixtures of the server's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localllm.engine.fake import Script
from tests.server.house import House, house


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def running(script: Script, smollm2: Path, tmp_path: Path) -> AsyncIterator[House]:
    """A server whose engine plays `script`."""
    async with house(script, smollm2, tmp_path / "data") as opened:
        yield opened
