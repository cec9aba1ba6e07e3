"""The server without a terminal and the verbs that talk to it, as processes with a real model: a
whole life, killed once. They reach their own server and nobody else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from localllm.errors import ExitCode
from localllm.library.files import paths
from tests.offline.test_verbs import ENGINE
from tests.offline.watched import Ended, Guard

SERVE = ("serve", "starter", "--port", "0", "--ctx", "256", "--parallel", "1", "--detach")


@pytest.fixture
def started(guard: Guard) -> Iterator[list[int]]:
    """The ids of servers that a test has started; what still runs is ended afterwards."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()


def document(ended: Ended) -> dict[str, object]:
    assert ended.code == ExitCode.OK, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def start(guard: Guard, started: list[int]) -> tuple[dict[str, object], psutil.Process]:
    ready = document(guard.localllm(*SERVE, "--json"))
    pid = ready["pid"]
    assert isinstance(pid, int)
    started.append(pid)
    return ready, psutil.Process(pid)


def has_ended(process: psutil.Process) -> bool:
    """A zombie has, too: not every first process of a container takes in those of others."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def engine_of(server: psutil.Process) -> psutil.Process:
    (engine,) = (each for each in server.children() if ENGINE in " ".join(each.cmdline()))
    return engine


def check_verbs(guard: Guard, process: psutil.Process) -> None:
    """List, unload and load the model of a server."""
    engine = engine_of(process)
    listed = document(guard.localllm("ps", "--json"))
    assert isinstance(listed["models"], list)
    (model,) = listed["models"]
    assert (model["name"], model["state"], model["slots"]) == ("starter", "ready", 1)
    assert model["size_bytes"] > 9 * 10**7
    assert model["memory_bytes"] > 5 * 10**7
    assert isinstance(listed["server"], dict)
    assert listed["server"]["pid"] == process.pid

    assert "starter is unloaded" in guard.localllm("unload", "starter").err
    assert has_ended(engine)
    assert "No model is in memory" in guard.localllm("ps").out
    unknown = guard.localllm("load", "nix")
    assert unknown.code == ExitCode.NOT_FOUND
    assert "starter" in unknown.err
    loaded = document(guard.localllm("load", "starter", "--pin", "--keep-alive", "2m", "--json"))
    assert (loaded["state"], loaded["pinned"], loaded["keep_alive_s"]) == ("ready", True, 120.0)
    assert "pinned" in guard.localllm("ps").out


def test_a_server_without_a_terminal_lives_until_it_is_stopped(
    guard: Guard, started: list[int]
) -> None:
    killed = start(guard, started)[1]
    killed.kill()
    while not has_ended(killed):
        os.sched_yield()
    assert list((paths.config_dir() / "run").glob("*.json"))  # it could not remove it
    assert guard.localllm("ps").code == ExitCode.NOT_FOUND

    first, process = start(guard, started)
    pid = process.pid
    assert first["models"] == ["starter"]
    if os.name == "posix":
        assert os.getsid(pid) == pid  # no terminal's signals reach it
        assert process.terminal() is None
    again = guard.localllm(*SERVE)
    assert again.code == ExitCode.FAILED
    assert str(first["url"]) in again.err
    assert again.out == ""

    check_verbs(guard, process)
    engine = engine_of(process)
    assert document(guard.localllm("stop", "--json"))["pid"] == pid
    assert has_ended(process)
    assert has_ended(engine)
    assert guard.localllm("stop").code == ExitCode.NOT_FOUND
    log = Path(str(first["log_file"])).read_text()
    assert "starter is unloaded" in log
    assert "Traceback" not in log
    assert guard.seen().attempts == ()


def test_a_server_that_does_not_start_says_why(guard: Guard) -> None:
    failed = guard.localllm("serve", "nix", "--detach", "--port", "0")
    assert failed.code == ExitCode.NOT_FOUND
    assert "nix" in failed.err
    assert failed.out == ""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_it_starts_leaves_no_server(guard: Guard) -> None:
    command = [sys.executable, "-m", "localllm", *SERVE]
    log = paths.log_dir()
    with subprocess.Popen(command, env=guard.environment({}), stderr=subprocess.PIPE) as process:
        while not (log.is_dir() and any(log.glob("serve-*.log"))):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
    assert guard.localllm("ps").code == ExitCode.NOT_FOUND
