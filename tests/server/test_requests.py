"""What a request body may say: every field, its range, and the field's name when it is wrong."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message

from localllm.engine.fake import Script
from localllm.server import request_body as body_module
from localllm.server.dialects.openai.request import MAX_ITEMS, ChatMessage, ChatRequest
from localllm.server.errors import ApiError
from localllm.server.request_body import MAX_BODY_BYTES, MAX_FIELDS, checked, parse, read_json
from tests.server.house import KEY, MODEL, make_app, make_runtime

MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "hi"}]
FIELD_CODES = {
    "invalid_type", "invalid_value", "missing_required_parameter", "unknown_parameter",
    "unsupported_parameter",
}  # fmt: skip


def asked(**fields: object) -> dict[str, object]:
    return {"model": MODEL, "messages": MESSAGES} | fields


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"model": "m" * 513}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES * (MAX_ITEMS + 1)}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        (
            {"messages": [*MESSAGES, {"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[1].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "messages[0].content[0].b",
        ),
        ({"messages": [{"role": "user", "content": "hi", "name": "bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "hi", "colour": 1}]}, "messages[0].colour"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"verbose": True}}, "stream_options.verbose"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 5.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**60}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_k": 1.0}, "top_k"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_penalty": 11}, "repeat_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": False}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"user": 5}, "user"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
        ),
        ({"logit_bias": {"a": 5}}, "logit_bias"),
        ({"logit_bias": {"-1": 5}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"typical_p": 1.1}, "typical_p"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"context_overflow": "shift"}, "context_overflow"),
        ({"store": True}, "store"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"mirostat": 3}, "mirostat"),
        ({"": 1}, ""),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(fields: dict[str, object], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        checked(ChatRequest, asked(**fields))
    assert raised.value.status == 400
    assert raised.value.param == param
    assert f"`{param}`" in str(raised.value)
    assert raised.value.code in FIELD_CODES


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"store": False},
        {"metadata": {}},
        {"logprobs": False, "top_logprobs": 0},
        {"logit_bias": {}},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto", "parallel_tool_calls": False},
        {"functions": [], "function_call": "none"},
        {"function_call": "auto"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"stream_options": {"include_usage": False, "include_obfuscation": False}, "stream": True},
        *({name: None} for name in ChatRequest.model_fields if name not in ("model", "messages")),
    ],
)
def test_a_field_that_asks_for_nothing_is_accepted(fields: dict[str, object]) -> None:
    plain = checked(ChatRequest, asked()).generate_request()
    odd = checked(ChatRequest, asked(**fields)).generate_request()
    assert dataclasses.replace(odd, request_id=plain.request_id) == plain


@pytest.mark.parametrize("name", [n for n in ChatMessage.model_fields if n not in MESSAGES[0]])
def test_an_empty_field_of_a_message_is_accepted(name: str) -> None:
    message = MESSAGES[0] | {name: None}
    assert checked(ChatRequest, asked(messages=[message])) == checked(ChatRequest, asked())


@pytest.mark.parametrize("name", ["tool_calls", "annotations"])
def test_an_empty_list_of_a_message_is_accepted(name: str) -> None:
    message = MESSAGES[0] | {name: []}
    assert checked(ChatRequest, asked(messages=[message])) == checked(ChatRequest, asked())


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"model": None}, "missing_required_parameter", "`model` is required."),
        ({"unknown": None}, "unknown_parameter", "`unknown` is not known to this server."),
        ({"u" * 99: 1}, "unknown_parameter", f"`{'u' * 64}...` is not known to this server."),
        ({"store": True}, "unsupported_parameter", "`store` is not supported with this value."),
        ({"temperature": 6}, "invalid_value", "`temperature` must be at most 5.0."),
        ({"top_k": 2**31}, "invalid_value", "`top_k` must be at most 2147483647."),
        ({"top_k": 0.5}, "invalid_type", "`top_k` must be an integer."),
        ({"messages": []}, "invalid_value", "`messages` must not be empty."),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "invalid_value",
            "`messages[0].content[0].type` must be 'text' or 'image_url'.",
        ),
        ({"stop": "x" * 257}, "invalid_value", "`stop` needs strings of 1 to 256 characters."),
    ],
)
def test_an_error_has_a_code_and_says_what_is_wrong(
    fields: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(ApiError) as raised:
        checked(ChatRequest, asked(**fields))
    assert (raised.value.code, str(raised.value)) == (code, message)


@pytest.mark.parametrize("secret", ["a-secret", ["a-secret"], {"role": "a-secret"}, [[]], 55555])
@pytest.mark.parametrize("name", ChatRequest.model_fields)
def test_no_error_of_any_field_quotes_the_value(name: str, secret: object) -> None:
    try:
        checked(ChatRequest, asked(**{name: secret}))
    except ApiError as error:
        assert "secret" not in str(error)
        assert "55555" not in str(error)
        assert error.__cause__ is None
        assert error.code in FIELD_CODES


def test_not_even_the_error_of_pydantic_itself_shows_the_value() -> None:
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate(asked(messages=[{"role": "user", "content": ["a-secret"]}]))
    assert "secret" not in f"{raised.value!s} {raised.value!r}"


def test_millions_of_wrong_items_are_one_error() -> None:
    with pytest.raises(ApiError) as raised:
        checked(ChatRequest, asked(messages=[1] * 2_000_000))
    assert raised.value.param == "messages[0]"


def test_an_object_with_very_many_fields_is_refused() -> None:
    body = json.dumps({str(number): 1 for number in range(MAX_FIELDS + 1)})
    with pytest.raises(ApiError, match="more than 256 fields"):
        parse(body.encode())


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
        b'\xef\xbb\xbf{"a": 1}',
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
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        parse(body)
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")


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


async def test_a_body_that_grows_too_large_is_not_kept() -> None:
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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
known_fields = st.sampled_from(list(ChatRequest.model_fields))
message_values = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "tool"]) | json_values,
        "content": st.text() | json_values,
        "name": json_values,
    },
)
bodies = st.dictionaries(known_fields | st.text(max_size=8), json_values, max_size=6).flatmap(
    lambda extra: st.fixed_dictionaries(
        {},
        optional={
            "model": st.just(MODEL),
            "messages": st.lists(message_values, max_size=3) | json_values,
        },
    ).map(lambda base: base | extra)
)


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
    assert caller.status_of(json.dumps(asked()).encode()) == 200


@settings(max_examples=300, deadline=None)
@given(body=bodies)
def test_every_body_is_a_request_or_an_error_that_names_a_field(body: dict[str, object]) -> None:
    try:
        checked(ChatRequest, body)
    except ApiError as error:
        assert error.code in FIELD_CODES
        assert error.param is not None


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
        body_module.parse(b'{"messages": "my secret"')
    assert "secret" not in str(raised.value)
