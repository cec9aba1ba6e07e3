"""The body of a request: strict JSON, of bounded size, in time; whatever is sent."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message

from localllm.engine.fake import Script
from localllm.server.errors import ApiError
from localllm.server.request_body import MAX_BODY_BYTES, MAX_FIELDS, parse, read_json
from tests.server.bodies import bodies, chat_body
from tests.server.server_under_test import KEY, make_app, make_runtime


def test_an_object_with_very_many_fields_is_refused_and_still_json() -> None:
    fields = json.dumps({str(number): 1 for number in range(MAX_FIELDS + 1)})
    with pytest.raises(ApiError, match="16385 fields; at most 16384") as raised:
        parse(fields.encode())
    assert raised.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b" ", "it is empty"),
        (b"{'a': 1}", "line 1, column 2 is no name in quotation marks"),
        (b'{"a": 1,}', "line 1, column 9 is no name in quotation marks"),
        (b'{"a" 1}', "line 1, column 6 is no colon after a name"),
        (b'{"a": 1 "b"}', "line 1, column 9 is no comma between two values"),
        (b'{"a": }', "line 1, column 7 is no value"),
        (b"[1] 2", "line 1, column 5 comes after the end of the value"),
        (b'["a', "line 1, column 2 is a string without an end"),
        (b'["\\x"]', "line 1, column 3 is no escape sequence of JSON"),
        (b'["\x01"]', "line 1, column 3 is a control character in a string"),
    ],
)
def test_what_is_wrong_with_the_json_is_said_in_words_for_people(body: bytes, reason: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(body)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 0.' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        rb'{"a": "\ud800"}',
        rb'{"\udfff": 1}',
        rb'[["\uD83D"]]',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\x01"}',
        b'{"a": 1} {}',
        b"{'a': 1}",
        b'{"a": 01}',
    ],
)
def test_malformed_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        parse(body)
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")


def test_a_byte_order_mark_is_no_part_of_the_json() -> None:
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(ApiError):
        parse(b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}')


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert parse(rb'["\ud83d\ude00", "\\ud800"]') == ["😀", "\\ud800"]


def request_of(*messages: Message, **headers: str) -> Request:
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        await asyncio.Event().wait()  # a client that sends no more
        raise AssertionError

    raw = {"content-type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(k.encode(), v.encode()) for k, v in raw.items()],
    }
    return Request(scope, receive)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_put_together() -> None:
    request = request_of(part(b'{"a"', more=True), part(b": 1}"))
    assert await read_json(request) == {"a": 1}


async def test_a_body_that_does_not_come_is_given_up() -> None:
    with pytest.raises(ApiError) as raised:
        await read_json(request_of(part(b"{", more=True)), timeout_s=0.01)
    assert raised.value.status == 408


async def test_a_client_that_leaves_while_sending_is_not_answered() -> None:
    with pytest.raises(ClientDisconnect):
        await read_json(request_of(part(b"{", more=True), {"type": "http.disconnect"}))


@pytest.mark.parametrize("declared", [str(MAX_BODY_BYTES + 1), "9" * 40])
async def test_a_body_that_declares_too_much_is_not_read(declared: str) -> None:
    with pytest.raises(ApiError) as raised:
        await read_json(request_of(content_length=declared))
    assert raised.value.status == 413


async def test_a_body_that_grows_too_large_is_refused() -> None:
    pieces = [part(b" " * 2**20, more=True) for _ in range(9)]
    with pytest.raises(ApiError) as raised:
        await read_json(request_of(*pieces))
    assert raised.value.status == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": ""},
        {"content_type": "application/json; charset=utf-16"},
        {"content_encoding": "gzip"},
    ],
)
async def test_a_body_of_another_kind_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as raised:
        await read_json(request_of(part(b"{}"), **headers))
    assert raised.value.status == 415


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
async def test_a_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        await read_json(request_of(part(body)))
    assert raised.value.code == "invalid_json"


class Caller:
    """Calls an ASGI application without a socket, many times a second."""

    def __init__(self, app: ASGIApp, runner: asyncio.Runner) -> None:
        self._app = app
        self._runner = runner

    def status_of(self, body: bytes) -> int:
        return self._runner.run(self._post(body))

    async def _post(self, body: bytes) -> int:
        statuses: list[int] = []
        left = [part(body)]

        async def receive() -> Message:
            if left:
                return left.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(message["status"]))

        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "scheme": "http",
            "root_path": "", "query_string": b"", "http_version": "1.1",
            "headers": [
                (b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
                (b"authorization", f"Bearer {KEY}".encode()),
            ],
        }  # fmt: skip
        await self._app(scope, receive, send)
        (status,) = statuses
        return status


@pytest.fixture(scope="module")
def caller(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with asyncio.Runner() as runner:
        runtime = runner.run(make_runtime(Script(), smollm2, tmp_path_factory.mktemp("data")))
        yield Caller(make_app(runtime), runner)
        runner.run(runtime.close())


def test_the_caller_reaches_the_engine(caller: Caller) -> None:
    assert caller.status_of(json.dumps(chat_body()).encode()) == 200


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=bodies)
def test_no_json_body_makes_the_server_fail(caller: Caller, body: dict[str, object]) -> None:
    assert caller.status_of(json.dumps(body).encode()) in (200, 400, 404)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0d8eE+-.1aN ').map(str.encode))
def test_no_bytes_make_the_server_fail(caller: Caller, body: bytes) -> None:
    assert caller.status_of(body) == 400


def test_the_message_of_a_parse_error_quotes_nothing_of_the_body() -> None:
    with pytest.raises(ApiError) as raised:
        parse(b'{"messages": "my secret"')
    assert "secret" not in str(raised.value)
