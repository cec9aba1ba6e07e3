"""Whole conversations of OpenAI's own client library: what its helpers return can be sent back."""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from localllm.engine.fake import Script
from localllm.engine.messages import Role, ToolCall
from tests.server.server_under_test import MODEL, ServerUnderTest

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather in Rome?"}]
CALL = ToolCall(id="a1", name="get_weather", arguments='{"city": "Rome"}')


class GetWeather(BaseModel):
    city: str


TOOL = openai.pydantic_function_tool(GetWeather, name="get_weather")


async def sent_back(server: ServerUnderTest, message: dict[str, Any]) -> None:
    """Send a message that the library returned, and the result of its call."""
    conversation: list[Any] = [
        *HELLO,
        message,
        {"role": "tool", "tool_call_id": CALL.id, "content": "sunny"},
    ]
    raw = await server.client().chat.completions.with_raw_response.create(
        model=MODEL, messages=conversation, tools=[TOOL]
    )
    assert "x-localllm-ignored" not in raw.headers
    _, answer, result = server.script.requests[-1].messages or ()
    assert (answer.role, answer.content, answer.reasoning) == (Role.ASSISTANT, "I look.", "Rain?")
    assert answer.tool_calls == (CALL,)
    assert (result.tool_call_id, result.content) == (CALL.id, "sunny")


@pytest.fixture
def calling(script: Script) -> None:
    script.tokens, script.calls, script.reasoning = ("I look.",), (CALL,), ("Rain?",)


@pytest.mark.usefixtures("calling")
async def test_a_whole_message_can_be_sent_back(server: ServerUnderTest) -> None:
    answer = await server.client().chat.completions.create(
        model=MODEL, messages=HELLO, tools=[TOOL]
    )
    await sent_back(server, answer.choices[0].message.model_dump())
    await sent_back(server, answer.choices[0].message.model_dump(exclude_none=True))


@pytest.mark.usefixtures("calling")
async def test_a_parsed_message_can_be_sent_back(server: ServerUnderTest) -> None:
    answer = await server.client().chat.completions.parse(model=MODEL, messages=HELLO, tools=[TOOL])
    message = answer.choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.parsed_arguments == GetWeather(city="Rome")
    await sent_back(server, message.model_dump())


@pytest.mark.usefixtures("calling")
async def test_the_message_that_the_stream_helper_put_together_can_be_sent_back(
    server: ServerUnderTest,
) -> None:
    async with server.client().chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[TOOL]
    ) as stream:
        answer = await stream.get_final_completion()
    await sent_back(server, answer.choices[0].message.model_dump())


async def test_functions_of_the_old_api_are_called_and_answered(
    script: Script, server: ServerUnderTest
) -> None:
    script.tokens, script.calls = (), (CALL,)
    client = server.client()
    functions: list[Any] = [{"name": "get_weather", "parameters": GetWeather.model_json_schema()}]
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, functions=functions, function_call="auto"
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.arguments == CALL.arguments
    await client.chat.completions.create(
        model=MODEL,
        functions=functions,
        messages=[
            *HELLO,
            choice.message.model_dump(),  # type: ignore[list-item]  # as people send it
            {"role": "function", "name": "get_weather", "content": "sunny"},
        ],
    )
    _, asked, result = server.script.requests[-1].messages or ()
    assert [call.name for call in asked.tool_calls] == ["get_weather"]
    assert (result.role, result.tool_call_id) == (Role.TOOL, asked.tool_calls[0].id)


async def test_fields_of_other_servers_are_ignored_and_named(server: ServerUnderTest) -> None:
    raw = await server.client().chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi", "name": "Adam"}],
        metadata={"run": "7"},
        store=True,
        service_tier="flex",
        user="u",
        stream_options={"include_usage": True},
        seed=2**63,
        stop=[f"<{number}>" for number in range(40)],
        extra_body={"keep_alive": -1, "options": {"num_ctx": 8}, "repetition_penalty": 1.1},
    )
    assert raw.headers["x-localllm-ignored"] == "keep_alive; options"
    assert raw.parse().choices[0].message.content == "Hello, world."
