"""Every request of docs/api.md works as it is pasted: a real model behind a real socket."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from localllm.server.batch.service import BatchService
from localllm.server.batch.store import BatchStore
from tests.server.api_page import PAGE, URL, Example, examples
from tests.server.server_under_test import KEY, MODEL, start_server

STARTER = {"starter": MODEL}


def run(example: Example, url: str) -> None:
    """Run an example as somebody who pastes it. Raises what it raises."""
    text = example.text.replace(URL, url)
    if example.language == "python":
        exec(compile(text, str(PAGE), "exec"), {"__name__": "__main__"})
        return
    command = text.replace("curl -s", "curl -s --fail-with-body")
    assert "curl" in command
    done = subprocess.run(
        ["bash", "-euc", command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_every_example_works_as_it_is_pasted(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALLLM_API_KEY", KEY)
    assert os.environ["LOCALLLM_API_KEY"] == KEY
    batches = BatchService(BatchStore(directory=tmp_path / "batches"))
    async with start_server(
        Script(),
        smollm2,
        tmp_path / "data",
        start_engine=lambda: ProcessEngine(log_dir=tmp_path / "log"),
        aliases=STARTER,
        batches=batches,
    ) as server:
        found = examples()
        assert len(found) > 4
        for example in found:
            try:
                await asyncio.to_thread(run, example, server.address.url)
            except Exception as error:
                error.add_note(f"In this example of docs/api.md:\n{example.text}")
                raise
        await batches.close()
