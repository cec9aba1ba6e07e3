"""Tools through the whole engine: the real starter model, and the families' markers as tokens."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    Grammar,
    GrammarKind,
    LoadRequest,
    Message,
    Reasoning,
    Role,
    Sampling,
    Token,
    Tool,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
    ToolChoice,
    ToolMode,
)
from localllm.errors import BadRequest
from tests.engine.answers import GREEDY
from tests.engine.tool_formats import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS = tuple(Tool(name=name, parameters=json.dumps(each)) for name, each in SCHEMAS.items())
QUESTION = (Message(role=Role.USER, content="How is the weather in Rome for the next two days?"),)
UNFOLLOWED = {
    "type": "object",
    "properties": {"b": {"enum": ["x"], "not": {"const": "x"}}},
    "required": ["b"],
    "additionalProperties": False,
}
REQUIRED = ToolChoice(mode=ToolMode.REQUIRED)
NAMED = ToolChoice(mode=ToolMode.NAMED, name="get_weather")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(smollm2: Path, tmp_path_factory) -> AsyncIterator[ProcessEngine]:  # type: ignore[no-untyped-def]
    """SmolLM2 with four slots of 1024 tokens: tools take many. One thread: two wait for each other
    when the machine is busy with something else."""
    engine = ProcessEngine(log_dir=tmp_path_factory.mktemp("log"))
    settings = LoadSettings(context=1024, parallel=4, threads=1)
    async for _ in engine.load(LoadRequest(path=str(smollm2), settings=settings)):
        pass
    yield engine
    await engine.close()


def request(name: str, **fields: object) -> GenerateRequest:
    known = {"messages": QUESTION, "sampling": GREEDY, "max_tokens": 120, "tools": TOOLS} | fields
    return GenerateRequest(request_id=name, **known)  # type: ignore[arg-type]  # as the test says


async def events(engine: ProcessEngine, request: GenerateRequest) -> list[GenerateEvent]:
    """Everything up to the last word of all its answers."""
    async with aclosing(engine.generate(request)) as stream:
        return [event async for event in stream]


def calls(found: list[GenerateEvent], index: int = 0) -> list[tuple[str, str]]:
    """Name and arguments of each call of one answer."""
    names = [e.name for e in found if isinstance(e, ToolCallBegan) and e.index == index]
    pieces = [e for e in found if isinstance(e, ToolCallArguments) and e.index == index]
    return [
        (name, "".join(piece.text for piece in pieces if piece.call == i))
        for i, name in enumerate(names)
    ]


def text(found: list[GenerateEvent]) -> str:
    return "".join(event.text for event in found if isinstance(event, Token))


def end(found: list[GenerateEvent]) -> Finished:
    assert isinstance(found[-1], Finished)
    return found[-1]


async def test_a_named_tool_is_called_with_arguments_that_follow_its_schema(
    engine: ProcessEngine,
) -> None:
    found = await events(engine, request("named", tool_choice=NAMED))
    ((name, arguments),) = calls(found)
    assert name == "get_weather"
    jsonschema.validate(json.loads(arguments), SCHEMAS["get_weather"])
    assert text(found) == ""
    assert end(found).reason is FinishReason.TOOL_CALLS


async def test_arguments_come_while_they_are_written(engine: ProcessEngine) -> None:
    found = await events(engine, request("streamed", tool_choice=NAMED))
    kinds = [type(event) for event in found if not isinstance(event, Token)]
    assert kinds.index(ToolCallBegan) < kinds.index(ToolCallArguments)
    assert kinds.count(ToolCallArguments) > 3
    tokens = sum(isinstance(event, Token) for event in found)
    assert tokens == end(found).completion_tokens


@pytest.mark.parametrize("seed", range(4))
async def test_a_required_call_is_one_of_the_tools(engine: ProcessEngine, seed: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    sent = request("required", tool_choice=REQUIRED, sampling=sampling, max_tokens=400)
    found = await events(engine, sent)
    for name, arguments in calls(found):
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    assert len(calls(found)) == 1
    assert end(found).reason is FinishReason.TOOL_CALLS


async def test_a_call_that_max_tokens_cuts_says_so(engine: ProcessEngine) -> None:
    found = await events(engine, request("cut", tool_choice=NAMED, max_tokens=16))
    ((name, arguments),) = calls(found)
    assert name == "get_weather"
    assert arguments.startswith('{"city": "')
    assert end(found).reason is FinishReason.LENGTH


async def test_each_of_several_answers_has_its_own_call(engine: ProcessEngine) -> None:
    sampling = Sampling(temperature=1.0, seed=1)
    sent = request("several", tool_choice=NAMED, n=3, sampling=sampling, max_tokens=300)
    found = await events(engine, sent)
    for index in range(3):
        ((name, arguments),) = calls(found, index)
        assert name == "get_weather"
        jsonschema.validate(json.loads(arguments), SCHEMAS["get_weather"])
    ids = {event.id for event in found if isinstance(event, ToolCallBegan)}
    assert len(ids) == 3


async def test_tools_that_may_not_be_called_change_nothing(engine: ProcessEngine) -> None:
    none = ToolChoice(mode=ToolMode.NONE)
    with_tools = await events(engine, request("none", tool_choice=none))
    without = await events(engine, request("without", tools=()))
    assert text(with_tools) == text(without) != ""
    assert end(with_tools).prompt_tokens == end(without).prompt_tokens


async def test_a_model_that_is_free_may_answer_with_text(engine: ProcessEngine) -> None:
    hello = (Message(role=Role.USER, content="Say hello."),)
    found = await events(engine, request("free", messages=hello))
    assert text(found)
    assert not any(isinstance(event, Reasoning) for event in found)
    assert end(found).prompt_tokens > 100  # the tools are described in it


async def test_a_result_is_part_of_the_prompt(engine: ProcessEngine) -> None:
    called = ToolCall(id="c1", name="get_weather", arguments='{"city": "Rome"}')
    conversation = (
        *QUESTION,
        Message(role=Role.ASSISTANT, content="", tool_calls=(called,)),
        Message(role=Role.TOOL, content="sunny, 31 degrees", tool_call_id="c1"),
    )
    none = ToolChoice(mode=ToolMode.NONE)
    found = await events(engine, request("result", messages=conversation, tool_choice=none))
    assert text(found)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": (TOOLS[0], TOOLS[0])}, "Two tools are called 'get_weather'"),
        ({"tools": (Tool(name="a b"),)}, "tool name 'a b' cannot be used"),
        ({"tools": (Tool(name="a", parameters="{"),)}, "are not valid JSON"),
        ({"tools": (Tool(name="a", parameters='{"type": "array"}'),)}, "Schema of an object"),
        ({"tool_choice": ToolChoice(mode=ToolMode.NAMED, name="b")}, "not among the `tools`"),
        ({"tool_choice": ToolChoice(mode=ToolMode.NAMED)}, "has a name if"),
        ({"tools": (), "tool_choice": REQUIRED}, "there are no `tools`"),
        ({"tool_choice": REQUIRED, "ignore_eos": True}, "ignore_eos"),
        (
            {
                "tool_choice": REQUIRED,
                "tools": (Tool(name="a", parameters=json.dumps(UNFOLLOWED), strict=True),),
            },
            "schema of the tool a is strict, .* `not` at #/properties/b",
        ),
    ],
)
async def test_tools_that_cannot_be_are_refused(
    engine: ProcessEngine, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason):
        await events(engine, request("bad", **fields))


async def test_a_schema_that_cannot_be_followed_does_not_keep_a_free_model_from_answering(
    engine: ProcessEngine,
) -> None:
    odd = (Tool(name="a", parameters=json.dumps(UNFOLLOWED), strict=True),)
    found = await events(engine, request("odd", tools=odd))
    assert end(found).completion_tokens > 0


async def test_a_forced_call_names_what_was_not_enforced_and_was_checked(
    engine: ProcessEngine,
) -> None:
    odd = (Tool(name="a", parameters=json.dumps(UNFOLLOWED)),)
    found = await events(engine, request("checked", tools=odd, tool_choice=REQUIRED))
    assert calls(found) == [("a", '{"b": "x"}')]
    (warning,) = end(found).warnings
    assert "enforce `not` at #/properties/b of the schema of the arguments of a" in warning
    assert "/b follows what it must not" in warning


FORM = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(6))
async def test_with_tools_and_a_form_the_answer_is_a_call_or_in_the_form(
    engine: ProcessEngine, seed: int
) -> None:
    sent = request(
        f"both {seed}",
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(FORM)),
        sampling=Sampling(temperature=1.2, seed=seed),
        max_tokens=300,
    )
    found = await events(engine, sent)
    if called := calls(found):
        assert end(found).reason is FinishReason.TOOL_CALLS
        for name, arguments in called:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        assert text(found) == ""
    else:
        assert end(found).reason is FinishReason.STOP
        jsonschema.validate(json.loads(text(found)), FORM)
    assert end(found).warnings == ()


async def test_a_forced_call_goes_before_a_form(engine: ProcessEngine) -> None:
    grammar = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(FORM))
    found = await events(engine, request("forced form", grammar=grammar, tool_choice=NAMED))
    assert [name for name, _ in calls(found)] == ["get_weather"]
    assert text(found) == ""


async def test_a_grammar_that_is_not_json_has_no_place_for_calls(engine: ProcessEngine) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="a+")
    with pytest.raises(BadRequest, match="must be 'none' with a grammar that is not JSON"):
        await events(engine, request("regex", grammar=grammar))
