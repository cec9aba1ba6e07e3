"""The Unix socket: for this user's processes alone, and never in the place of something else."""

import asyncio
import os
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from localllm.engine.fake import Script
from localllm.errors import ServeError, UsageError
from localllm.server.access.unix_socket import (
    directory_problem,
    is_allowed,
    parse_xucred,
    peer_uid,
    unix_socket,
)
from localllm.server.listen import ConnectionLimits, StopSignals, serve
from tests.server.server_under_test import make_app, make_runtime

pytestmark = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="no Unix sockets, or no peer credentials"
)

ME = os.geteuid() if hasattr(os, "geteuid") else -1


async def request(path: Path, *lines: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    head = ["GET /v1/models HTTP/1.1", "Host: localhost", *lines, "Connection: close", "", ""]
    writer.write("\r\n".join(head).encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_process_of_this_user_needs_no_key(
    script: Script, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await make_runtime(script, smollm2, tmp_path / "data")
    path, stop = tmp_path / "s", StopSignals()
    with unix_socket(path) as sock:
        limits = ConnectionLimits(shutdown_grace_s=0.0)
        work = serve(make_app(runtime), (sock,), stop, abort_requests=runtime.close, limits=limits)
        serving = asyncio.create_task(work)
        assert b" 200 " in await request(path)
        assert b" 200 " in await request(path, "Authorization: Bearer whatever")
        assert b" 403 " in await request(path, "Origin: http://evil.example")
        # Another user: there is none here to connect, so the server is made to see one.
        monkeypatch.setattr("localllm.server.listen.peer_uid", lambda _: ME + 1)
        reader, writer = await asyncio.open_unix_connection(path)
        assert b"foreign_peer" in await reader.read()
        writer.close()
        stop.should_exit.set()
        await serving
    await runtime.close()
    assert not path.exists()


@pytest.mark.skipif(ME != 0, reason="only root can be somebody else")
async def test_a_process_of_another_user_is_refused_though_the_mode_lets_it_in() -> None:
    async def nothing() -> None:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a request of another user")

    connect = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); sys.stdout.buffer.write(s.recv(1000))"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # one that others can enter
        path, stop = Path(directory) / "s", StopSignals()
        path.parent.chmod(0o755)
        with unix_socket(path) as sock:
            serving = asyncio.create_task(serve(app, (sock,), stop, abort_requests=nothing))
            path.chmod(0o666)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", connect, str(path), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            assert b"foreign_peer" in output
            stop.should_exit.set()
            await serving


def test_the_system_says_who_has_connected() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    assert peer_uid(one) == ME
    one.close()
    other.close()
    with socket.socket() as internet:
        if sys.platform == "darwin":
            with pytest.raises(ServeError):
                peer_uid(internet)


def test_this_user_and_root_are_allowed() -> None:
    assert is_allowed(ME)
    assert is_allowed(0)
    assert not is_allowed(ME + 1)
    assert not is_allowed(2**32 - 1)


def test_the_answer_of_macos_is_read() -> None:
    """xucred: version 0, the user, a count and 16 groups."""
    value = struct.pack("=IIh2x16I", 0, 501, 1, 20, *[0] * 15)
    assert len(value) == 76
    assert parse_xucred(value) == 501
    for bad in (b"", value[:7], struct.pack("=II", 1, 501)):
        with pytest.raises(struct.error):
            parse_xucred(bad)


def test_the_mode_is_there_from_the_start(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with unix_socket(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_socket_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s"))
    left.close()
    with unix_socket(tmp_path / "s"):
        pass


def test_what_another_has_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with unix_socket(path), pytest.raises(ServeError, match="another server"), unix_socket(path):
        pass
    path.write_text("precious")
    with pytest.raises(ServeError, match="left alone"), unix_socket(path):
        pass
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServeError, match="left alone"), unix_socket(path):
        pass
    with unix_socket(tmp_path / "t"):
        (tmp_path / "t").unlink()
        (tmp_path / "t").write_text("of somebody else")
    assert (tmp_path / "t").exists()


def test_a_place_where_others_could_put_theirs_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="can be written by others"), unix_socket(tmp_path / "s"):
        pass
    with pytest.raises(UsageError, match="at most"), unix_socket(tmp_path / ("x" * 200)):
        pass
    with pytest.raises(UsageError, match="cannot be used"), unix_socket(tmp_path / "no" / "s"):
        pass
    assert directory_problem(stat.S_IFDIR | 0o1777, 0) is None
    assert directory_problem(stat.S_IFDIR | 0o755, ME + 1) is not None
    assert directory_problem(stat.S_IFDIR | 0o770, ME) is not None
    assert directory_problem(stat.S_IFDIR | 0o700, ME) is None


def test_a_system_that_names_no_peers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError, match="Linux or macOS"), unix_socket(tmp_path / "s"):
        pass
