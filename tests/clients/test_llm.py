"""`llm`, unmodified: an entry in its own list of OpenAI-compatible models is all that it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients
pytest.importorskip("llm")

from tests.clients.conftest import Served

# With bounds: so small a model ends neither a text, a number nor an object by itself.
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "millions": {"type": "integer", "minimum": 0, "maximum": 40},
    },
    "required": ["name", "millions"],
    "additionalProperties": False,
}


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def model(served: Served) -> str:
    """Tell llm of the server, as its documentation says."""
    home = Path(os.environ["LLM_USER_PATH"])
    home.mkdir()
    entry = {
        "model_id": "local",
        "model_name": served.model,
        "api_base": f"{served.url}/v1",
        "api_key_name": "local",
        "supports_schema": True,
    }
    # JSON is YAML.
    (home / "extra-openai-models.yaml").write_text(json.dumps([entry]))
    (home / "keys.json").write_text(json.dumps({"local": served.key}))
    return "local"


def test_a_prompt_is_answered_and_goes_on(model: str) -> None:
    options = ("-m", model, "-o", "max_tokens", "24", "-o", "temperature", "0")
    assert run("prompt", *options, "Say hello.").strip()
    assert run("prompt", *options, "--continue", "--no-stream", "Again.").strip()


def test_an_answer_follows_a_schema(model: str) -> None:
    options = ("-m", model, "-o", "temperature", "0", "--schema", json.dumps(SCHEMA))
    answer = run("prompt", *options, "Rome: 3")
    document = json.loads(answer)
    assert document.keys() == {"name", "millions"}
