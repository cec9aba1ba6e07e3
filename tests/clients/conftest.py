"""One `localllm serve` with the starter model, for the clients that people have."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY = "a-key-that-only-the-tests-know"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server. `url` is without /v1."""

    url: str
    key: str
    model: str = "starter"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, verdicts: Path) -> Iterator[Served]:
    """Serve the starter model in a process of its own, which all the clients share."""
    home = tmp_path_factory.mktemp("served")
    for file in verdicts.parent.glob("*.json"):  # what is known of the engine is not measured again
        shutil.copyfile(file, home / file.name)
    environment = os.environ | {"LOCALLLM_API_KEY": KEY, "LOCALLLM_OFFLINE": "1"}
    environment |= {f"LOCALLLM_{name}_DIR": str(home) for name in ("DATA", "CONFIG", "CACHE")}
    command = (sys.executable, "-m", "localllm", "serve", "starter", "--port", "0", "--json")
    with (home / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (home / "stderr").read_text()
        yield Served(url=json.loads(line)["url"], key=KEY)
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of this user reaches a client, and what it keeps is empty."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LANGCHAIN_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
