"""The file by which other programs find the server: what counts, what is stale, who may read it."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import StoreError, UsageError
from localllm.library.files.server_file import (
    RunningServer,
    find_server,
    instance_name,
    only_server,
    own_process_start,
    parse_server,
    published,
)

TEXT = st.none() | st.text(max_size=20)
SERVERS = st.builds(
    RunningServer,
    pid=st.integers(1, 2**31),
    process_started=st.floats(0, 1e10),
    started_at=st.floats(0, 1e10),
    version=st.text(max_size=8),
    key=st.text(max_size=40),
    url=st.text(min_size=1, max_size=20),
    socket=TEXT,
    key_file=TEXT,
    certificate=TEXT,
    log_file=TEXT,
)


def this_process(**changes: object) -> RunningServer:
    server = RunningServer(
        pid=os.getpid(),
        process_started=own_process_start(),
        started_at=0.0,
        version="1",
        key="secret-of-this-run",
        url="http://127.0.0.1:1",
    )
    return replace(server, **changes)  # type: ignore[arg-type]  # fields by name


@given(SERVERS)
@settings(max_examples=30)
def test_what_is_written_is_read(server: RunningServer) -> None:
    assert parse_server(json.dumps(asdict(server)).encode()) == server
    assert server.key == "" or len(server.key) < 8 or server.key not in repr(server)


@given(SERVERS, st.data())
@settings(max_examples=60)
def test_a_file_that_is_not_whole_says_nothing(server: RunningServer, data: st.DataObject) -> None:
    content = json.dumps(asdict(server)).encode()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(ValueError):  # noqa: PT011 - any of JSON, of UTF-8, of a field
        parse_server(cut)
    document = asdict(server) | {data.draw(st.sampled_from(["pid", "key", "version"])): None}
    with pytest.raises(ValueError, match="a field"):
        parse_server(json.dumps(document).encode())


def test_it_is_there_while_the_server_runs_and_for_its_owner_alone(tmp_path: Path) -> None:
    path, server = tmp_path / "run" / "host.json", this_process()
    with only_server(path):
        with published(path, server):
            assert find_server(path) == server
            if os.name == "posix":
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert not path.exists()


def test_a_process_that_is_gone_or_whose_id_another_one_has_is_no_server(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    server = this_process(pid=process.pid, process_started=started)
    with published(path, server):
        assert find_server(path) == server
        process.kill()
        psutil.wait_procs([psutil.Process(process.pid)], timeout=10)
        assert find_server(path) is None  # a zombie, and then nothing
        process.communicate()
        assert find_server(path) is None
    reused = this_process(process_started=own_process_start() - 3600)
    with published(path, reused):
        assert find_server(path) is None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_others_may_read_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    with published(path, this_process()):
        path.chmod(0o644)
        with pytest.raises(StoreError, match="0644"):
            find_server(path)


def test_one_server_keeps_out_the_next_and_is_followed_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run" / "host.json"
    code = (
        "import sys, pathlib\nfrom localllm.library.files.server_file import only_server\n"
        "with only_server(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    with pytest.raises(TimeoutError), only_server(path):
        pass
    process.kill()
    process.communicate()
    with only_server(path):
        pass


def test_instances_have_files_of_their_own() -> None:
    assert instance_name(None) != instance_name("work") != instance_name("play")
    for name in ("", ".", "../x", "a/b", "x" * 33, "a b", "-a"):
        with pytest.raises(UsageError):
            instance_name(name)
