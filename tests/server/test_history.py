"""A history can always be sent back: other spellings, half a call, no content."""

import dataclasses
from typing import Any

import pytest

from localllm.engine.messages import Message, Role, ToolCall
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.request_body import validate

USER: dict[str, Any] = {"role": "user", "content": "hi"}


def turns(*messages: dict[str, Any]) -> tuple[Message, ...]:
    request = validate(ChatCompletionRequest, {"messages": list(messages)})
    return request.generate_request().messages or ()


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = ToolCall(id="c1", name="f", arguments="{}")


@pytest.mark.parametrize(
    "answer",
    [
        {"reasoning_content": "so"},
        {"reasoning": "so"},
        {"thinking": "so"},
        {"reasoning_content": "", "reasoning": "so"},
        {"reasoning": {"effort": "low"}, "thinking": "so"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "so", "signature": "x"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "so"}]},
        {"reasoning_content": "so", "reasoning": "so", "audio": {"id": "a"}, "refusal": None},
        {"content": [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "hi"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, "hi"]},
        {"content": [{"type": "reasoning", "text": "so"}, {"type": "output_text", "text": "hi"}]},
    ],
)
def test_a_thought_is_read_in_every_spelling(answer: dict[str, Any]) -> None:
    _, read = turns(USER, {"role": "assistant", "content": "hi", **answer})
    assert read == Message(role=Role.ASSISTANT, content="hi", reasoning="so")


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ({}, ""),
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({"content": []}, ""),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, ""),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": "", "tool_calls": [], "function_call": None}, ""),
    ],
)
def test_an_answer_without_words_can_be_sent_back(answer: dict[str, Any], content: str) -> None:
    _, read, _ = turns(USER, {"role": "assistant", **answer}, USER)
    assert read == Message(role=Role.ASSISTANT, content=content)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ({"arguments": '{"path": "poem'}, '{"path": "poem'),
        ({"arguments": "not json"}, "not json"),
        ({"arguments": "null"}, "null"),
        ({"arguments": "[1]"}, "[1]"),
        ({"arguments": ""}, "{}"),
        ({"arguments": None}, "{}"),
        ({}, "{}"),
        ({"arguments": {"a": "é"}}, '{"a": "é"}'),
        ({"arguments": [1]}, "[1]"),
        ({"arguments": '{"a": 1}', "parsed_arguments": {"a": 1}}, '{"a": 1}'),
    ],
)
def test_arguments_are_taken_as_they_are(function: dict[str, Any], arguments: str) -> None:
    call = CALL | {"function": {"name": "f"} | function, "index": 0}
    _, read = turns(USER, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert read.tool_calls == (dataclasses.replace(CALLED, arguments=arguments),)


def test_a_call_can_have_any_name_and_no_wrapper() -> None:
    call = {"type": "function_call", "id": "c1", "name": "a b/c", "arguments": "{}"}
    _, read = turns(USER, {"role": "assistant", "tool_calls": [call]})
    assert read.tool_calls == (ToolCall(id="c1", name="a b/c", arguments="{}"),)


def test_an_old_style_call_and_its_result_belong_together() -> None:
    _, asked, result = turns(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "12:00"},
    )
    assert asked.tool_calls == (ToolCall(id="call_0", name="f", arguments="{}"),)
    assert result == Message(role=Role.TOOL, content="12:00", tool_call_id="call_0", name="f")


def test_results_without_an_id_belong_to_the_calls_before_them_in_their_order() -> None:
    calls: list[dict[str, Any]] = [
        {"function": {"name": name, "arguments": {}}} for name in ("f", "g", "f")
    ]
    results = [{"role": "tool", "content": text} for text in ("1", "2", "3")]
    _, asked, *read = turns(USER, {"role": "assistant", "tool_calls": calls}, *results)
    assert [call.id for call in asked.tool_calls] == ["call_0", "call_1", "call_2"]
    assert [result.tool_call_id for result in read] == ["call_0", "call_1", "call_2"]
    results[0]["name"] = "g"
    _, _, *read = turns(USER, {"role": "assistant", "tool_calls": calls}, *results)
    assert [result.tool_call_id for result in read] == ["call_1", "call_0", "call_2"]


@pytest.mark.parametrize(
    "result",
    [
        {"tool_call_id": "nobody", "content": "x"},
        {"content": "x"},
        {"tool_call_id": 7, "content": "x", "name": 5},
        {"content": None, "tool_call_id": "c1"},
        {"content": [{"type": "text", "text": "x"}], "tool_call_id": "c1"},
    ],
)
def test_a_result_without_a_call_is_taken(result: dict[str, Any]) -> None:
    _, read = turns(USER, {"role": "tool", **result})
    assert read.role is Role.TOOL
    assert read.content in ("x", "")
