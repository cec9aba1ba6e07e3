"""No verb leaves this machine unless that is what it is for.

Each one runs in processes of its own, its engine included, under the guard: with the network
switched on, so that nothing but the verb's own restraint keeps it here.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from localllm.cli.main import VERBS
from localllm.errors import ExitCode
from localllm.library.http.client import OUTBOUND_REQUESTS
from localllm.library.store.store import Store
from tests.offline.watched import Guard

ENGINE = "localllm.engine.worker"
LOCAL = {
    "hardware": ("--json",),
    "suggest": ("--json",),
    "size": ("starter", "--exact", "--json"),
    "import": ("MODEL",),
    "ls": ("--json",),
    "show": ("starter", "--json"),
    "verify": ("--all",),
    "rm": ("MINE", "--yes"),
    "run": ("starter", "Say hi.", "--max-tokens", "4"),
    "config": ("--json",),
    "policy": ("explain",),
    "completions": ("bash",),
    "doctor": ("--json",),
    "engine": ("ls", "--json"),
    "key": ("ls", "--json"),
    "batch": ("REQUESTS", "RESULTS", "--parallel", "1", "--json"),
    "bench": (
        *("starter", "--prompt-tokens", "32", "--gen-tokens", "2"),
        *("--parallel", "1", "--repetitions", "1"),
    ),
}
"""Every verb that works without a network, on what is on this disk. MODEL: a GGUF file,
MINE: a model that was imported, REQUESTS and RESULTS: files of a batch."""
REPO = "orchard/quince-GGUF"
NETWORK = {
    "search": ("quince",),
    "pull": (REPO,),
    "show": (REPO,),
    "size": (f"{REPO}:Q4_K_M",),
    "suggest": ("--repo", REPO),
}
"""What needs the Hub, and how each verb is asked for it."""
SERVER = {"serve", "ps", "load", "unload", "stop", "launch"}
"""What is a server or talks to one: test_servers.py, test_server_verbs.py."""
WITH_AN_ENGINE = {"size", "run", "batch", "bench", "hardware", "doctor"}
READS_CERTIFICATES = {"doctor"}
"""Opens the client of downloads, to see whether its certificates can be read, and sends nothing."""
SWITCHES = ("option", "environment", "settings", "HF_HUB_OFFLINE")


def starts(*program: str) -> bool:
    """Tell whether this machine has a program and lets it run."""
    if shutil.which(program[0]) is None:
        return False
    return subprocess.run([*program, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def words(smollm2: Path, tmp_path: Path) -> Mapping[str, str]:
    """Put files in the place of MODEL and MINE."""
    imported, file = tmp_path / "mine.gguf", tmp_path / "other.gguf"
    for each in (imported, file):
        each.symlink_to(smollm2)
    requests = tmp_path / "requests.jsonl"
    body = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    requests.write_text(json.dumps(line | {"body": {"model": "starter", **body}}))
    return {
        "MODEL": str(file),
        "MINE": Store.default().adopt(imported).name,
        "REQUESTS": str(requests),
        "RESULTS": str(tmp_path / "results.jsonl"),
    }


def test_every_verb_is_watched() -> None:
    assert set(VERBS) == {*LOCAL, *NETWORK, *SERVER}


def test_the_verbs_that_use_the_network_are_those_of_the_list() -> None:
    # serve only with --otel-endpoint: tests/server/test_monitoring.py.
    assert {verb for each in OUTBOUND_REQUESTS for verb in each.verbs} == {*NETWORK, "serve"}


@pytest.mark.parametrize("verb", LOCAL)
def test_a_verb_on_this_disk_leaves_nobody_a_trace(
    guard: Guard, words: Mapping[str, str], verb: str
) -> None:
    ended = guard.localllm(verb, *(words.get(each, each) for each in LOCAL[verb]))
    assert ended.code == ExitCode.OK, ended.err
    assert ended.seen.attempts == ()
    client = set() if verb in READS_CERTIFICATES else {"httpx2"}
    assert ended.seen.imported.isdisjoint({"huggingface_hub", "hf_xet", "keyring"} | client)
    if verb in WITH_AN_ENGINE:
        assert any(ENGINE in command for command in ended.seen.started)  # it was watched too


@pytest.mark.skipif(not starts("unshare", "-rn"), reason="no network namespaces here")
@pytest.mark.parametrize("verb", ["hardware", "suggest", "size", "run"])
def test_a_verb_on_this_disk_works_where_there_is_no_network_at_all(
    guard: Guard, verb: str
) -> None:
    ended = guard.localllm(verb, *LOCAL[verb], before=("unshare", "-rn"))
    assert ended.code == ExitCode.OK, ended.err
    assert ended.seen.attempts == ()


@pytest.mark.skipif(not starts("strace", "-f"), reason="no strace here")
def test_native_code_leaves_nobody_a_trace_either(guard: Guard, tmp_path: Path) -> None:
    """The guard sees what Python does; the system sees what llama.cpp does."""
    log = tmp_path / "system-calls"
    trace = "trace=connect,sendto,sendmsg,sendmmsg"
    ended = guard.localllm(
        "run", "starter", "hi", "--max-tokens", "2",
        before=("strace", "-f", "-qq", "-e", trace, "-o", str(log)),
    )  # fmt: skip
    assert ended.code == ExitCode.OK, ended.err
    calls = [line for line in log.read_text().splitlines() if re.search(r"AF_INET6?\b", line)]
    assert calls == []


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("verb", NETWORK)
def test_a_verb_that_needs_the_hub_says_at_once_that_the_network_is_off(
    guard: Guard, home: Path, verb: str, switch: str
) -> None:
    arguments, extra = [verb, *NETWORK[verb]], {"COLUMNS": "1000"}
    names = {"option": "--offline", "environment": "LOCALLLM_OFFLINE"}
    if switch == "option":
        arguments.append("--offline")
    elif switch == "environment":
        extra["LOCALLLM_OFFLINE"] = "1"
    elif switch == "settings":
        (home / "config" / "settings.toml").write_text("offline = true\n")
        names["settings"] = "offline in settings"
    else:
        extra["HF_HUB_OFFLINE"] = "1"
    ended = guard.localllm(*arguments, **extra)
    assert ended.code == ExitCode.FAILED, ended
    assert f"the network is switched off ({names.get(switch, switch)})" in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.seen.attempts == ()


@pytest.mark.parametrize("verb", NETWORK)
def test_the_guard_sees_what_a_verb_for_the_hub_does(guard: Guard, verb: str) -> None:
    """Without this, the tests above could pass because nothing is ever seen."""
    ended = guard.localllm(verb, *NETWORK[verb])
    assert ended.code == ExitCode.FAILED, ended
    assert ended.seen.attempts
    assert all("huggingface.co" in attempt for attempt in ended.seen.attempts)
    assert "Traceback" not in ended.err
