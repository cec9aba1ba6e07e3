"""The socket and the connections on it: malformed HTTP, slow clients, the orderly end."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localllm.engine.fake import Script
from localllm.errors import ServeError
from localllm.server.listen import (
    Address,
    ConnectionLimits,
    StopSignals,
    bound_address,
    find_addresses,
    open_socket,
    open_sockets,
    serve,
)
from localllm.server.request_body import MAX_BODY_BYTES
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server

AUTH = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET /health HTTP/x\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET /hea\x00lth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
async def test_malformed_http_gets_a_400_and_the_connection_ends(
    server: ServerUnderTest, request_bytes: bytes
) -> None:
    answer = await server.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_headers_without_an_end_are_not_collected(
    server: ServerUnderTest, start: bytes
) -> None:
    _, writer = await server.connect()
    writer.write(start)
    with contextlib.suppress(ConnectionError):  # it hangs up on what it does not read
        while not writer.is_closing():
            writer.write(b"a" * 2**16)
            await writer.drain()
    writer.close()


async def test_complete_headers_that_are_too_large_are_refused(server: ServerUnderTest) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(40))
    answer = await server.raw(
        b"GET /health HTTP/1.1\r\n" + AUTH + lines + b"Connection: close\r\n\r\n"
    )
    assert answer.split(b" ")[1] in (b"400", b"431")


async def test_a_body_that_stops_being_http_ends_only_its_own_connection(
    server: ServerUnderTest,
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTH
    kind = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await server.raw(head + kind + b"zz\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [model.id async for model in server.client().models.list()] == [MODEL]


async def test_a_body_that_is_too_large_is_a_413(server: ServerUnderTest) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x" * MAX_BODY_BYTES}]
        )
    assert (raised.value.status_code, raised.value.code) == (413, "body_too_large")


async def test_a_websocket_is_not_opened(server: ServerUnderTest) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
    answer = await server.raw(
        b"GET /v1/models HTTP/1.1\r\n" + AUTH + upgrade + b"Sec-WebSocket-Key: AAAA\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")  # read as the plain request that it also is


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: local",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{",
    ],
)
async def test_a_client_that_does_not_finish_its_request_is_disconnected(
    smollm2: Path, tmp_path: Path, sent: bytes
) -> None:
    limits = ConnectionLimits(header_timeout_s=0.05, shutdown_grace_s=0.0)
    async with start_server(Script(), smollm2, tmp_path, limits=limits) as server:
        reader, writer = await server.connect()
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()  # until the server hangs up
        writer.close()


async def test_a_client_that_does_not_read_its_answer_loses_its_slot(
    smollm2: Path, tmp_path: Path
) -> None:
    script = Script(tokens=("x" * 2**20,) * 64)
    async with start_server(
        script, smollm2, tmp_path, limits=ConnectionLimits(send_timeout_s=0.05)
    ) as server:
        body = json.dumps(
            {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]}
        ).encode()
        _, writer = await server.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTH
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        assert await script.closed.get() == script.requests[0].request_id
        writer.close()


async def test_one_connection_too_many_gets_a_503(smollm2: Path, tmp_path: Path) -> None:
    async with start_server(
        Script(),
        smollm2,
        tmp_path,
        limits=ConnectionLimits(max_connections=1, shutdown_grace_s=0.0),
    ) as server:
        _, first = await server.connect()
        reader, second = await server.connect()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        first.close()
        second.close()


async def test_the_end_ends_answers_that_do_not_end_by_themselves(
    smollm2: Path, tmp_path: Path
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    async with start_server(script, smollm2, tmp_path) as server:
        stream = await server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        await anext(stream)
        server.stop.should_exit.set()
        assert script.gate is not None
        await server.runtime.close()
        script.gate.release()
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        await server.serving


async def test_an_answer_in_time_is_finished_before_the_end(smollm2: Path, tmp_path: Path) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    async with start_server(
        script, smollm2, tmp_path, limits=ConnectionLimits(shutdown_grace_s=60.0)
    ) as server:
        stream = await server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        await anext(stream)
        server.stop.should_exit.set()
        assert script.gate is not None
        for _ in script.tokens:
            script.gate.release()
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
        await server.serving


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with open_socket(Address(ip="127.0.0.1", port=0)) as taken:
        address = bound_address(taken)
        with pytest.raises(ServeError, match=f"{address.port}.*another program.*--port"):
            open_socket(address)


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "300.1.1.1", "a" * 70 + ".example", "\x00", "é" * 80]
)
def test_an_unknown_host_is_an_error(host: str) -> None:
    with pytest.raises(ServeError, match="Cannot listen"):
        find_addresses(host, 0)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ServeError, match="no such address"):
        open_socket(Address(ip="192.0.2.1", port=0))


@pytest.mark.parametrize(
    ("ip", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80"),
        ("127.9.9.9", True, "http://127.9.9.9:80"),
        ("::1", True, "http://[::1]:80"),
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("::", False, "http://[::1]:80"),
        ("192.168.1.5", False, "http://192.168.1.5:80"),
        ("fe80::1%eth0", False, "http://[fe80::1%eth0]:80"),
    ],
)
def test_an_address_knows_its_url_and_if_it_is_loopback(ip: str, loopback: bool, url: str) -> None:
    address = Address(ip=ip, port=80)
    assert (address.loopback, address.url) == (loopback, url)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_server_can_listen_on_the_loopback_address_of_ipv6() -> None:
    try:
        sock = open_socket(find_addresses("::1", 0)[0])
    except ServeError:
        pytest.skip("IPv6 is off on this machine")
    with sock:
        assert bound_address(sock).ip == "::1"


def listener(address: Address) -> socket.socket:
    """A socket that is bound to 127.0.0.1, whatever the address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0 if ":" in address.ip else address.port))
    return sock


def test_localhost_is_both_loopback_addresses_and_any_other_name_one() -> None:
    for name in ("localhost", "LOCALHOST."):
        assert [address.ip for address in find_addresses(name, 7)] == ["127.0.0.1", "::1"]
    assert [address.ip for address in find_addresses("127.0.0.1", 7)] == ["127.0.0.1"]
    assert {address.port for address in find_addresses("localhost", 7)} == {7}


def test_any_free_port_is_one_that_is_free_on_both_addresses() -> None:
    tried: list[Address] = []

    def open_one(address: Address) -> socket.socket:
        tried.append(address)
        if ":" in address.ip and len(tried) < 5:
            raise ServeError("taken") from OSError(errno.EADDRINUSE, "taken")
        return listener(address)

    first, second = open_sockets(find_addresses("localhost", 0), open_one)
    with first, second:
        assert [address.ip for address in tried] == ["127.0.0.1", "::1"] * 3
        assert tried[-1].port == bound_address(first).port


@pytest.mark.parametrize(
    ("number", "port", "left_out"),
    [
        (errno.EADDRNOTAVAIL, 0, True),
        (errno.EAFNOSUPPORT, 0, True),
        (errno.EADDRINUSE, 0, False),
        (errno.EACCES, 0, False),
        (errno.EADDRINUSE, 7, False),
    ],
)
def test_an_address_that_is_not_there_is_left_out_and_one_in_use_is_an_error(
    number: int, port: int, left_out: bool
) -> None:
    def open_one(address: Address) -> socket.socket:
        if ":" in address.ip:
            raise ServeError("refused") from OSError(number, "refused")
        return listener(replace(address, port=0))

    addresses = find_addresses("localhost", port)
    if left_out:
        (only,) = open_sockets(addresses, open_one)
        only.close()
    else:
        with pytest.raises(ServeError, match="refused"):
            open_sockets(addresses, open_one)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_a_server_on_localhost_answers_on_both_addresses() -> None:
    sockets = open_sockets(find_addresses("localhost", 0))
    if len(sockets) == 1:
        sockets[0].close()
        pytest.skip("IPv6 is off on this machine")
    ports = {bound_address(sock).port for sock in sockets}
    assert len(ports) == 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(scope["server"][0])(scope, receive, send)

    async def no_requests() -> None:
        pass

    stop = StopSignals()
    serving = asyncio.create_task(serve(app, sockets, stop, abort_requests=no_requests))
    for ip in ("127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(ip, *ports)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n" + ip.encode())
        writer.close()
    stop.should_exit.set()
    await serving


async def test_the_first_signal_is_graceful_and_the_second_forces() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals().handled() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.should_exit.wait()
        assert (stop.signal, stop.force_exit.is_set()) == (signal.SIGTERM, False)
        os.kill(os.getpid(), signal.SIGINT)
        await stop.force_exit.wait()
        assert stop.signal is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
