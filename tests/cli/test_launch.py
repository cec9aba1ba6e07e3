"""`localllm launch`: what an agent gets, without an agent; and a made-up one that shows it."""

import json
import os
import stat
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.cli.commands.server.launch import choose_model, target_of
from localllm.cli.local_server.agents import (
    AGENTS,
    DIRECTORY,
    Launch,
    Target,
    make_command_launch,
    make_launch,
    masked,
    reach_variables,
    shell_lines,
)
from localllm.cli.local_server.process import environment_of, exit_status, find_program
from localllm.errors import NotFound, UsageError
from localllm.server.local.client import ModelStatus
from tests.cli.test_local_server import model as model
from tests.library.test_server_file import this_process

TARGET = Target(origin="http://127.0.0.1:11711", key="the-key", model="qwen")
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=40)
NAMES = st.text(min_size=1, max_size=20)


@pytest.mark.parametrize("name", AGENTS)
@given(key=KEYS, model=NAMES)
@settings(max_examples=10)
def test_each_agent_is_led_here_and_its_key_can_be_hidden(name: str, key: str, model: str) -> None:
    target = replace(TARGET, key=key, model=model)
    launch = make_launch(AGENTS[name], target, ("--flag",))
    assert launch.command[0] == AGENTS[name].program
    assert launch.command[-1] == "--flag"
    everything = repr((launch.command, launch.environment, launch.files))
    assert name == "zed" or "127.0.0.1:11711" in everything
    assert AGENTS[name].source.startswith("https://")
    assert key not in launch.command  # every user of the machine sees it there
    hidden = masked(launch, key)
    for text in (*hidden.command, *hidden.environment.values(), *hidden.files.values()):
        assert text is None or key not in text


def test_what_the_agents_read_is_what_they_are_given() -> None:
    claude = make_launch(AGENTS["claude"], TARGET, ()).environment
    assert claude["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:11711"
    assert claude["ANTHROPIC_AUTH_TOKEN"] == "the-key"
    assert claude["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "qwen"
    assert claude["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert claude["ANTHROPIC_API_KEY"] is None  # a real one stays at home
    assert claude["CLAUDE_CODE_USE_BEDROCK"] is None

    words = make_launch(AGENTS["codex"], replace(TARGET, model='a "b'), ("exec", "hi")).command
    values = [word for i, word in enumerate(words) if words[i - 1] == "-c"]
    config = tomllib.loads("\n".join(values))
    assert config["model"] == 'a "b'
    provider = config["model_providers"]["localllm"]
    assert provider["base_url"] == "http://127.0.0.1:11711/v1"
    assert provider["wire_api"] == "responses"
    assert words[-2:] == ("exec", "hi")

    opencode = make_launch(AGENTS["opencode"], TARGET, ()).environment
    config = json.loads(opencode["OPENCODE_CONFIG_CONTENT"] or "")
    assert config["model"] == "localllm/qwen"
    assert config["provider"]["localllm"]["options"]["apiKey"] == "the-key"
    assert config["share"] == "disabled"

    llm = make_launch(AGENTS["llm"], TARGET, ())
    assert llm.environment["LLM_USER_PATH"] == DIRECTORY
    assert "the-key" not in llm.files["extra-openai-models.yaml"]
    webui = make_launch(AGENTS["open-webui"], TARGET, ())
    assert webui.command == ("open-webui", "serve", "--host", "127.0.0.1")
    assert "DATA_DIR" not in webui.environment
    plain = make_command_launch(TARGET, ("make", "test"))
    assert plain.command == ("make", "test")
    assert plain.environment["OLLAMA_HOST"] == "http://127.0.0.1:11711"


def test_this_machine_is_reached_without_a_proxy_and_its_own_certificate_is_trusted() -> None:
    found = reach_variables(TARGET, {"NO_PROXY": "corp.example, 127.0.0.1"})
    assert found["NO_PROXY"] == "corp.example,127.0.0.1,localhost,::1"
    assert found["no_proxy"] == "127.0.0.1,localhost,::1"
    assert "NODE_EXTRA_CA_CERTS" not in found
    assert reach_variables(replace(TARGET, certificate="/c"), {})["NODE_EXTRA_CA_CERTS"] == "/c"


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.none() | NAMES))
@settings(max_examples=30)
def test_a_variable_is_set_or_gone_and_all_others_stay(changes: dict[str, str | None]) -> None:
    own = {"PATH0": "/bin", **dict.fromkeys(changes, "old")}
    launch = Launch(command=("x",), environment=changes, files={})
    expected = {"PATH0": "/bin"} | {k: v for k, v in changes.items() if v is not None}
    assert environment_of(launch, own) == expected


@pytest.mark.skipif(os.name != "posix", reason="needs sh")
def test_the_printed_lines_are_those_of_a_shell() -> None:
    values = {"A": 'it\'s $HOME `x` "q"', "B": None}
    script = "\n".join(["B=1; export B", *shell_lines(values, "linux"), 'printf %s "$A"; echo $B'])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'it\'s $HOME `x` "q"\n'
    assert shell_lines({"A": "it's", "B": None}, "win32") == [
        "$env:A = 'it''s'",
        "Remove-Item Env:B -ErrorAction SilentlyContinue",
    ]


def test_a_model_is_chosen_when_there_is_one_to_choose(model: ModelStatus) -> None:
    other = replace(model, name="n", aliases=(), state="unloaded")
    assert choose_model((model, other), None) is model  # the one in memory
    assert choose_model((other,), None) is other
    assert choose_model((model, other), "FAST") is model
    with pytest.raises(UsageError, match="--model"):
        choose_model((other, replace(other, name="o")), None)
    with pytest.raises(UsageError, match="m, n"):
        choose_model((model, replace(other, state="ready")), None)
    with pytest.raises(NotFound, match="m, n"):
        choose_model((model, other), "nix")
    with pytest.raises(NotFound, match="suggest"):
        choose_model((), None)


def test_the_owners_key_is_preferred_and_a_server_on_a_socket_is_refused(
    model: ModelStatus, tmp_path: Path
) -> None:
    file = tmp_path / "api-key"
    file.write_text("of-the-owner\n")
    server = this_process(key_file=str(file))
    assert target_of(server, model).key == "of-the-owner"
    assert target_of(replace(server, key_file=None), model).key == server.key
    with pytest.raises(UsageError, match="--port"):
        target_of(replace(server, url=None, socket="/s"), model)


def test_a_program_that_is_not_there_is_named_with_how_it_is_installed() -> None:
    with pytest.raises(NotFound, match="npm install"):
        find_program("no-such-program", "npm install -g it")
    assert (exit_status(3), exit_status(-15)) == (3, 143)


SHOWS = """#!{python}
import json, os, pathlib, sys
home = os.environ.get("LLM_USER_PATH")
print(json.dumps([sys.argv[1:], dict(os.environ), home and sorted(os.listdir(home))]))
if home: print(oct(os.stat(home + "/default_model.txt").st_mode), file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.skipif(os.name != "posix", reason="a script with #!")
@pytest.mark.parametrize("name", ["claude", "llm"])
def test_an_agent_gets_it_all_and_its_status_is_passed_on(name: str, tmp_path: Path) -> None:
    """`claude` in the place of the process, `llm` beside it, for its files."""
    fake = tmp_path / name
    fake.write_text(SHOWS.format(python=sys.executable))
    fake.chmod(0o755)
    launch = make_launch(AGENTS[name], TARGET, ("-p", "hello"))
    code = (
        "import sys, pickle\nfrom localllm.cli.local_server.process import run_launch\n"
        "path, launch = pickle.load(sys.stdin.buffer)\nsys.exit(run_launch(path, launch))"
    )
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((str(fake), launch)),
        capture_output=True,
        check=False,
        env=os.environ | {"ANTHROPIC_API_KEY": "of-the-user"},
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    words, environment, files = json.loads(done.stdout)
    assert words == ["-p", "hello"]
    if name == "claude":
        assert environment["ANTHROPIC_AUTH_TOKEN"] == "the-key"
        assert "ANTHROPIC_API_KEY" not in environment
        return
    assert files == ["default_model.txt", "extra-openai-models.yaml"]
    assert stat.S_IMODE(int(done.stderr, 8)) == 0o600
    assert not Path(environment["LLM_USER_PATH"]).exists()
