"""Fixtures of the server's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localllm.engine.fake import Script
from tests.server.server_under_test import ServerUnderTest, start_server


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def server(script: Script, smollm2: Path, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A server whose engine plays `script`."""
    async with start_server(script, smollm2, tmp_path / "data") as server:
        yield server
