"""Tools and reasoning for OpenAI's official client, over a real socket."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai import BadRequestError
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolUnionParam,
)

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from localllm.engine.messages import (
    Grammar,
    GrammarKind,
    Message,
    Role,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from tests.core.json_schemas import FROM_CLIENTS
from tests.server.server_under_test import MODEL, ServerUnderTest, start_server

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolUnionParam] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Says it.", "parameters": WEATHER},
    },
    {"type": "function", "function": {"name": "now"}},
]
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather in Rome?"}]
CALLS = (
    ToolCall(id="a1", name="get_weather", arguments='{"city": "Rome", "days": 1}'),
    ToolCall(id="b2", name="now", arguments="{}"),
)


async def stream(server: ServerUnderTest, **fields: Any) -> list[ChatCompletionChunk]:
    known: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "tools": TOOLS,
        "stream": True,
    } | fields
    chunks = await server.client().chat.completions.create(**known)
    return [chunk async for chunk in chunks]


async def refused(server: ServerUnderTest, **fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as error:
        await stream(server, **fields)
    return error.value


@pytest.fixture
def calling(script: Script) -> None:
    script.tokens, script.calls, script.reasoning = ("I look.",), CALLS, ("Rain? ", "I ask.")


@pytest.mark.usefixtures("calling")
async def test_a_whole_answer_has_calls_and_reasoning(server: ServerUnderTest) -> None:
    answer = await server.client().chat.completions.create(model=MODEL, messages=ASKED, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert choice.message.model_extra == {"reasoning_content": "Rain? I ask."}
    calls = choice.message.tool_calls or []
    assert [call.id for call in calls] == ["a1", "b2"]
    first = calls[0]
    assert isinstance(first, ChatCompletionMessageFunctionToolCall)
    assert first.function.name == "get_weather"
    assert json.loads(first.function.arguments) == {"city": "Rome", "days": 1}


@pytest.mark.usefixtures("calling")
async def test_a_streamed_answer_has_them_in_pieces(server: ServerUnderTest) -> None:
    chunks = await stream(server)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thoughts = [(delta.model_extra or {}).get("reasoning_content", "") for delta in deltas]
    assert "".join(thoughts) == "Rain? I ask."
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    for index, call in enumerate(CALLS):
        began, *rest = [piece for piece in pieces if piece.index == index]
        assert began.function is not None
        assert (began.id, began.type, began.function.name) == (call.id, "function", call.name)
        assert all(piece.id is None and piece.function is not None for piece in rest)
        assert all(piece.function.name is None for piece in rest if piece.function)
        text = "".join(p.function.arguments or "" for p in (began, *rest) if p.function)
        assert text == call.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_an_answer_that_only_calls_has_no_content(
    script: Script, server: ServerUnderTest
) -> None:
    script.tokens, script.calls = (), CALLS[:1]
    answer = await server.client().chat.completions.create(model=MODEL, messages=ASKED, tools=TOOLS)
    assert answer.choices[0].message.content is None


async def test_tools_and_the_choice_of_them_reach_the_engine(server: ServerUnderTest) -> None:
    named = {"type": "function", "function": {"name": "now"}}
    for choice in (None, "auto", "none", "required", named):
        fields = {} if choice is None else {"tool_choice": choice}
        await stream(server, **fields, parallel_tool_calls=choice != "required")
    auto = ToolChoice()
    assert [request.tool_choice for request in server.script.requests] == [
        auto,
        auto,
        ToolChoice(mode=ToolMode.NONE),
        ToolChoice(mode=ToolMode.REQUIRED),
        ToolChoice(mode=ToolMode.NAMED, name="now"),
    ]
    parallel = [request.parallel_tool_calls for request in server.script.requests]
    assert parallel == [True, True, True, False, True]
    weather, now = server.script.requests[0].tools
    assert weather == Tool(
        name="get_weather", description="Says it.", parameters=json.dumps(WEATHER)
    )
    assert json.loads(now.parameters) == {"type": "object", "properties": {}}


async def test_a_conversation_with_calls_and_results_reaches_the_engine(
    server: ServerUnderTest,
) -> None:
    function = {"name": "now", "arguments": ""}
    messages = [
        *ASKED,
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I ask.",
            "tool_calls": [{"id": "a1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a1", "content": "12:00"},
    ]
    await stream(server, messages=messages)
    assert server.script.requests[0].messages == (
        Message(role=Role.USER, content="Weather in Rome?"),
        Message(
            role=Role.ASSISTANT,
            content="",
            reasoning="I ask.",
            tool_calls=(ToolCall(id="a1", name="now", arguments="{}"),),
        ),
        Message(role=Role.TOOL, content="12:00", tool_call_id="a1"),
    )


def function(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f"} | fields}


def called(**fields: object) -> dict[str, object]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"} | fields}
    return {"role": "assistant", "tool_calls": [call]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [function(), function()]}, "tools"),
        ({"tools": [function(name="a b")]}, "tools[0].function.name"),
        ({"tools": [function(name="")]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [function()] * 200}, "tools"),
        ({"tool_choice": function(name="nobody")}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"messages": [{"role": "user", "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [called() | {"role": "user"}]}, "messages[0].tool_calls"),
    ],
)
async def test_an_impossible_value_is_a_400_that_names_the_field(
    server: ServerUnderTest, fields: dict[str, object], param: str
) -> None:
    error = await refused(server, **fields)
    assert error.param == param
    assert server.script.requests == []


async def test_a_real_model_calls_a_tool_that_it_must_call(smollm2: Path, tmp_path: Path) -> None:
    async with start_server(
        Script(),
        smollm2,
        tmp_path / "data",
        start_engine=lambda: ProcessEngine(log_dir=tmp_path / "log"),
    ) as real:
        chunks = await stream(real, tool_choice="required", temperature=0, max_tokens=120)
        pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
        text = "".join(p.function.arguments or "" for p in pieces if p.function)
        names = [p.function.name for p in pieces if p.function and p.function.name]
        assert len(names) == 1
        schemas: dict[str, dict[str, Any]] = {"get_weather": WEATHER, "now": {"type": "object"}}
        jsonschema.validate(json.loads(text), schemas[names[0]])
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        odd: dict[str, object] = {"properties": {"a": {"not": {"const": 1}}}}
        tool = function(parameters=odd, strict=True)
        error = await refused(real, tools=[tool], tool_choice="required")
        assert "`not` at #/properties/a" in str(error)


@pytest.mark.parametrize("name", FROM_CLIENTS)
async def test_no_schema_of_a_tool_costs_the_request(server: ServerUnderTest, name: str) -> None:
    chunks = await stream(server, tools=[function(parameters=FROM_CLIENTS[name])])
    assert chunks[-1].choices[0].finish_reason == "stop"
    (sent,) = server.script.requests
    assert json.loads(sent.tools[0].parameters)["type"] == "object"


@pytest.mark.parametrize("odd", [[], True, "no JSON", 1, {"type": "array"}, {"required": "a"}])
async def test_no_nonsense_of_a_tool_costs_the_request(
    server: ServerUnderTest, odd: object
) -> None:
    await stream(server, tools=[function(parameters=odd)])
    (sent,) = server.script.requests
    assert json.loads(sent.tools[0].parameters) == {"type": "object", "properties": {}}


async def test_parameters_as_a_text_are_read(server: ServerUnderTest) -> None:
    await stream(server, tools=[function(parameters=json.dumps(WEATHER), strict=True)])
    assert server.script.requests[0].tools == (
        Tool(name="f", parameters=json.dumps(WEATHER), strict=True),
    )


async def test_tools_and_a_response_format_reach_the_engine_together(
    server: ServerUnderTest,
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": WEATHER}}
    for choice in ("auto", "required", "none"):
        await stream(server, response_format=form, tool_choice=choice)
    for sent in server.script.requests:
        assert sent.tools
        assert sent.grammar == Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(WEATHER))


async def test_a_stream_names_in_its_header_what_its_schema_can_only_be_checked_for(
    server: ServerUnderTest,
) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    raw = await server.client().chat.completions.with_raw_response.create(
        model=MODEL, messages=ASKED, stream=True, response_format=form
    )
    assert "`uniqueItems`" in raw.headers["x-localllm-warnings"]
    async for _ in raw.parse():
        pass
