"""`/v1/responses` through the official client, over a real socket, with a scripted engine."""

import base64
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from localllm.engine.fake import Script
from localllm.engine.messages import (
    GrammarKind,
    Image,
    Message,
    Overflow,
    Role,
    ToolCall,
    ToolMode,
)
from localllm.errors import GenerationFailed
from localllm.server.access.key_ring import KeyRing
from localllm.server.access.named_keys import KeyFile
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.request_body import validate
from tests.engine.fake_vision import png
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server

CALL = ToolCall(id="a1", name="get_weather", arguments='{"city": "Rome"}')
PATCH = ToolCall(id="a2", name="patch", arguments='{"input": "*** Begin"}')


class GetWeather(BaseModel):
    city: str


TOOLS: list[Any] = [
    {"type": "function", "name": "get_weather", "parameters": GetWeather.model_json_schema(),
     "strict": False},
    {"type": "custom", "name": "patch", "description": "Apply.",
     "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.*/"}},
    {"type": "web_search"},
]  # fmt: skip


URL = "data:image/png;base64," + base64.b64encode(png(1)).decode()


def request(**fields: object) -> ResponseRequest:
    return validate(ResponseRequest, {"model": MODEL, "input": "hi", **fields})


async def events_of(server: ServerUnderTest, **fields: Any) -> list[ResponseStreamEvent]:
    stream = await server.client().responses.create(model=MODEL, input="hi", stream=True, **fields)
    return [event async for event in stream]


@pytest.fixture
def everything(script: Script) -> None:
    script.reasoning, script.tokens = ("Rain", "?"), ("I ", "look.")
    script.calls = (CALL, PATCH)


def is_what_was_scripted(response: Response) -> None:
    thought, message, call, patch = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert [part.text for part in thought.content] == ["Rain?"]
    assert message.type == "message"
    assert response.output_text == "I look."
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == (CALL.id, CALL.name, CALL.arguments)
    assert patch.type == "custom_tool_call"
    assert (patch.name, patch.input) == ("patch", "*** Begin")
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.total_tokens == (
        response.usage.input_tokens + response.usage.output_tokens
    )


@pytest.mark.usefixtures("everything")
async def test_a_response_has_an_item_for_each_thing_that_the_model_did(
    server: ServerUnderTest,
) -> None:
    raw = await server.client().responses.with_raw_response.create(
        model=MODEL, input="hi", instructions="Be brief.", tools=TOOLS, metadata={"run": "7"}
    )
    response = raw.parse()
    is_what_was_scripted(response)
    assert response.id.startswith("resp_")
    assert response.instructions == "Be brief."
    assert response.metadata == {"run": "7"}
    assert [tool.type for tool in response.tools] == ["function", "custom", "web_search"]
    warnings = raw.headers["x-localllm-warnings"]
    assert "web_search is not offered" in warnings
    assert "nothing enforces it" in warnings
    (sent,) = server.script.requests
    assert sent.messages == (
        Message(role=Role.SYSTEM, content="Be brief."),
        Message(role=Role.USER, content="hi"),
    )
    assert [tool.name for tool in sent.tools] == ["get_weather", "patch"]
    assert "start: /.*/" in sent.tools[1].description


@pytest.mark.usefixtures("everything")
async def test_a_stream_tells_each_step_in_its_order(server: ServerUnderTest) -> None:
    events = await events_of(server, tools=TOOLS)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    part = ["content_part.added", "content_part.done"]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", part[0], "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", part[1], "output_item.done",
        "output_item.added", part[0], "output_text.delta", "output_text.delta",
        "output_text.done", part[1], "output_item.done",
        "output_item.added", *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    last = events[-1]
    assert last.type == "response.completed"
    is_what_was_scripted(last.response)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.response.output
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in done]
    for event in events:
        of_item = event.model_dump()
        if "item_id" in of_item:
            assert done[of_item["output_index"]].id == of_item["item_id"]


@pytest.mark.usefixtures("everything")
async def test_the_stream_helper_of_the_client_puts_it_together(server: ServerUnderTest) -> None:
    async with server.client().responses.stream(model=MODEL, input="hi", tools=TOOLS) as stream:
        snapshots = [
            event.snapshot async for event in stream if event.type == "response.output_text.delta"
        ]
        is_what_was_scripted(await stream.get_final_response())
    assert snapshots == ["I ", "I look."]


async def test_an_answer_is_parsed_as_its_schema(script: Script, server: ServerUnderTest) -> None:
    script.tokens = ('{"city": ', '"Rome"}')
    response = await server.client().responses.parse(
        model=MODEL, input="hi", text_format=GetWeather
    )
    assert response.output_parsed == GetWeather(city="Rome")
    grammar = server.script.requests[0].grammar
    assert grammar is not None
    assert (grammar.kind, grammar.strict) == (GrammarKind.JSON_SCHEMA, True)


async def test_reasoning_goes_where_a_summary_is_wished(
    script: Script, server: ServerUnderTest
) -> None:
    script.reasoning = ("Rain", "?")
    events = await events_of(
        server, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"]
    )
    kinds = [event.type for event in events if "reasoning" in event.type]
    assert kinds == [
        f"response.reasoning_summary_{name}"
        for name in ("part.added", "text.delta", "text.delta", "text.done", "part.done")
    ]
    last = events[-1]
    assert last.type == "response.completed"
    thought = last.response.output[0]
    assert thought.type == "reasoning"
    assert [part.text for part in thought.summary] == ["Rain?"]
    # A client that keeps no summary sends this back.
    await server.client().responses.create(
        model=MODEL,
        input=[
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": thought.id, "summary": [],
             "encrypted_content": thought.encrypted_content},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "x"},
        ],
    )  # fmt: skip
    turn = (server.script.requests[-1].messages or ())[1]
    assert (turn.reasoning, turn.tool_calls[0].name) == ("Rain?", "f")


@pytest.mark.usefixtures("everything")
async def test_a_loop_of_tools_goes_on_by_the_items_or_by_the_id(server: ServerUnderTest) -> None:
    client = server.client()
    first = await client.responses.create(model=MODEL, input="hi", tools=TOOLS)
    results: list[Any] = [
        {"type": "function_call_output", "call_id": CALL.id, "output": [
            {"type": "input_text", "text": "sunny"},
        ]},
        {"type": "custom_tool_call_output", "call_id": PATCH.id, "output": "done"},
    ]  # fmt: skip
    raw = await client.responses.with_raw_response.create(
        model=MODEL,
        tools=TOOLS,
        input=[{"role": "user", "content": "hi"}, *first.model_dump()["output"], *results],
        store=False,
    )
    assert "x-localllm-ignored" not in raw.headers
    second = await client.responses.create(
        model=MODEL, tools=TOOLS, input=results, previous_response_id=first.id
    )
    items: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
    await client.responses.create(
        model=MODEL, tools=TOOLS, input=[{"role": "user", "content": "hi"}, *items, *results]
    )
    _, by_items, by_id, by_reference = (request.messages for request in server.script.requests)
    assert by_items == by_id == by_reference
    assert by_items is not None
    user, turn, weather, patch = by_items
    assert (user.content, turn.content, turn.reasoning) == ("hi", "I look.", "Rain?")
    assert turn.tool_calls == (CALL, PATCH)
    assert (weather.role, weather.content) == (Role.TOOL, "sunny")
    assert (patch.tool_call_id, patch.content) == (PATCH.id, "done")

    items_of_second = await client.responses.input_items.list(second.id, order="asc", limit=3)
    assert [item.type for item in items_of_second.data] == ["message", "reasoning", "message"]
    first_item = items_of_second.data[0].model_dump(exclude_none=True)
    assert first_item["content"] == [{"type": "input_text", "text": "hi"}]
    assert [item.type async for item in items_of_second] == [
        "message", "reasoning", "message", "function_call", "custom_tool_call",
        "function_call_output", "custom_tool_call_output",
    ]  # fmt: skip


async def test_counted_tokens_are_those_of_the_usage(server: ServerUnderTest) -> None:
    client = server.client()
    first = await client.responses.create(model=MODEL, input="one two three")
    fields: dict[str, Any] = {
        "input": "four five",
        "instructions": "Be brief.",
        "previous_response_id": first.id,
        "tools": TOOLS,
    }
    counted = await client.responses.input_tokens.count(model=MODEL, **fields)
    made = await client.responses.create(model=MODEL, **fields)
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens > 5
    assert server.script.counted[0].messages == server.script.requests[-1].messages
    assert counted.object == "response.input_tokens"


async def test_a_response_is_kept_for_its_own_key(
    script: Script, smollm2: Path, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.json", tmp_path / "used.json")
    own, other = (keys.create(name, now=0.0)[1] for name in ("own", "other"))
    ring = KeyRing(KEY, keys)
    async with start_server(script, smollm2, tmp_path / "data", key=ring) as server:
        kept = await server.client(own).responses.create(model=MODEL, input="hi")
        await server.client(own).responses.retrieve(kept.id)
        path = f"GET /v1/responses/{kept.id} HTTP/1.1\r\nHost: localhost\r\n"
        for key, status in ((own, b" 200 "), (other, b" 404 "), (KEY, b" 404 ")):
            for header in ("Authorization: Bearer", "x-api-key:", "api-key:"):
                answer = await server.raw(
                    f"{path}{header} {key}\r\nConnection: close\r\n\r\n".encode()
                )
                assert status in answer
        assert b"in memory alone, for 60 minutes" in answer


async def test_a_response_is_kept_until_it_is_deleted(server: ServerUnderTest) -> None:
    client = server.client()
    kept = await client.responses.create(model=MODEL, input="hi")
    again = await client.responses.retrieve(kept.id)
    assert again.output_text == kept.output_text == "Hello, world."
    with pytest.raises(openai.BadRequestError, match="can be cancelled"):
        await client.responses.cancel(kept.id)
    await client.responses.delete(kept.id)
    unkept = await client.responses.create(model=MODEL, input="hi", store=False)
    for response_id in (kept.id, unkept.id):
        with pytest.raises(openai.NotFoundError) as gone:
            await client.responses.create(model=MODEL, input="hi", previous_response_id=response_id)
        assert gone.value.code == "previous_response_not_found"
        assert gone.value.param == "previous_response_id"


async def test_an_answer_that_is_cut_is_incomplete(script: Script, server: ServerUnderTest) -> None:
    script.tokens = ("word ",) * 8
    response = await server.client().responses.create(
        model=MODEL, input="hi", max_output_tokens=2, truncation="auto"
    )
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].type == "message"
    assert response.output[0].status == "incomplete"
    assert server.script.requests[0].overflow is Overflow.ROLL
    events = await events_of(server, max_output_tokens=2)
    assert events[-1].type == "response.incomplete"


async def test_a_crash_in_a_stream_is_a_failed_response(
    script: Script, server: ServerUnderTest
) -> None:
    script.crash_after = 2
    events = await events_of(server)
    *_, error, failed = events
    assert error.type == "error"
    assert error.code == "engine_crashed"
    assert failed.type == "response.failed"
    assert failed.response.error is not None
    assert failed.response.error.code == "server_error"
    script.generate_error = GenerationFailed("it did not work")
    script.crash_after = None
    with pytest.raises(openai.InternalServerError):
        await events_of(server)


CHOICES: list[tuple[object, ToolMode, list[str]]] = [
    ({"type": "function", "name": "get_weather"}, ToolMode.NAMED, ["get_weather", "patch"]),
    ({"type": "custom", "name": "patch"}, ToolMode.NAMED, ["get_weather", "patch"]),
    ("required", ToolMode.REQUIRED, ["get_weather", "patch"]),
    (
        {"type": "allowed_tools", "mode": "auto",
         "tools": [{"type": "function", "name": "get_weather"}, {"type": "web_search"}]},
        ToolMode.AUTO,
        ["get_weather"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "mode", "names"), CHOICES)
def test_a_choice_among_tools(choice: object, mode: ToolMode, names: list[str]) -> None:
    sent = request(tools=TOOLS, tool_choice=choice).generate_request("")
    assert sent.tool_choice.mode is mode
    assert [tool.name for tool in sent.tools] == names


def test_the_result_of_a_call_may_have_an_image() -> None:
    output = [
        {"type": "input_text", "text": "sunny"},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
    ]
    call = {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": output}
    _, message = request(input=[call, result]).generate_request("").messages or ()
    assert (message.role, message.content) == (Role.TOOL, "sunny")
    assert message.images == (Image(data=png(1), offset=5),)


async def test_tools_of_namespaces_are_called_by_their_names(
    script: Script, server: ServerUnderTest
) -> None:
    function = {"type": "function", "name": "read", "parameters": {}, "strict": False}
    tools: Any = [
        {"type": "namespace", "name": space, "description": "", "tools": [function]}
        for space in ("files", "mail")
    ]
    script.tokens, script.calls = (), (ToolCall(id="1", name="mail.read"),)
    response = await server.client().responses.create(model=MODEL, input="hi", tools=tools)
    (call,) = response.output
    assert call.type == "function_call"
    assert (call.name, call.namespace) == ("read", "mail")
    await server.client().responses.create(
        model=MODEL,
        tools=tools,
        input=[response.output[0].model_dump()],  # type: ignore[list-item]
    )
    sent = server.script.requests[-1]
    assert [tool.name for tool in sent.tools] == ["files.read", "mail.read"]
    assert (sent.messages or ())[0].tool_calls[0].name == "mail.read"


PDF = {"type": "input_file", "file_data": "JVBERi0A"}
REFUSED: list[tuple[dict[str, object], str, str]] = [
    ({}, "input", "missing_required_parameter"),
    ({"input": "a", "background": True}, "background", "unsupported_parameter"),
    ({"input": "a", "conversation": "c"}, "conversation", "unsupported_parameter"),
    ({"input": "a", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"input": "a", "moderation": {}}, "moderation", "unsupported_parameter"),
    ({"input": "a", "n": 2}, "n", "unsupported_parameter"),
    ({"input": "a", "messages": [{}]}, "messages", "unsupported_parameter"),
    ({"input": "a", "tools": [{"type": "mcp"}]}, "tools[0].type", "unsupported_parameter"),
    ({"input": "a", "tools": [{"type": "custom"}]}, "tools[0].name",
     "missing_required_parameter"),
    ({"input": "a", "tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice",
     "unsupported_parameter"),
    ({"input": "a", "tools": TOOLS[2:], "tool_choice": "required"}, "tool_choice",
     "invalid_value"),
    ({"input": [{"type": "mesage", "role": "user"}]}, "input[0].type", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"content": "a"}]}, "input[0].role", "missing_required_parameter"),
    ({"input": [{"type": "function_call"}]}, "input[0].name", "missing_required_parameter"),
    ({"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id",
     "missing_required_parameter"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id", "item_not_found"),
    ({"input": 7}, "input", "invalid_type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
     "input[0].content[0].image_url", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": [PDF]}]},
     "input[0].content[0].file.file_data", "unsupported_parameter"),
]  # fmt: skip


async def test_what_cannot_be_done_is_named(server: ServerUnderTest) -> None:
    for fields, param, code in REFUSED:
        answer = await server.post("/v1/responses", {"model": MODEL, **fields})
        assert answer.status in (400, 404)
        assert answer.error == (param, code)


async def test_what_a_coding_agent_sends_is_understood(server: ServerUnderTest) -> None:
    """As Codex CLI sends it (`codex-api/src/common.rs`, 2026-11), with a history of OpenAI's."""
    body = {
        "model": MODEL,
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer",
             "content": [{"type": "input_text", "text": "sandbox: read-only"}]},
            {"type": "message", "role": "user",
             "content": [{"type": "input_text", "text": "list"},
                         {"type": "input_file", "filename": "a.txt",
                          "file_data": "data:text/plain;base64,aGVsbG8="}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Listing"}],
             "encrypted_content": "gAAAA"},
            {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
            {"type": "function_call", "name": "shell", "arguments": '{"command": ["ls"]}',
             "call_id": "c1", "namespace": "functions"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        ],
        "tools": [
            {"type": "function", "name": "shell", "description": "Run.", "strict": False,
             "parameters": {"type": "object", "properties": {"command": {"type": "array"}}}},
            {"type": "namespace", "name": "mcp__files", "description": "Files.",
             "tools": [{"type": "function", "name": "read", "parameters": {}, "strict": False,
                        "defer_loading": True}]},
            {"type": "custom", "name": "apply_patch", "description": "Patch.",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
            {"type": "tool_search", "execution": "client", "description": "", "parameters": {}},
            {"type": "web_search", "external_web_access": False},
            {"type": "image_generation", "output_format": "png"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199",
        "text": {"verbosity": "low"},
        "client_metadata": {"session": "s"},
    }  # fmt: skip
    answer = await server.post("/v1/responses", body)
    assert answer.status == 200
    assert "x-localllm-ignored: client_metadata; text.verbosity" in answer.head
    assert b"event: response.completed\n" in answer.body
    data = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    assert json.loads(data[0])["response"]["prompt_cache_key"] == "0199"
    (sent,) = server.script.requests
    assert [tool.name for tool in sent.tools] == ["shell", "read", "apply_patch"]
    system, developer, user, turn, result = sent.messages or ()
    assert (system.role, developer.role) == (Role.SYSTEM, Role.SYSTEM)
    assert user.content == "list\na.txt:\nhello"
    assert (turn.reasoning, turn.tool_calls[0].id) == ("Listing", "c1")
    assert (result.role, result.tool_call_id) == (Role.TOOL, "c1")
