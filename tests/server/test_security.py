"""Access to the API by host, origin and key; and the secrets that no log shows."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from starlette.types import Message, Receive, Scope, Send

from localllm.engine.fake import Script
from localllm.errors import UsageError
from localllm.server.dialects.openai.errors import error_body
from localllm.server.dialects.protocol import ErrorResponses
from localllm.server.security import (
    CONTAINER_HOSTS,
    ErrorMiddleware,
    HostPolicy,
    cors_origin,
    host_name,
    server_names,
)
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server


def get(path: str = "/v1/models", *lines: str, host: str | None = "127.0.0.1") -> bytes:
    head = [f"GET {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *lines]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def code(answer: bytes) -> str:
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


BEARER = f"Authorization: Bearer {KEY}"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:11711",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.8.9.10",
        "[::1]",
        "[::1]:11711",
        "[0:0:0:0:0:0:0:1]:1",
    ],
)
async def test_a_host_header_that_names_loopback_passes(server: ServerUnderTest, host: str) -> None:
    assert status(await server.raw(get("/v1/models", BEARER, host=host))) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11711",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1:80:80",
        "127.0.0.1:99999",
        "127.0.0.1:",
        "127.0.0.1, evil.example",
        "192.168.1.5",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "[::1",
        "::1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "localhost\t.evil",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nowhere"])
async def test_any_other_host_header_is_refused_on_every_path(
    server: ServerUnderTest, host: str, path: str
) -> None:
    answer = await server.raw(get(path, BEARER, host=host))
    assert (status(answer), code(answer)) == (403, "host_not_allowed")


async def test_a_request_of_http_1_0_without_a_host_is_refused(server: ServerUnderTest) -> None:
    answer = await server.raw(b"GET /health HTTP/1.0\r\n\r\n")
    assert (status(answer), code(answer)) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    ("bound", "names", "host", "allowed"),
    [
        ("192.168.1.5", (), "192.168.1.5:11711", True),
        ("192.168.1.5", (), "192.168.1.6", False),
        ("192.168.1.5", ("Box.lan",), "box.LAN", True),
        ("192.168.1.5", ("box.lan",), "evil.lan", False),
        ("0.0.0.0", (), "192.168.1.6", True),
        ("0.0.0.0", (), "evil.example", False),
        ("::", (), "[2001:db8::1]:80", True),
        ("fe80::1%eth0", (), "[fe80::1]", True),
        ("127.0.0.1", ("",), "", False),
    ],
)
def test_a_server_answers_to_the_address_and_names_it_is_bound_to(
    bound: str, names: tuple[str, ...], host: str, allowed: bool
) -> None:
    assert HostPolicy.bound_to(bound, names).allows(host) is allowed


@pytest.mark.parametrize(
    "line",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: https://127.0.0.1",
        "Origin: http://127.0.0.1:3000",
        "Origin: http://localhost",
        "Origin: http://127.0.0.1/",
        "Origin: ",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: nonsense",
    ],
)
async def test_a_page_of_another_origin_is_refused(server: ServerUnderTest, line: str) -> None:
    answer = await server.raw(get("/v1/models", BEARER, line))
    assert (status(answer), code(answer)) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "line", ["Origin: http://127.0.0.1", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"]
)
async def test_a_request_from_the_same_origin_passes(server: ServerUnderTest, line: str) -> None:
    assert status(await server.raw(get("/v1/models", BEARER, line))) == 200


async def test_a_preflight_is_refused_and_no_answer_allows_an_origin(
    server: ServerUnderTest,
) -> None:
    preflight = get("/v1/chat/completions", "Origin: http://evil.example").replace(
        b"GET", b"OPTIONS"
    )
    refused = await server.raw(preflight)
    assert status(refused) == 403
    for answer in (refused, await server.raw(get("/v1/models", BEARER))):
        assert b"access-control" not in answer.lower()


def test_a_server_with_a_key_answers_to_its_names_in_containers() -> None:
    closed = HostPolicy.bound_to("127.0.0.1", server_names(["me"], has_key=True))
    open_ = HostPolicy.bound_to("127.0.0.1", server_names(["me"], has_key=False))
    for name in CONTAINER_HOSTS:
        assert closed.allows(f"{name.upper()}.:11711")
        assert not open_.allows(name)
    assert closed.allows("me")
    assert open_.allows("me")
    assert not closed.allows("evil.host.docker.internal")
    assert not closed.allows("host.docker.internal.evil.example")


CONTAINER = "host.docker.internal"
PAGE = "http://localhost:3000"


@pytest.fixture
async def open_server(
    script: Script, smollm2: Path, tmp_path: Path
) -> AsyncIterator[ServerUnderTest]:
    """A server that is also called CONTAINER, and that pages of PAGE may use."""
    hosts = HostPolicy.bound_to("127.0.0.1", [host_name(CONTAINER)])
    async with start_server(
        script, smollm2, tmp_path / "data", hosts=hosts, cors_origins=frozenset({PAGE})
    ) as server:
        yield server


@pytest.mark.parametrize("host", [CONTAINER, f"{CONTAINER}:11711", "HOST.docker.internal."])
async def test_an_allowed_name_of_the_host_passes(open_server: ServerUnderTest, host: str) -> None:
    assert status(await open_server.raw(get("/v1/models", BEARER, host=host))) == 200
    assert status(await open_server.raw(get("/v1/models", host=host))) == 401


@pytest.mark.parametrize("host", [f"evil.{CONTAINER}", f"{CONTAINER}.evil.example", "docker"])
async def test_a_name_beside_the_allowed_one_is_refused(
    open_server: ServerUnderTest, host: str
) -> None:
    assert status(await open_server.raw(get("/v1/models", BEARER, host=host))) == 403


async def test_the_refusal_of_a_name_says_how_it_is_allowed(server: ServerUnderTest) -> None:
    answer = await server.raw(get("/v1/models", BEARER, host=f"{CONTAINER}:11711"))
    message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert f"--allowed-host {CONTAINER} " in message
    assert "`allowed_hosts`" in message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CONTAINER, CONTAINER),
        ("My-Laptop.", "my-laptop"),
        ("172.17.0.1", "172.17.0.1"),
        ("[FE80::1]", "fe80::1"),
    ],
)
def test_a_name_is_written_as_it_is_compared(text: str, name: str) -> None:
    assert host_name(text) == name
    assert HostPolicy.bound_to("127.0.0.1", [name]).allows(f"{text}:80")


@pytest.mark.parametrize(
    "text", ["", "*", "*.internal", "a:80", "http://a", "a b", "a/b", "a" * 300]
)
def test_what_names_no_single_host_cannot_be_allowed(text: str) -> None:
    with pytest.raises(UsageError, match="without a port"):
        host_name(text)


def headers(answer: bytes) -> dict[str, str]:
    """The CORS headers of an answer."""
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    pairs = (line.lower().split(": ", 1) for line in lines)
    return {name: value for name, value in pairs if name.startswith("access-control")}


async def test_a_preflight_of_an_allowed_page_is_answered_without_a_key(
    open_server: ServerUnderTest,
) -> None:
    preflight = get(
        "/v1/chat/completions",
        f"Origin: {PAGE}",
        "Sec-Fetch-Site: cross-site",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type,x-stainless-os",
        "Access-Control-Request-Private-Network: true",
    ).replace(b"GET", b"OPTIONS")
    answer = await open_server.raw(preflight)
    assert status(answer) == 204
    found = headers(answer)
    assert found["access-control-allow-origin"] == PAGE
    assert found["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert "post" in found["access-control-allow-methods"]
    assert found["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in found


@pytest.mark.parametrize(("line", "expected"), [(BEARER, 200), ("X-Nothing: 1", 401)])
async def test_an_allowed_page_reads_answers_and_errors_and_needs_the_key(
    open_server: ServerUnderTest, line: str, expected: int
) -> None:
    page = (f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site")
    answer = await open_server.raw(get("/v1/models", line, *page))
    assert status(answer) == expected
    assert headers(answer)["access-control-allow-origin"] == PAGE
    assert b"vary: origin" in answer.lower()


@pytest.mark.parametrize(
    "lines",
    [
        ("Origin: http://localhost:3001",),
        ("Origin: https://localhost:3000",),
        ("Origin: null",),
        (f"Origin: {PAGE}.evil.example",),
        (f"Origin: {PAGE}", "Origin: http://evil.example"),
        ("Sec-Fetch-Site: cross-site",),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
async def test_a_page_beside_the_allowed_one_is_refused_without_a_header(
    open_server: ServerUnderTest, lines: tuple[str, ...], method: bytes
) -> None:
    asked = get("/v1/models", BEARER, "Access-Control-Request-Method: POST", *lines)
    answer = await open_server.raw(asked.replace(b"GET", method))
    assert (status(answer), code(answer)) == (403, "origin_not_allowed")
    assert headers(answer) == {}


async def test_an_allowed_page_does_not_open_the_server_to_a_rebound_name(
    open_server: ServerUnderTest,
) -> None:
    page = (f"Origin: {PAGE}", "Access-Control-Request-Method: POST")
    for method in (b"GET", b"OPTIONS"):
        asked = get("/v1/models", BEARER, *page, host="evil.example").replace(b"GET", method)
        answer = await open_server.raw(asked)
        assert (status(answer), code(answer)) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("HTTP://LocalHost:3000/", PAGE),
        ("https://app.example:443", "https://app.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_an_origin_is_written_as_a_browser_does(text: str, origin: str) -> None:
    assert cors_origin(text) == origin


@pytest.mark.parametrize(
    "text", ["*", "null", "", "localhost:3000", "http://*.example", "http://a/b", "http://a:99999"]
)
def test_what_names_no_single_origin_cannot_be_allowed(text: str) -> None:
    with pytest.raises(UsageError, match="http://localhost:3000"):
        cors_origin(text)


@pytest.mark.parametrize(
    "line",
    [
        BEARER,
        f"authorization: bearer   {KEY}",
        f"X-API-Key: {KEY}",
        f"Authorization: Basic eDp5\r\nx-api-key: {KEY}",
        f"Authorization: Bearer wrong\r\nx-api-key: {KEY}",
    ],
)
async def test_the_key_is_taken_from_both_headers(server: ServerUnderTest, line: str) -> None:
    assert status(await server.raw(get("/v1/models", line))) == 200


@pytest.mark.parametrize(
    "line",
    [
        "X-Nothing: 1",
        "Authorization: Bearer",
        "Authorization: Bearer wrong",
        f"Authorization: {KEY}",
        f"Authorization: Bearer {KEY}x",
        f"Authorization: Bearer {KEY[:-1]}",
        f"Authorization: Basic {KEY}",
        "Authorization: Bearer \xe9\xff",
        "x-api-key: ",
        f"Cookie: key={KEY}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/health/", "//health", "/Health"])
async def test_without_the_key_nothing_but_health_is_answered(
    server: ServerUnderTest, line: str, path: str
) -> None:
    answer = await server.raw(get(path, line))
    assert (status(answer), code(answer)) == (401, "invalid_api_key")
    assert b"www-authenticate: bearer" in answer.lower()


async def test_a_server_without_a_key_requires_none(smollm2: Path, tmp_path: Path) -> None:
    async with start_server(Script(), smollm2, tmp_path, key=None) as server:
        assert status(await server.raw(get("/v1/models"))) == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1", "/v2/models"])
async def test_there_is_no_page_of_the_schema(server: ServerUnderTest, path: str) -> None:
    answer = await server.raw(get(path, BEARER, "Accept: text/html"))
    assert status(answer) == 404
    assert b"http" not in answer.partition(b"\r\n\r\n")[2].lower()


@pytest.mark.parametrize("path", ["/health", "/v1/models", f"/v1/models/{MODEL}"])
async def test_every_get_has_a_head(server: ServerUnderTest, path: str) -> None:
    answer = await server.raw(get(path, BEARER).replace(b"GET", b"HEAD"))
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


async def test_another_method_is_refused_in_the_same_shape(server: ServerUnderTest) -> None:
    answer = await server.raw(get("/v1/chat/completions", BEARER))
    assert (status(answer), code(answer)) == (405, "method_not_allowed")


async def test_no_prompt_and_no_answer_is_logged_at_any_level(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script.tokens = ("answer-secret",)
    with caplog.at_level(logging.DEBUG):
        # The client's own loggers speak in this process too; the server's are what counts.
        logging.getLogger("openai").setLevel(logging.CRITICAL)
        for stream in (False, True):
            await server.client().chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "prompt-secret"}], stream=stream
            )
        body = (
            b'{"model": "tiny", "messages": [{"role": "user", "content": "prompt-secret"}], "x": 1}'
        )
        await server.raw(
            get("/v1/chat/completions?q=prompt-secret", BEARER, "Content-Type: application/json",
                f"Content-Length: {len(body)}").replace(b"GET", b"POST") + body
        )  # fmt: skip
    out, err = capfd.readouterr()
    assert "secret" not in caplog.text + out + err


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unexpected_error_of_an_endpoint_is_a_500_in_the_same_envelope(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    server.script.generate_error = ValueError("prompt-secret")  # type: ignore[assignment]  # no error of ours
    with pytest.raises(openai.InternalServerError) as raised:
        await server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=stream
        )
    assert raised.value.code == "internal_error"
    assert "unexpected ValueError" in caplog.text
    assert "secret" not in caplog.text + raised.value.message


async def test_an_unforeseen_error_is_a_500_and_its_values_stay_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(scope["path"])

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    middleware = ErrorMiddleware(broken, error_response=ErrorResponses((), default=error_body))
    await middleware({"type": "http", "path": "prompt-secret"}, receive, send)
    assert sent[0]["status"] == 500
    assert "ValueError" in caplog.text
    assert "broken" in caplog.text
    assert "prompt-secret" not in caplog.text + str(sent)
