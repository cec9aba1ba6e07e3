"""`localllm launch` with a real client: it starts the server, and changes nothing of the user's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("llm")

from localllm.library.files import paths


def localllm(*arguments: str) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        [sys.executable, "-m", "localllm", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PATH": os.pathsep.join((scripts, os.environ["PATH"]))},
        timeout=120,
    )


@pytest.fixture
def no_server() -> Iterator[None]:
    """No server runs before, and none afterwards; one that is started takes any port."""
    paths.settings_file().write_text("[serve]\nport = 0\n")
    yield
    localllm("stop")


@pytest.mark.usefixtures("no_server")
def test_llm_is_answered_by_a_server_that_was_started_for_it() -> None:
    options = ("-o", "max_tokens", "8", "-o", "temperature", "0")
    done = localllm("launch", "llm", "--ctx", "512", "--", "Say hello.", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "starting one" in done.stderr
    assert not Path(os.environ["LLM_USER_PATH"]).exists()  # the user's own is not touched
    again = localllm("launch", "env", "--", sys.executable, "-c", "import sys; sys.exit(9)")
    assert again.returncode == 9
    assert "starting one" not in again.stderr
    assert localllm("stop").returncode == 0
