"""The verbs that talk to the server, without processes: the client against a real socket, and what
is decided from facts of other systems."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.cli.commands.server.ps import row
from localllm.cli.commands.server.stop import kill_command
from localllm.cli.local_server.batch_link import through_server
from localllm.cli.local_server.detached import (
    VARIABLE,
    child_command,
    process_options,
    shorten,
    start_detached,
    take_own_log,
)
from localllm.cli.local_server.running import running_server
from localllm.errors import ExitCode, NotFound, ServeError, StoreError
from localllm.library.files.server_file import RunningServer, own_process_start, published
from localllm.server.access.key_ring import KeyRing
from localllm.server.batch.lines import BatchLine
from localllm.server.listen import StopSignals, serve
from localllm.server.local.client import (
    ModelStatus,
    ServerRefused,
    connected,
    refusal,
)
from localllm.server.local.place import one_server, server_file
from tests.library.test_server_file import this_process
from tests.server.conftest import script as script
from tests.server.conftest import server as server
from tests.server.server_under_test import (
    KEY,
    MODEL,
    ServerUnderTest,
    make_app,
)
from tests.server.test_tls import Pair
from tests.server.test_tls import pair as pair


def running(server: ServerUnderTest, **changes: object) -> RunningServer:
    return this_process(url=server.address.url, key=KEY, **changes)


async def test_the_client_reads_loads_and_names_what_is_refused(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there
    async with connected(running(server)) as client:
        (model,) = await client.models()
        assert (model.name, model.state) == (MODEL, "ready")
        assert (await client.post("/admin/unload", {"model": MODEL}))["unloaded"] is True
        with pytest.raises(ServerRefused, match=MODEL) as raised:
            await client.post("/admin/load", {"model": "nix"})
        assert raised.value.exit_code is ExitCode.NOT_FOUND
    async with connected(replace(running(server), key="wrong")) as client:
        with pytest.raises(ServerRefused) as raised:
            await client.models()
        assert raised.value.code == "invalid_api_key"


@contextlib.asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[RunningServer]:
    """A server that answers everybody the same; None: nobody."""
    never = asyncio.Event()

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await never.wait()
        else:
            writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield this_process(url=f"http://127.0.0.1:{port}")
    finally:
        never.set()
        listening.close()


async def test_a_server_that_hangs_or_is_another_program_is_named_so() -> None:
    async with answering(None) as other, connected(other) as client:
        with pytest.raises(ServeError, match=str(os.getpid())):
            await client.post("/admin/stop", {}, limit_s=0.05)
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
    async with answering(page) as other, connected(other) as client:
        with pytest.raises(ServerRefused, match="no server of localllm"):
            await client.models()
    away = b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    async with answering(away) as other, connected(other) as client:
        with pytest.raises(ServerRefused):  # nobody is followed anywhere
            await client.models()
    async with connected(this_process(url="http://127.0.0.1:9")) as client:
        with pytest.raises(ServeError, match="cannot be reached"):
            await client.models()
    gone = this_process(url="http://127.0.0.1:9", process_started=own_process_start() - 100)
    async with connected(gone) as client:
        with pytest.raises(ServeError, match="has ended"):
            await client.models()


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
async def test_the_socket_is_preferred_and_of_certificates_only_the_servers_own_counts(
    server: ServerUnderTest, pair: Pair, tmp_path: Path
) -> None:
    from localllm.server.access.tls import RenewedContext
    from localllm.server.access.unix_socket import unix_socket
    from localllm.server.listen import Address, bound_address, open_socket

    runtime, stop = server.runtime, StopSignals()
    tls, sock = (
        RenewedContext(pair.files, lambda _: None),
        open_socket(Address(ip="127.0.0.1", port=0)),
    )
    with unix_socket(tmp_path / "s") as local:
        app = make_app(runtime, KeyRing(KEY, run="of-this-run"))
        work = serve(app, (sock, local), stop, abort_requests=runtime.close, tls=tls.server)
        serving = asyncio.create_task(work)
        url = bound_address(sock, tls=True).url
        by_socket = this_process(url=url, socket=str(tmp_path / "s"), key="any")
        by_tls = this_process(url=url, certificate=str(tls.certificate), key="of-this-run")
        for each in (by_socket, by_tls):
            async with connected(each) as client:
                assert [model.name for model in await client.models()] == [MODEL]
        other = tmp_path / "other"
        other.mkdir()
        stranger = Pair(replace(pair.files, certificate=other / "c.pem", key=other / "k.pem"))
        stranger.write()
        pinned = replace(by_tls, certificate=str(stranger.files.certificate))
        async with connected(pinned) as client:
            with pytest.raises(ServeError, match="cannot be reached"):
                await client.models()
        (other / "c.pem").write_text("nonsense")
        with pytest.raises(ServeError, match="no certificate"):
            async with connected(pinned):
                pass
        stop.should_exit.set()
        await serving


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("model_not_found", ExitCode.NOT_FOUND),
        ("insufficient_memory", ExitCode.DOES_NOT_FIT),
        ("engine_crashed", ExitCode.ENGINE_CRASHED),
        ("queue_full", ExitCode.FAILED),
    ],
)
def test_an_error_of_the_server_is_the_verbs_exit_status(code: str, status: ExitCode) -> None:
    error = refusal(503, {"error": {"message": "why\x1b[2J\nnot", "code": code}})
    assert (error.exit_code, str(error)) == (status, "why not")


def test_a_second_server_is_refused_with_where_the_first_is_unless_it_has_a_name() -> None:
    with one_server(None, warn=print) as place:
        with pytest.raises(NotFound, match="serve --detach"):
            running_server(None)  # it is not ready
        with pytest.raises(ServeError, match="starting or stopping"), one_server(None, warn=print):
            pass
        with place.published(
            url="http://127.0.0.1:1", socket=None, key_file=None, certificate=None, log_file=None
        ):
            assert running_server(None).key == place.key
            with pytest.raises(ServeError, match=r"127\.0\.0\.1:1 "), one_server(None, warn=print):
                pass
            with pytest.raises(NotFound, match="--instance work"):
                running_server("work")
            with one_server("work", warn=print):
                pass
    with one_server(None, warn=print):
        pass


def test_where_nothing_can_be_written_a_server_serves_all_the_same() -> None:
    warnings: list[str] = []
    server_file(None).parent.write_text("a file in its way")
    with (
        one_server(None, warn=warnings.append) as place,
        place.published(
            url="http://x", socket=None, key_file=None, certificate=None, log_file=None
        ),
    ):
        assert "will not find this server" in warnings[0]


# --- without a terminal ---


def test_a_detached_process_outlives_its_terminal_on_each_system() -> None:
    assert process_options("linux") == process_options("darwin") == {"start_new_session": True}
    flags = process_options("win32")["creationflags"]
    if sys.platform == "win32":
        assert flags == subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    assert flags == 0x200 | 0x8000000  # winbase.h
    assert child_command(["serve"])[1:] == ["-P", "-m", "localllm", "serve"]
    assert kill_command(7, "win32") == "taskkill /F /PID 7"
    assert kill_command(7, "linux") == "kill -9 7"


def test_the_name_of_the_log_goes_to_the_server_alone(tmp_path: Path) -> None:
    environment = {VARIABLE: str(tmp_path / "log"), "A": "1"}
    assert take_own_log(environment) == tmp_path / "log"
    assert environment == {"A": "1"}
    assert take_own_log(environment) is None


def test_a_log_that_has_grown_is_moved_aside_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    with log.open("ab", buffering=0) as out:
        out.write(b"a" * 100)
        assert not shorten(out.fileno(), log, limit=100)
        out.write(b"b")
        assert shorten(out.fileno(), log, limit=100)
        out.write(b"c")
    assert log.read_bytes() == b"c"
    assert (tmp_path / "serve.log.1").read_bytes() == b"a" * 100 + b"b"


def test_without_a_place_for_the_log_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in its way")
    with pytest.raises(StoreError, match="cannot be written"):
        start_detached(["--version"], tmp_path / "logs" / "serve.log")


# --- the table ---


@pytest.fixture
def model() -> ModelStatus:
    document = {
        "name": "m", "aliases": ["fast"], "quant": None, "state": "ready", "size_bytes": 2**20,
        "estimated_bytes": 2**30, "context": 512, "slots": 4, "requests": 0, "last_used_s": None,
        "keep_alive_s": 300.0, "expires_in_s": 60.0, "pinned": False, "progress": None,
        "plan": None,
            "kept": None, "later": 1,
    }  # fmt: skip
    return ModelStatus.parse(document)


def test_a_line_says_what_is_known(model: ModelStatus) -> None:
    assert row(model) == ("m", "?", "ready", "", "1m more", "1.0 GiB", "0 of 4")
    busy = replace(model, requests=3, last_used_s=5.0, expires_in_s=None)
    assert row(busy)[3:5] == ("now", "5m after use")
    assert row(replace(model, pinned=True))[4] == "pinned"
    assert row(replace(model, keep_alive_s=-1.0, expires_in_s=None))[4].startswith("until")
    away = replace(model, state="unloaded", estimated_bytes=None, slots=None, expires_in_s=None)
    assert row(away)[4:] == ("", "1.0 MiB on disk", "")
    assert row(replace(away, kept="3 conversations, 41 MiB"))[4] == "3 conversations, 41 MiB"
    loading = replace(model, state="loading", progress=0.5, estimated_bytes=None)
    assert row(loading)[2] == "loading 50%"
    assert row(loading)[5] == "?"


def test_a_server_of_another_version_is_named_so() -> None:
    with pytest.raises(ServeError, match="another version"):
        ModelStatus.parse({"name": "m"})


async def test_a_batch_follows_the_server_to_its_next_run(
    server: ServerUnderTest, tmp_path: Path
) -> None:
    file = server_file(None)
    file.parent.mkdir(mode=0o700, parents=True)
    line = BatchLine(
        number=1,
        custom_id="a",
        url="/v1/chat/completions",
        body={"messages": [{"role": "user", "content": "hi"}], "priority": 10},
    )
    now = running(server)
    before = replace(now, key="the key of a run that has ended")
    async with through_server(before, file) as send:
        refused = await send(line)
        assert refused.status == 401  # nobody has said where another one is
        with published(file, now):
            with pytest.raises(ConnectionError, match="place"):
                await send(line)
            answer = await send(line)
    assert answer.status == 200
    assert answer.headers["x-request-id"].startswith("req_")
    assert [each.priority for each in server.script.requests] == [10]
    gone = replace(now, url="http://127.0.0.1:9")
    async with through_server(gone, file) as send:
        with pytest.raises(ConnectionError):
            await send(line)
