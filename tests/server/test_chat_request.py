"""The request of `/v1/chat/completions`: every field, and its name when it is wrong."""

import base64
import dataclasses
import json

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from localllm.engine.messages import Grammar, GrammarKind, Image, Sampling
from localllm.engine.messages.limits import ranges_of
from localllm.server.dialects.openai.chat_message import ChatMessage
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.errors import ApiError
from localllm.server.generation.history import MAX_ITEMS
from localllm.server.request_body import validate
from localllm.server.unknown_fields import unknown_fields
from tests.engine.fake_vision import png
from tests.server.bodies import MESSAGES, bodies, chat_body

FIELD_CODES = {
    "invalid_type", "invalid_value", "missing_required_parameter", "unknown_parameter",
    "unsupported_parameter",
}  # fmt: skip


def request(**fields: object) -> ChatCompletionRequest:
    return validate(ChatCompletionRequest, chat_body(**fields))


def test_every_sampling_field_has_the_range_of_the_engine() -> None:
    for name, values in ranges_of(Sampling).items():
        request(**{name: values.high})
        request(**{name: values.type(values.high)})
        if name == "seed":
            continue  # of any size
        with pytest.raises(ApiError) as raised:
            request(**{name: values.high + 1})
        assert raised.value.param == name
        with pytest.raises(ApiError):
            request(**{name: values.low if values.low_open else values.low - 2})  # -1 can be "any"
    assert request().base_request("a").sampling == Sampling()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": "m" * 513}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES * (MAX_ITEMS + 1)}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        (
            {"messages": [*MESSAGES, {"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[1].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 5.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**60}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_penalty": 11}, "repeat_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": False}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": [str(number) for number in range(257)]}, "stop"),
        ({"stop": "x" * 65_537}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"repetition_penalty": 11}, "repetition_penalty"),
        ({"n_predict": 0}, "n_predict"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"logit_bias": {str(token): 1 for token in range(4097)}}, "logit_bias"),
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
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking"),
        ({"thinking": {"type": "disabled"}, "think": True}, "think"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "thinking_budget"),
        ({"reasoning_budget": -2}, "reasoning_budget"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": "y" * 70_000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {f"a{i}": 1 for i in range(33)}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": False, "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        ({"mirostat": 3}, "mirostat"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(fields: dict[str, object], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        request(**fields)
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
        *(
            {name: None}
            for name in ChatCompletionRequest.model_fields
            if name not in ("model", "messages")
        ),
    ],
)
def test_a_field_with_its_default_changes_nothing(fields: dict[str, object]) -> None:
    expected = request().generate_request()
    generate = request(**fields).generate_request()
    assert dataclasses.replace(generate, request_id=expected.request_id) == expected


@pytest.mark.parametrize("name", [n for n in ChatMessage.model_fields if n not in MESSAGES[0]])
def test_an_empty_field_of_a_message_is_accepted(name: str) -> None:
    message = MESSAGES[0] | {name: None}
    assert request(messages=[message]) == request()


@pytest.mark.parametrize("name", ["tool_calls", "annotations", "thinking_blocks"])
def test_an_empty_list_of_a_message_is_accepted(name: str) -> None:
    message = MESSAGES[0] | {name: []}
    sent, plain = request(messages=[message]), request()
    assert list(unknown_fields(sent)) == []
    assert sent.messages[0].message() == plain.messages[0].message()


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"messages": None}, "missing_required_parameter", "`messages` is required."),
        (
            {"audio": {"voice": "alloy"}},
            "unsupported_parameter",
            "`audio` is not supported with this value.",
        ),
        (
            {"grammar": 'root ::= "a"'},
            "unsupported_parameter",
            "`grammar` is not supported: send `response_format` with a JSON Schema instead.",
        ),
        ({"temperature": 6}, "invalid_value", "`temperature` must be at most 5."),
        ({"top_k": 2**31}, "invalid_value", "`top_k` must be at most 2147483647."),
        ({"top_k": 0.5}, "invalid_type", "`top_k` must be a whole number."),
        ({"messages": []}, "invalid_value", "`messages` must not be empty."),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "invalid_value",
            "`messages[0].content[0].type` must be 'text', 'image_url', 'file' or 'thinking'.",
        ),
        (
            {"stop": "x" * 65_537},
            "invalid_value",
            "`stop` holds more than 65536 characters in all.",
        ),
    ],
)
def test_an_error_has_a_code_and_a_message(
    fields: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(ApiError) as raised:
        request(**fields)
    assert (raised.value.code, str(raised.value)) == (code, message)


@pytest.mark.parametrize("secret", ["a-secret", ["a-secret"], {"role": "a-secret"}, [[]], 55555])
@pytest.mark.parametrize("name", ChatCompletionRequest.model_fields)
def test_no_error_of_any_field_quotes_the_value(name: str, secret: object) -> None:
    try:
        request(**{name: secret})
    except ApiError as error:
        assert "secret" not in str(error)
        assert "55555" not in str(error)
        assert error.__cause__ is None
        assert error.code in FIELD_CODES


def test_not_even_the_error_of_pydantic_itself_shows_the_value() -> None:
    with pytest.raises(ValidationError) as raised:
        ChatCompletionRequest.model_validate(
            chat_body(messages=[{"role": "a-secret", "content": {"a-secret": "a-secret"}}])
        )
    assert "secret" not in f"{raised.value!s} {raised.value!r}"


def test_millions_of_wrong_items_are_one_error() -> None:
    with pytest.raises(ApiError) as raised:
        request(messages=[1] * 2_000_000)
    assert raised.value.param == "messages[0]"


@settings(max_examples=300, deadline=None)
@given(body=bodies)
def test_every_body_is_a_request_or_an_error_that_names_a_field(body: dict[str, object]) -> None:
    try:
        validate(ChatCompletionRequest, body)
    except ApiError as error:
        assert error.code in FIELD_CODES
        assert error.param is not None


# --- structured output and sampling ---


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar(kind=GrammarKind.JSON_OBJECT)),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
            },
            Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA), strict=True),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
            Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA)),
        ),
        (
            {"type": "json_object", "schema": SCHEMA},  # llama.cpp's server, Together
            Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA)),
        ),
    ],
)
def test_a_response_format_is_a_grammar(
    response_format: dict[str, object], grammar: Grammar | None
) -> None:
    assert request(response_format=response_format).generate_request().grammar == grammar


def test_sampling_fields_reach_the_engine() -> None:
    generate = request(
        logit_bias={"7": -100, "12": 1.5},
        typical_p=0.5,
        mirostat=2,
        dry_multiplier=0.8,
        dry_sequence_breakers=["\n"],
        xtc_probability=0.5,
        min_tokens=3,
        logprobs=True,
        top_logprobs=4,
    ).generate_request()
    sampling = generate.sampling
    assert sampling.logit_bias == ((7, -100), (12, 1.5))
    assert (sampling.typical_p, sampling.mirostat, sampling.dry_multiplier) == (0.5, 2, 0.8)
    assert (sampling.dry_sequence_breakers, sampling.xtc_probability) == (("\n",), 0.5)
    assert (generate.min_tokens, generate.top_logprobs) == (3, 4)


def test_logprobs_alone_requests_no_alternatives() -> None:
    assert request(logprobs=True).generate_request().top_logprobs == 0
    assert request(logprobs=False).generate_request().top_logprobs is None


# --- images ---


URL = "data:image/png;base64," + base64.b64encode(png(1)).decode()


def request_with(*parts: dict[str, object], role: str = "user") -> ChatCompletionRequest:
    return request(messages=[{"role": role, "content": list(parts)}])


def picture(url: object, **fields: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def test_an_image_stands_between_the_texts_that_it_stands_between() -> None:
    parts = (text("one"), text("two"), picture(URL), text("three"), picture(URL))
    (message,) = request_with(*parts).generate_request().messages or ()
    assert message.content == "one\ntwothree"
    assert message.images == (Image(data=png(1), offset=7), Image(data=png(1), offset=12))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "",
    ],
)
def test_nothing_is_fetched_for_a_client(url: str) -> None:
    with pytest.raises(ApiError, match="this server fetches nothing") as caught:
        request_with(picture(url))
    assert caught.value.code == "unsupported_url"
    assert caught.value.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (picture("data:image/png;base64,not base64"), ".image_url.url"),
        (picture(7), ".image_url.url"),
        (picture(None), ".image_url.url"),
        ({"type": "image_url"}, ".image_url"),
    ],
)
def test_an_incomplete_part_is_a_400_that_names_it(part: dict[str, object], field: str) -> None:
    with pytest.raises(ApiError) as caught:
        request_with(part)
    assert caught.value.status == 400
    assert caught.value.param == f"messages[0].content[0]{field}"


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_a_users_message_has_images(role: str) -> None:
    with pytest.raises(ApiError, match="belongs to a user's message"):
        request_with(text("x"), picture(URL), role=role)
