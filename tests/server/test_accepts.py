"""What clients really send: accepted, understood, or ignored and named."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.fake import Script
from localllm.engine.messages import (
    GenerateRequest,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from localllm.engine.messages.limits import MAX_PENALTY_WINDOW, MAX_SEED
from localllm.server.dialects.jina.rerank import RerankBody
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.embeddings import EmbeddingRequest
from localllm.server.errors import ApiError
from localllm.server.request_body import validate
from localllm.server.schema import RequestModel
from localllm.server.unknown_fields import HARMLESS_FIELDS, unknown_fields
from tests.server.bodies import MESSAGES, chat_body
from tests.server.server_under_test import ServerUnderTest

USER: dict[str, Any] = {"role": "user", "content": "hi"}


def generated(**fields: object) -> GenerateRequest:
    """The engine's request of a chat completion, under an id that is always the same."""
    request = validate(ChatCompletionRequest, chat_body(**fields)).generate_request()
    return dataclasses.replace(request, request_id="")


def ignored(
    fields: dict[str, object], model: type[RequestModel] = ChatCompletionRequest
) -> list[str]:
    base: dict[type[RequestModel], dict[str, object]] = {
        ChatCompletionRequest: chat_body(),
        CompletionRequest: {"prompt": "a"},
        EmbeddingRequest: {"input": "a"},
        RerankBody: {"query": "q", "documents": ["a"]},
    }
    return list(unknown_fields(validate(model, base[model] | fields)))


# --- what changes nothing ---


@pytest.mark.parametrize("value", [1, "x", None, [], {}, {"a": [1]}, True])
@pytest.mark.parametrize(
    "name", sorted(HARMLESS_FIELDS - {"name", "id", "audio", "refusal", "logprobs"})
)
def test_a_harmless_field_is_accepted_everywhere_and_not_worth_a_word(
    name: str, value: object
) -> None:
    extra: dict[str, object] = {name: value}
    tool = {"type": "function", "function": {"name": "f", **extra}, **extra}
    call = {"id": "1", "function": {"name": "f", "arguments": "{}", **extra}, **extra}
    fields: dict[str, object] = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi", **extra}], **extra},
            {"role": "assistant", "tool_calls": [call], **extra},
        ],
        "tools": [tool],
        **extra,
    }
    assert ignored(fields) == []
    for model in (CompletionRequest, EmbeddingRequest, RerankBody):
        assert ignored(extra, model) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_usage": True}},
        {"stream": False, "stream_options": {"include_usage": True}},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "flex", "user": 7},
        {"stop": ["", "", None]},
        {"stop": ""},
        {"logit_bias": []},
        {"max_tokens": -1},
        {"max_completion_tokens": -1.0},
        {"seed": -1},
        {"n": 1.0},
        {"tools": [], "tool_choice": "auto", "functions": [], "function_call": "none"},
        {"function_call": {"name": "f"}},
        {"modalities": ["text"], "suffix": None, "grammar": "", "use_beam_search": False},
        {"messages": [{**USER, "name": "Adam", "id": 5, "timestamp": 1.5}]},
        {"messages": [{**USER, "tool_call_id": "x", "reasoning_content": "y"}]},
        {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}]},
        {"messages": [{"role": "user", "content": ["hi"]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
        {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
    ],
)
def test_what_asks_for_nothing_changes_nothing(fields: dict[str, object]) -> None:
    assert generated(**fields) == generated()


# --- what is unknown ---


def test_unknown_fields_are_named_with_their_paths_the_outermost_first() -> None:
    fields: dict[str, object] = {
        "messages": [
            {**USER, "opts": {"visible": False}},
            {**USER, "content": [{"text": "a", "b": 1}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "returns": {}}}],
        "stream_options": {"verbose": True},
        "temperatur": 0,
        "": 1,
        "a.b c": 2,
    }  # fmt: skip
    assert ignored(fields) == [
        "temperatur",
        '[""]',
        '["a.b c"]',
        "stream_options.verbose",
        "messages[0].opts",
        "messages[1].content[0].b",
        "tools[0].function.returns",
    ]


@pytest.mark.parametrize(
    ("model", "fields", "paths"),
    [
        (CompletionRequest, {"num_ctx": 1}, ["num_ctx"]),
        (EmbeddingRequest, {"input_type": "query"}, ["input_type"]),
        (RerankBody, {"documents": [{"text": "a", "score": 1}]}, ["documents[0].score"]),
        (ChatCompletionRequest, {"n_predict": 1, "max_tokens": 2}, ["n_predict"]),
    ],
)
def test_every_endpoint_names_them(
    model: type[RequestModel], fields: dict[str, object], paths: list[str]
) -> None:
    assert ignored(fields, model) == paths


# --- other names and forms ---


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"repetition_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"repeat_last_n": 9}, {"penalty_last_n": 9}),
        ({"random_seed": 4}, {"seed": 4}),
        ({"stop_sequences": ["a"]}, {"stop": ["a"]}),
        ({"n_predict": 5}, {"max_tokens": 5}),
        ({"max_new_tokens": 5.0}, {"max_tokens": 5}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.0, "n": 2.0, "seed": 7.0}, {"top_k": 40, "n": 2, "seed": 7}),
        ({"penalty_last_n": -1}, {"penalty_last_n": MAX_PENALTY_WINDOW}),
        ({"stop": ["", "a", "a", "\n\n"]}, {"stop": ["a", "\n\n"]}),
        ({"seed": MAX_SEED + 1}, {"seed": 0}),
        ({"seed": -2}, {"seed": MAX_SEED - 1}),
    ],
)
def test_another_name_means_the_same(fields: dict[str, object], same: dict[str, object]) -> None:
    assert generated(**fields) == generated(**same)
    assert ignored(fields) == []


@given(seed=st.integers(-(10**60), 10**60))
def test_a_seed_of_any_size_is_one_of_the_engine_s_and_always_the_same(seed: int) -> None:
    first, again = generated(seed=seed).sampling.seed, generated(seed=seed).sampling.seed
    assert first == again
    assert (first is None) == (seed == -1)
    assert first is None or 0 <= first <= MAX_SEED
    assert first == seed or not 0 <= seed <= MAX_SEED


def test_long_lists_are_taken_up_to_the_engine_s_limits() -> None:
    bias = {str(token): -1 for token in range(4096)}
    assert len(generated(logit_bias=bias).sampling.logit_bias) == 4096
    stops = [f"\nCharacter {number}:" for number in range(256)]
    assert generated(stop=stops).stop == tuple(stops)
    assert generated(stop="x" * 300).stop == ("x" * 300,)
    assert generated(stop_token_ids=[1, 2.0]).stop_tokens == (1, 2)


FUNCTION = {"type": "function", "function": {"name": "f"}}
OTHER = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("choice", "names", "expected"),
    [
        ("any", "fg", ToolChoice(mode=ToolMode.REQUIRED)),
        ({"type": "any"}, "fg", ToolChoice(mode=ToolMode.REQUIRED)),
        ({"type": "auto"}, "fg", ToolChoice()),
        ({"type": "tool", "name": "f"}, "fg", ToolChoice(mode=ToolMode.NAMED, name="f")),
        ({"type": "function", "name": "f"}, "fg", ToolChoice(mode=ToolMode.NAMED, name="f")),
        ({"function": {"name": "f"}}, "fg", ToolChoice(mode=ToolMode.NAMED, name="f")),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}},
            "g",
            ToolChoice(mode=ToolMode.REQUIRED),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"name": "f"}]}, "f", ToolChoice()),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": []},
            "",
            ToolChoice(mode=ToolMode.NONE),
        ),
    ],
)
def test_a_tool_choice_is_understood_in_every_form(
    choice: object, names: str, expected: ToolChoice
) -> None:
    request = generated(tools=[FUNCTION, OTHER], tool_choice=choice)
    assert "".join(tool.name for tool in request.tools) == names
    assert request.tool_choice == expected


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"name": "h"}]}, "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "function", "function": {"name": "h"}}, "tool_choice"),
        ("f", "tool_choice"),
        ({"type": "web_search"}, "tool_choice.type"),
    ],
)
def test_a_tool_choice_that_cannot_be_is_named(choice: object, param: str) -> None:
    with pytest.raises(ApiError) as raised:
        generated(tools=[FUNCTION, OTHER], tool_choice=choice)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "tool",
    [
        {"function": {"name": "f"}},
        {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}},
        {"name": "f", "input_schema": {"type": "object", "properties": {}}, "cache_control": {}},
    ],
)
def test_a_tool_is_understood_without_its_wrapper(tool: dict[str, object]) -> None:
    assert generated(tools=[tool]) == generated(tools=[FUNCTION])
    assert ignored({"tools": [tool]}) == []


def test_functions_are_tools_of_which_one_is_called() -> None:
    request = generated(functions=[{"name": "f"}, {"name": "g"}], function_call={"name": "g"})
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.tool_choice == ToolChoice(mode=ToolMode.NAMED, name="g")
    assert not request.parallel_tool_calls
    with pytest.raises(ApiError) as raised:
        generated(functions=[{"name": "f"}], function_call={"name": "h"})
    assert raised.value.param == "function_call"


def test_where_a_request_has_both_its_tools_count() -> None:
    both = generated(tools=[FUNCTION], functions=[{"name": "h"}], function_call={"name": "h"})
    assert both == generated(tools=[FUNCTION])


# --- over a socket ---


async def test_the_header_names_what_was_ignored_of_answers_streams_and_errors(
    server: ServerUnderTest, script: Script
) -> None:
    messages = [{**USER, "opts": 1}]
    for stream in (False, True):
        body = chat_body(messages=messages, stream=stream, temperatur=1)
        answer = await server.post("/v1/chat/completions", body)
        assert answer.status == 200
        assert "x-localllm-ignored: temperatur; messages[0].opts\r\n" in answer.head + "\r\n"
    answer = await server.post("/v1/chat/completions", chat_body(model="other", temperatur=1))
    assert answer.status == 404
    assert "x-localllm-ignored: temperatur" in answer.head
    answer = await server.post("/v1/chat/completions", chat_body())
    assert "x-localllm-ignored" not in answer.head
    bodies: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "a"},
        "/v1/embeddings": {"input": "a"},
        "/v1/rerank": {"query": "q", "documents": ["a"]},
    }
    for path, fields in bodies.items():
        answer = await server.post(path, {**fields, "num_ctx": 8})
        assert "x-localllm-ignored: num_ctx" in answer.head, path


async def test_very_many_unknown_fields_are_a_short_header(server: ServerUnderTest) -> None:
    extra = {f"field\n{number}" * 9: number for number in range(10_000)}
    answer = await server.post("/v1/chat/completions", chat_body(**extra))
    assert answer.status == 200
    (header,) = (line for line in answer.head.split("\r\n") if "x-localllm-ignored" in line)
    assert len(header) < 2100


async def test_an_answer_to_functions_has_a_function_call(
    server: ServerUnderTest, script: Script
) -> None:
    script.tokens, script.calls = (), (ToolCall(id="a", name="f", arguments='{"x": 1}'),)
    body = chat_body(functions=[{"name": "f"}])
    answer = await server.post("/v1/chat/completions", body)
    (choice,) = json.loads(answer.body)["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": '{"x": 1}'},
        "refusal": None,
    }
    streamed = await server.post("/v1/chat/completions", {**body, "stream": True})
    lines = streamed.body.decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"].get("function_call") for chunk in chunks]
    calls = [delta for delta in deltas if delta]
    assert [call.get("name") for call in calls if call.get("name")] == ["f"]
    assert "".join(call["arguments"] for call in calls) == '{"x": 1}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    sent_back = chat_body(messages=[*MESSAGES, choice["message"]], functions=[{"name": "f"}])
    assert (await server.post("/v1/chat/completions", sent_back)).status == 200
