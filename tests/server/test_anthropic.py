"""Anthropic's API, with its own client over a real socket."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, TextBlock, ThinkingBlock, ToolUseBlock

from localllm.engine.fake import Script
from localllm.engine.messages import ToolCall
from localllm.errors import ContextOverflow, QueueFull
from localllm.server.dialects.anthropic.messages_response import SIGNATURE
from localllm.server.dialects.anthropic.models import ModelInfo, ModelsQuery, page, read_query
from localllm.server.errors import ApiError
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest
from tests.server.test_protocol import dechunk

HELLO: list[MessageParam] = [{"role": "user", "content": "Weather in Rome?"}]
CALL = ToolCall(id="a1", name="get_weather", arguments='{"city": "Rome"}')
TOOL: Any = {"name": "get_weather", "input_schema": {"type": "object"}}
THINKING: Any = {"type": "enabled", "budget_tokens": 2048}


def client_of(
    server: ServerUnderTest, prefix: str = "", **options: Any
) -> anthropic.AsyncAnthropic:
    """Anthropic's client, with the key in `x-api-key`."""
    options = options or {"api_key": KEY}
    return anthropic.AsyncAnthropic(base_url=server.address.url + prefix, max_retries=0, **options)


async def events_of(server: ServerUnderTest, **fields: object) -> list[tuple[str, dict[str, Any]]]:
    """The names and data of a stream's events, as they are on the wire."""
    body = {"model": MODEL, "max_tokens": 99, "messages": HELLO, "stream": True, **fields}
    response = await server.post("/v1/messages", body)
    return list(read_events(dechunk(response.body).decode()))


def read_events(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture
def calling(script: Script) -> None:
    script.tokens, script.calls, script.reasoning = ("I look.",), (CALL,), ("Rain", "?")


@pytest.mark.usefixtures("calling")
async def test_a_whole_answer_has_its_blocks_in_order_and_can_be_sent_back(
    server: ServerUnderTest,
) -> None:
    client = client_of(server)
    answer = await client.messages.create(
        model=MODEL, max_tokens=99, messages=HELLO, tools=[TOOL], thinking=THINKING
    )
    assert answer.id.startswith("msg_")
    assert (answer.stop_reason, answer.stop_sequence) == ("tool_use", None)
    thought, text, call = answer.content
    assert thought == ThinkingBlock(type="thinking", thinking="Rain?", signature=SIGNATURE)
    assert text == TextBlock(type="text", text="I look.")
    assert call == ToolUseBlock(
        type="tool_use", id="a1", name="get_weather", input={"city": "Rome"}
    )
    result: Any = {"type": "tool_result", "tool_use_id": "a1", "content": "sunny"}
    raw = await client.messages.with_raw_response.create(
        model=MODEL,
        max_tokens=99,
        tools=[TOOL],
        messages=[*HELLO, answer.to_param(), {"role": "user", "content": [result]}],
    )
    assert "x-localllm-ignored" not in raw.headers
    _, asked, answered = server.script.requests[-1].messages or ()
    assert (asked.content, asked.reasoning) == ("I look.", "Rain?")
    assert asked.tool_calls == (CALL,)
    assert (answered.tool_call_id, answered.content) == ("a1", "sunny")


@pytest.mark.usefixtures("calling")
async def test_a_stream_has_each_event_in_the_order_of_the_api(server: ServerUnderTest) -> None:
    events = await events_of(server, tools=[TOOL], thinking=THINKING)
    assert all(name == data["type"] for name, data in events)
    assert [
        (
            name,
            data.get("index"),
            (data.get("delta") or data.get("content_block") or {}).get("type"),
        )
        for name, data in events
    ] == [
        ("message_start", None, None),
        ("content_block_start", 0, "thinking"),
        ("ping", None, None),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "signature_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "text"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]
    start, end = events[0][1]["message"], events[-2][1]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert start["usage"]["input_tokens"] == end["usage"]["input_tokens"] == 3
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == 1


@pytest.mark.usefixtures("calling")
async def test_the_client_s_helper_puts_a_stream_together(server: ServerUnderTest) -> None:
    async with client_of(server).messages.stream(
        model=MODEL, max_tokens=99, messages=HELLO, tools=[TOOL], thinking=THINKING
    ) as stream:
        answer = await stream.get_final_message()
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert answer.content[2].input == {"city": "Rome"}  # type: ignore[union-attr]


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
async def test_thoughts_that_were_not_asked_for_are_no_block(
    script: Script, server: ServerUnderTest, thinking: dict[str, str] | None
) -> None:
    script.reasoning = ("Hm.",)
    response = await server.post(
        "/v1/messages", {"model": MODEL, "messages": HELLO, "thinking": thinking}
    )
    assert response.document["content"] == [{"type": "text", "text": "Hello, world."}]
    starts = [data for name, data in await events_of(server) if name == "content_block_start"]
    assert [data["content_block"]["type"] for data in starts] == ["text"]
    assert script.requests[-1].thinking.enabled is False


async def test_omitted_thoughts_leave_an_empty_block_with_a_signature(
    script: Script, server: ServerUnderTest
) -> None:
    script.reasoning = ("Hm.",)
    events = await events_of(server, thinking={"type": "adaptive", "display": "omitted"})
    deltas = [data["delta"]["type"] for name, data in events if name == "content_block_delta"]
    assert deltas[:2] == ["signature_delta", "text_delta"]


@pytest.mark.parametrize(
    ("played", "fields", "reason"),
    [
        ({}, {}, ("end_turn", None)),
        ({"stop": "###"}, {"stop_sequences": ["###"]}, ("stop_sequence", "###")),
        ({}, {"max_tokens": 2}, ("max_tokens", None)),
        ({"calls": (CALL,)}, {"tools": [TOOL]}, ("tool_use", None)),
        ({}, {"max_tokens": 0}, ("max_tokens", None)),
    ],
)
async def test_the_end_of_an_answer_has_its_reason(
    script: Script,
    server: ServerUnderTest,
    played: dict[str, Any],
    fields: dict[str, object],
    reason: tuple[str, str | None],
) -> None:
    for name, value in played.items():
        setattr(script, name, value)
    body = {"model": MODEL, "max_tokens": 99, "messages": HELLO, **fields}
    document = (await server.post("/v1/messages", body)).document
    assert (document["stop_reason"], document["stop_sequence"]) == reason
    delta = (await events_of(server, **fields))[-2][1]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == reason
    if fields == {"max_tokens": 0}:  # the prompt alone is read
        assert document["content"] == []


@pytest.mark.parametrize(
    ("line", "body", "key", "status", "kind"),
    [
        ("POST /v1/messages", "{}", KEY, 400, "invalid_request_error"),
        ("POST /v1/messages", "{", KEY, 400, "invalid_request_error"),
        ("POST /v1/messages?beta=true", '{"model": "x", "messages": [{"role": "user", '
         '"content": "a"}]}', KEY, 404, "not_found_error"),
        ("GET /v1/messages", "", KEY, 405, "invalid_request_error"),
        ("POST /v1/messages/batches", "{}", KEY, 404, "not_found_error"),
        ("POST /anthropic/api/event_logging/batch", "{}", KEY, 404, "not_found_error"),
        ("POST /v1/messages", "{}", "wrong", 401, "authentication_error"),
        ("POST /anthropic/v1/messages", "{}", None, 401, "authentication_error"),
    ],
)  # fmt: skip
async def test_every_error_is_in_the_envelope_of_the_api(
    server: ServerUnderTest, line: str, body: str, key: str | None, status: int, kind: str
) -> None:
    response = await server.request(line, body.encode(), key=key)
    assert response.status == status
    assert response.document["type"] == "error"
    assert f"\r\nrequest-id: {response.document['request_id']}\r\n" in response.head + "\r\n"
    error: Any = response.document["error"]
    assert error["type"] == kind
    if status == 404 and "beta" in line:
        assert "--alias" in error["message"]
        assert "ANTHROPIC_MODEL" in error["message"]


async def test_a_body_that_is_too_large_is_refused_in_the_words_of_the_api(
    server: ServerUnderTest,
) -> None:
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: {server.address.ip}\r\nx-api-key: {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n"
    )
    response = await server.raw(head.encode())
    assert b" 413 " in response.partition(b"\r\n")[0]
    assert b'"request_too_large"' in response


async def test_errors_of_the_engine_raise_what_a_user_of_the_client_expects(
    server: ServerUnderTest,
) -> None:
    client = client_of(server)

    async def ask() -> object:
        return await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)

    server.script.generate_error = QueueFull("256 wait")
    with pytest.raises(anthropic.InternalServerError, match="overloaded_error") as full:
        await ask()
    assert (full.value.status_code, full.value.response.headers["retry-after"]) == (503, "1")
    server.script.generate_error = ContextOverflow("The prompt has 9 tokens.")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: The prompt has 9"):
        await ask()


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(
    server: ServerUnderTest,
) -> None:
    server.script.crash_after = 2
    *_, (name, data) = await events_of(server)
    assert (name, data["type"]) == ("error", "error")
    assert data["error"]["type"] == "overloaded_error"
    assert "SIGKILL" in data["error"]["message"]


async def test_a_stream_that_waits_is_kept_alive_by_pings(server: ServerUnderTest) -> None:
    server.script.gate = asyncio.Semaphore(0)
    body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "stream": True}
    reader, writer = await server.connect()
    text = json.dumps(body)
    writer.write(
        f"POST /v1/messages HTTP/1.1\r\nHost: {server.address.ip}\r\nx-api-key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    writer.write_eof()  # a client that half closes is looked after at once
    await reader.readuntil(b'event: ping\ndata: {"type":"ping"}\n\n')
    writer.close()


@pytest.mark.parametrize("prefix", ["", "/v1", "/anthropic"])
async def test_every_address_and_both_headers_of_a_key_are_accepted(
    server: ServerUnderTest, prefix: str
) -> None:
    for options in ({"api_key": KEY}, {"auth_token": KEY}):
        client = client_of(server, prefix, **options)
        answer = await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        assert answer.content[0].text == "Hello, world."  # type: ignore[union-attr]


async def test_models_are_in_the_form_of_the_api_that_asks(server: ServerUnderTest) -> None:
    client = client_of(server)
    models = [model async for model in client.models.list(limit=1000)]
    assert [(model.id, model.type, model.lifecycle) for model in models] == [
        (MODEL, "model", "active")
    ]
    assert (await client.models.retrieve(MODEL)).created_at.year >= 2026
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        await client.models.retrieve("claude-sonnet-4-5")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        await client.models.list(limit=0)
    assert [model.object async for model in server.client().models.list()] == ["model"]
    # Below Anthropic's own prefix there is no other API.
    response = await server.request("GET /anthropic/v1/models")
    assert response.document["has_more"] is False


def test_pages_of_models_join_to_all_of_them_in_both_directions() -> None:
    models = [ModelInfo.of(f"m{i}", created=0) for i in range(7)]
    for limit in range(1, 9):
        part = page(models, ModelsQuery(limit=limit))
        forth = [model.id for model in part.data]
        while part.has_more:
            part = page(models, ModelsQuery(limit=limit, after_id=part.last_id))
            forth += [model.id for model in part.data]
        part = page(models, ModelsQuery(limit=limit, before_id="m6"))
        back = [model.id for model in part.data]
        while part.has_more:
            part = page(models, ModelsQuery(limit=limit, before_id=part.first_id))
            back = [model.id for model in part.data] + back
        assert forth == [f"m{i}" for i in range(7)]
        assert back == forth[:6]
    for wrong in ("0", "1001", "-1", "x", ""):
        with pytest.raises(ApiError):
            read_query({"limit": wrong, "other": "x"})
