"""What runs until it is told to stop: the app and the local API. Neither leaves this machine."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.offline.terminal import Terminal, terminal
from tests.offline.test_verbs import ENGINE, starts
from tests.offline.watched import Guard

CTRL_Q = "\x11"
HUB_PACKAGES = {"huggingface_hub", "hf_xet", "keyring"}
BEFORE = [
    pytest.param((), id="plain"),
    pytest.param(
        ("unshare", "-rn"),
        id="no network at all",
        marks=pytest.mark.skipif(not starts("unshare", "-rn"), reason="no network namespaces here"),
    ),
]


def open_offer(app: Terminal) -> None:
    """To the window of the first suggestion."""
    app.sees("more in Models")
    app.type("\x1b[B")  # down
    app.sees("to spare")  # its reasons: the cursor is there
    app.type("\r")


@pytest.mark.parametrize("before", BEFORE)
def test_the_app_from_its_first_screen_to_an_answer(guard: Guard, before: tuple[str, ...]) -> None:
    command = [*before, sys.executable, "-m", "localllm"]
    with terminal(command, guard.environment({})) as app:
        app.sees("more in Models")
        app.type("\r")
        app.sees("nothing leaves this machine")
        app.type("hi\r")
        app.sees("Shall your conversations be kept?")  # after the answer
        app.type(CTRL_Q)
        app.sees("in memory only")  # it would be lost
        app.type(CTRL_Q)
        assert app.ends() == 0
    seen = guard.seen()
    assert seen.attempts == ()
    assert seen.imported.isdisjoint(HUB_PACKAGES)
    assert any(ENGINE in command for command in seen.started)


def test_a_suggestion_that_was_only_looked_at_asks_nobody(guard: Guard) -> None:
    with terminal([sys.executable, "-m", "localllm"], guard.environment({})) as app:
        open_offer(app)
        app.sees("Nothing was sent yet.")
        app.type("\x1b")
        app.type(CTRL_Q)
        assert app.ends() == 0
    assert guard.seen().attempts == ()


def test_a_download_while_the_network_is_off_asks_nobody(guard: Guard) -> None:
    environment = guard.environment({"LOCALLLM_OFFLINE": "1"})
    with terminal([sys.executable, "-m", "localllm"], environment) as app:
        open_offer(app)
        app.sees("switched off")
        app.type("\r")  # try again
        app.type(CTRL_Q)
        assert app.ends() == 0
    assert guard.seen().attempts == ()


def test_a_download_is_seen_by_the_guard(guard: Guard) -> None:
    """Without this, the tests above could pass because nothing is ever seen."""
    with terminal([sys.executable, "-m", "localllm"], guard.environment({})) as app:
        open_offer(app)
        app.sees("Nothing was sent yet.")
        app.type("\r")
        app.sees("Try again")
        app.type(CTRL_Q)
        assert app.ends() == 0
    assert any("huggingface.co" in attempt for attempt in guard.seen().attempts)


def test_the_local_api_from_its_start_to_an_answer(guard: Guard, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "serve", "--port", "0", "--json", "starter"],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("wb"),
        env=guard.environment({}),
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (tmp_path / "stderr").read_text()
        document = json.loads(line)
        key = Path(document["key_file"]).read_text().strip()
        client = openai.OpenAI(base_url=f"{document['url']}/v1", api_key=key, max_retries=0)
        done = client.chat.completions.create(
            model="starter", messages=[{"role": "user", "content": "hi"}], max_tokens=4
        )
        assert done.choices[0].message.content
        client.close()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    seen = guard.seen()
    assert seen.attempts == ()
    assert seen.imported.isdisjoint(HUB_PACKAGES)
    assert any(ENGINE in command for command in seen.started)
