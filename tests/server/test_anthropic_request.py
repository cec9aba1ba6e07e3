"""A request in Anthropic's form, as the engine gets it."""

import base64
import json
import typing
from typing import Any

import pytest
import typing_extensions
from anthropic.types.beta import BetaContentBlockParam, BetaToolUnionParam, MessageCreateParams
from anthropic.types.beta.beta_memory_tool_20250818_command import BetaMemoryTool20250818Command
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.messages import (
    Effort,
    GenerateRequest,
    Image,
    Message,
    Role,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from localllm.engine.messages.validation import check_generate
from localllm.server.dialects.anthropic.messages_request import MessagesRequest
from localllm.server.errors import FIELD_ERRORS, ApiError
from localllm.server.request_body import validate
from localllm.server.unknown_fields import unknown_fields
from tests.engine.fake_vision import png
from tests.server.bodies import json_values

USER: list[dict[str, object]] = [{"role": "user", "content": "hi"}]
TOOL: dict[str, object] = {"name": "look", "input_schema": {"type": "object"}}
PNG = png(1)
IMAGE = {
    "type": "image",
    "source": {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(PNG).decode(),
    },
}


def request(**fields: object) -> MessagesRequest:
    return validate(MessagesRequest, {"model": "m", "max_tokens": 9, "messages": USER, **fields})


def generate(**fields: object) -> GenerateRequest:
    made = request(**fields).generate_request()
    check_generate(made)
    return made


def messages(*turns: tuple[str, object], system: object = None) -> tuple[Message, ...]:
    body = [{"role": role, "content": content} for role, content in turns]
    return generate(messages=body, system=system).messages or ()


def refused(**fields: object) -> tuple[str | None, str]:
    with pytest.raises(ApiError) as raised:
        request(**fields)
    assert raised.value.code in FIELD_ERRORS
    return raised.value.param, str(raised.value)


def text(value: str, **fields: object) -> dict[str, object]:
    return {"type": "text", "text": value, **fields}


def test_fields_become_the_engine_s() -> None:
    made = generate(
        temperature=1, top_k=5, top_p=0.5, stop_sequences=["a", "", "b"], max_tokens=16.0, seed=3
    )
    assert (made.sampling.temperature, made.sampling.top_k, made.sampling.top_p) == (1, 5, 0.5)
    assert (made.stop, made.max_tokens, made.sampling.seed) == (("a", "b"), 16, 3)
    assert generate(max_tokens=None).max_tokens is None
    read_only = generate(max_tokens=0)
    assert (read_only.max_tokens, read_only.echo) == (0, True)


def test_turns_of_one_role_are_joined_and_results_stand_before_the_rest() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": "é"}}
    found = messages(
        ("user", [text("one")]),
        ("user", "two"),
        ("assistant", [text("I look."), call]),
        (
            "user",
            [
                text("And?"),
                {"type": "tool_result", "tool_use_id": "t1", "content": [text("red")]},
            ],
        ),
        ("system", "Be brief."),
        ("assistant", []),
        system=[text("Rules."), text("More.", cache_control={"type": "ephemeral", "ttl": "1h"})],
    )
    assert found == (
        Message(role=Role.SYSTEM, content="Rules.\nMore."),
        Message(role=Role.USER, content="one\ntwo"),
        Message(
            role=Role.ASSISTANT,
            content="I look.",
            tool_calls=(ToolCall(id="t1", name="look", arguments='{"a": "é"}'),),
        ),
        Message(role=Role.TOOL, content="red", tool_call_id="t1"),
        Message(role=Role.USER, content="And?"),
        Message(role=Role.SYSTEM, content="Be brief."),
        Message(role=Role.ASSISTANT, content=""),
    )


@pytest.mark.parametrize(
    ("content", "is_error", "expected"),
    [
        ("No such file", True, "Error: No such file"),
        ("Error: none", True, "Error: none"),
        ("<tool_use_error>none</tool_use_error>", True, "<tool_use_error>none</tool_use_error>"),
        (None, True, "Error:"),
        ([], False, ""),
        ("fine", False, "fine"),
        ([text("a"), text("b")], None, "a\nb"),
        ([{"type": "tool_reference", "tool_name": "x"}], None, "The tool x can be called."),
    ],
)
def test_a_result_says_whether_it_is_an_error(
    content: object, is_error: bool | None, expected: str
) -> None:
    block = {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": is_error}
    (result,) = messages(("user", [block]))
    assert (result.role, result.content) == (Role.TOOL, expected)


def test_images_of_a_question_and_of_a_result_stay_in_their_place() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("See:"), IMAGE]}
    shot, question = messages(("user", [result, text("What"), IMAGE, text("is it?")]))
    assert (shot.role, shot.images) == (Role.TOOL, (Image(data=PNG, offset=4),))
    assert question.content == "Whatis it?"
    assert question.images == (Image(data=PNG, offset=4),)


def test_documents_and_search_results_are_shown_with_their_titles() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Grass is green."}
    document = {"type": "document", "source": source, "title": 'A "B"', "context": "Old."}
    content = {"type": "content", "content": [text("x"), IMAGE]}
    found = {"type": "search_result", "source": "http://a", "title": "T", "content": [text("y")]}
    (message,) = messages(("user", [document, {"type": "document", "source": content}, found]))
    assert message.content == (
        '<document title="A &quot;B&quot;">\nOld.\nGrass is green.\n</document>\n'
        '<document>\nx</document>\n<search_result title="T" source="http://a">\ny\n</search_result>'
    )
    assert len(message.images) == 1


@pytest.mark.parametrize(
    ("block", "field", "words"),
    [
        ({"type": "image"}, "source", "is required"),
        ({"type": "text"}, "text", "is required"),
        ({"type": "tool_use", "id": "a", "input": {}}, "name", "is required"),
        ({"type": "image", "source": {"type": "url", "url": "http://a/b"}}, "source.url",
         "fetches nothing"),
        ({"type": "document", "source": {"type": "url", "url": "http://a/b"}}, "source.url",
         "fetches nothing"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type", "Files API"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}, "source.data",
         "is required"),
        ({"type": "image", "source": {"type": "base64", "data": "??"}}, "source.data", "base64"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
          "data": "JVBERi0="}}, "source.data", "PDF"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused_by_its_name(
    block: dict[str, object], field: str, words: str
) -> None:
    param, message = refused(messages=[{"role": "user", "content": [block]}])
    assert param == f"messages[0].content[0].{field}"
    assert words in message


def test_a_history_of_another_server_can_be_sent_back() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "any"}]},
        {"type": "mcp_tool_use", "id": 1, "text": 7},
        {"type": "compaction", "content": "We spoke of x.", "encrypted_content": "e"},
        text("Yes.", citations=[{"type": "char_location"}]),
    ]
    made = request(messages=[*USER, {"role": "assistant", "content": blocks}])
    assert list(unknown_fields(made)) == []
    answer = (made.generate_request().messages or ())[-1]
    assert (answer.content, answer.reasoning) == ("We spoke of x.\nYes.", "Hm.")
    (warning,) = made.warnings
    assert "server_tool_use, web_search_tool_result, mcp_tool_use" in warning


def literal(block: type, field: str = "type") -> str:
    hint = typing_extensions.get_type_hints(block, include_extras=False)[field]
    return str(typing.get_args(hint)[0])


def test_no_block_and_no_tool_that_the_client_s_types_have_costs_the_request() -> None:
    blocks = [
        each
        for each in typing.get_args(BetaContentBlockParam)
        if typing_extensions.is_typeddict(each)
    ]
    assert len(blocks) > 15
    needed: dict[str, object] = {"text": "t", "name": "n", "source": IMAGE["source"], "title": "t"}
    for block in blocks:
        kind = literal(block)
        own = {k: v for k, v in needed.items() if k in block.__annotations__}
        if kind == "search_result":
            own |= {"source": "s", "content": []}
        generate(messages=[{"role": "user", "content": [{"type": kind, **own}, text("hi")]}])
    tools = typing.get_args(BetaToolUnionParam)
    assert len(tools) > 20
    for tool in tools:
        hints = typing_extensions.get_type_hints(tool)
        if "input_schema" in hints:
            continue
        kind = literal(tool)
        body = {"type": kind} | ({"name": literal(tool, "name")} if "name" in hints else {})
        made = request(tools=[body, TOOL])
        check_generate(made.generate_request())
        family = kind.rpartition("_")[0]
        runs_here = family in ("bash", "text_editor", "memory", "computer")
        assert len(made.offered.tools) == 1 + runs_here, kind
        assert bool(made.warnings) is not runs_here


def test_a_tool_that_anthropic_defines_has_the_fields_that_its_client_reads() -> None:
    (tool,) = generate(tools=[{"type": "memory_20250818", "name": "memory"}]).tools
    properties = json.loads(tool.parameters)["properties"]
    commands = typing.get_args(typing.get_args(BetaMemoryTool20250818Command)[0])
    assert properties.keys() == {name for each in commands for name in each.model_fields}
    assert set(properties["command"]["enum"]) == {
        typing.get_args(each.model_fields["command"].annotation)[0] for each in commands
    }


def test_a_forced_tool_of_anthropic_s_servers_is_refused() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    made = request(tools=[search, TOOL], tool_choice={"type": "auto"})
    assert made.warnings == ("Tools that Anthropic's servers run were left out: web_search.",)
    assert list(unknown_fields(made)) == []
    for choice in ({"type": "tool", "name": "web_search"}, {"type": "any"}):
        param, message = refused(tools=[search], tool_choice=choice)
        assert (param, "this server cannot" in message) == ("tool_choice", True)
    assert generate(tools=[search], tool_choice={"type": "auto"}).tools == ()


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto"}, ToolChoice(), True),
        ({"type": "any"}, ToolChoice(mode=ToolMode.REQUIRED), True),
        ({"type": "none"}, ToolChoice(mode=ToolMode.NONE), True),
        ({"type": "tool", "name": "look", "disable_parallel_tool_use": True},
         ToolChoice(mode=ToolMode.NAMED, name="look"), False),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(), False),
    ],
)  # fmt: skip
def test_a_choice_of_tools_becomes_the_engine_s(
    choice: object, expected: ToolChoice, parallel: bool
) -> None:
    made = generate(tools=[TOOL], tool_choice=choice)
    assert (made.tool_choice, made.parallel_tool_calls) == (expected, parallel)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Thinking(enabled=False)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}},
         Thinking(enabled=True, budget=1024)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
         Thinking(effort=Effort.XHIGH)),
        ({"output_config": {"effort": "low"}}, Thinking(effort=Effort.LOW)),
    ],
)  # fmt: skip
def test_thinking_and_effort_become_the_engine_s(
    fields: dict[str, object], expected: Thinking
) -> None:
    assert generate(**fields).thinking == expected


def test_an_answer_in_a_form_has_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "schema": schema}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        grammar = generate(**fields).grammar
        assert grammar is not None
        assert json.loads(grammar.text) == schema
    assert refused(output_format={"type": "json_schema"})[0] == "output_format.schema"
    loose = {"type": "json_schema", "schema": {"not": {"const": 1}}}
    assert "can only be checked" in request(output_format=loose).warnings[0]


def test_what_claude_code_counts_for_its_maker_stays_out_of_the_prompt() -> None:
    billing = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"
    for system in ([text(billing), text("You are.")], f"{billing}\nYou are."):
        assert messages(("user", "hi"), system=system)[0].content == "You are."
    assert [m.role for m in messages(("user", "hi"), system=billing)] == [Role.USER]
    assert messages(("user", billing))[0].content == billing


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": [{"type": "url", "url": "http://a", "name": "a"}]}, "mcp_servers"),
        ({"container": "container_1"}, "container"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"system": [IMAGE]}, "system"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"temperature": 9}, "temperature"),
    ],
)
def test_what_would_be_another_answer_is_refused_by_its_name(
    fields: dict[str, object], param: str
) -> None:
    assert refused(**fields)[0] == param


def test_every_field_of_the_client_s_types_is_known() -> None:
    fields = {
        name for each in typing.get_args(MessageCreateParams) for name in each.__annotations__
    }
    harmless = {"cache_control", "metadata", "service_tier"}
    assert fields - MessagesRequest.model_fields.keys() == harmless
    made = request(
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        metadata={"user_id": "u"},
        service_tier="auto",
        speed="fast",
        container=None,
        mcp_servers=[],
    )
    assert list(unknown_fields(made)) == []
    assert made.warnings == (
        "context_management has no effect here: the conversation is taken as it is.",
    )
    kept = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert request(context_management=kept).warnings == ()


block_values = st.dictionaries(
    st.sampled_from(
        ["type", "text", "source", "content", "input", "id", "tool_use_id", "name", "thinking",
         "title", "is_error", "data", "media_type"]
    ),
    json_values | st.sampled_from(["text", "image", "tool_use", "tool_result", "document"]),
)  # fmt: skip


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(list(MessagesRequest.model_fields)), json_values, max_size=4),
    st.lists(block_values, max_size=3) | json_values,
)
def test_nonsense_is_accepted_or_named_and_nothing_else(
    fields: dict[str, object], content: object
) -> None:
    turns: Any = [{"role": "user", "content": content}]
    try:
        made = validate(MessagesRequest, {"messages": turns, **fields})
    except ApiError as error:
        assert error.code in FIELD_ERRORS
        return
    made.generate_request()
    assert all(isinstance(warning, str) for warning in made.warnings)
