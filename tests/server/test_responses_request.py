"""Any body of `/v1/responses` is a request or an error that names a field, and nothing else."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.messages import Role
from localllm.server.dialects.openai.responses.items import LEFT_OUT, UNDERSTOOD
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.dialects.openai.responses.tools import LEFT_OUT as TOOLS_LEFT_OUT
from localllm.server.dialects.openai.responses.tools import OFFERED
from localllm.server.errors import ApiError
from localllm.server.request_body import validate
from localllm.server.unknown_fields import unknown_fields
from tests.server.bodies import json_values

texts = st.sampled_from(["", "a", "text", "input"])
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "reasoning_text", "text"])},
    optional={"text": texts | json_values, "refusal": texts},
)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(sorted(UNDERSTOOD | LEFT_OUT)) | json_values,
        "role": st.sampled_from(["user", "system", "developer", "assistant"]) | json_values,
        "content": texts | st.lists(parts, max_size=3) | json_values,
        "output": texts | st.lists(parts, max_size=2) | json_values,
        "summary": st.lists(parts, max_size=2) | json_values,
        "encrypted_content": texts | st.just("localllm:x") | json_values,
        "name": st.sampled_from(["f", "g"]) | json_values,
        "namespace": st.sampled_from(["n"]) | json_values,
        "call_id": st.sampled_from(["1", "2"]) | json_values,
        "arguments": texts | json_values,
        "input": texts | json_values,
        "id": texts,
    },
)
functions = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(OFFERED | TOOLS_LEFT_OUT))},
    optional={
        "name": st.sampled_from(["f", "g", "h"]) | json_values,
        "description": texts | json_values,
        "parameters": json_values,
        "format": json_values,
    },
)
tools = functions | st.fixed_dictionaries(
    {"type": st.just("namespace"), "name": st.just("n"), "tools": st.lists(functions, max_size=2)}
)
bodies = st.fixed_dictionaries(
    {"input": texts | st.lists(items, max_size=5) | json_values},
    optional={
        "instructions": texts | json_values,
        "tools": st.lists(tools, max_size=3) | json_values,
        "tool_choice": st.sampled_from(
            ["auto", "required", "none", {"type": "custom", "name": "f"}, {"type": "web_search"},
             {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}]
        )
        | json_values,
        "text": st.just({"format": {"type": "json_object"}}) | json_values,
        "reasoning": st.just({"effort": "low", "summary": "auto"}) | json_values,
        "include": st.just(["reasoning.encrypted_content"]) | json_values,
        "metadata": json_values,
        "truncation": st.sampled_from(["auto", "disabled"]) | json_values,
    },
)  # fmt: skip


@settings(max_examples=60)
@given(bodies)
def test_any_body_is_a_request_or_an_error_that_names_its_field(body: dict[str, object]) -> None:
    try:
        request = validate(ResponseRequest, body)
    except ApiError as error:
        assert error.status == 400
        assert error.param is not None
        return
    list(unknown_fields(request))
    generate = request.generate_request("resp_1")
    messages = generate.messages or ()
    assert all(isinstance(each, str) for each in request.warnings())
    assert {tool.name for tool in generate.tools} <= request.table.offered.keys()
    # No turn of the assistant is cut in two between its text and its calls.
    for before, after in itertools.pairwise(messages):
        if before.role is after.role is Role.ASSISTANT:
            assert not (before.content and not before.tool_calls and after.tool_calls)


@pytest.mark.parametrize("count", [3, 16_384])
def test_as_many_items_as_a_conversation_may_have(count: int) -> None:
    items: list[object] = [{"role": "user", "content": "a"}] * count
    messages = validate(ResponseRequest, {"input": items}).generate_request("r").messages
    assert len(messages or ()) == count
    with pytest.raises(ApiError, match="more than 16384"):
        validate(ResponseRequest, {"input": items * (16_384 // count + 1)})


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("input[0].type", {"input": [{"type": "configuration_update", "text": {"format": {}}}]}),
        ("prompt_cache_options", {"input": "hi", "prompt_cache_options": {"prewarm": True}}),
    ],
)
def test_what_would_make_another_answer_is_refused(field: str, body: dict[str, object]) -> None:
    with pytest.raises(ApiError) as refused:
        validate(ResponseRequest, body)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", field)


def test_what_is_said_of_asynchronous_tools_is_known() -> None:
    call = {"type": "function_call", "name": "f", "call_id": "1", "arguments": "{}", "async": True}
    body: dict[str, object] = {
        "input": [call, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "name": "f", "async": True}],
        "prompt_cache_options": {"ttl": "12h", "prewarm": False},
    }
    assert list(unknown_fields(validate(ResponseRequest, body))) == []
