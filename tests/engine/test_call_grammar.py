"""A forced call is in the format's own syntax, and its arguments follow the schema."""

import json
import re

import llguidance
import pytest

from localllm.core.json_schema import normalize
from localllm.engine.messages import Token, Tool, ToolCallArguments
from localllm.engine.worker.parsing.call_grammar import Preamble, call_grammar, schema_of
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import (
    GEMMA4,
    HARMONY,
    HERMES,
    MISTRAL,
    QWEN_CODER,
    THINK,
    ReasoningTags,
    ToolFormat,
)
from localllm.engine.worker.parsing.parser import TaggedAnswerParser
from tests.engine.tool_formats import EXAMPLES, SCHEMAS, Example, began, parse, parser_for

TOOLS = {name: normalize(schema).schema for name, schema in SCHEMAS.items()}
BYTES = llguidance.LLTokenizer("byte")

every_format = pytest.mark.parametrize("example", EXAMPLES, ids=[e.template for e in EXAMPLES])


def follows(grammar: str, text: str) -> bool:
    """Whether a text is a whole answer of the grammar."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def grammar(
    tool_format: ToolFormat,
    *,
    tags: ReasoningTags | None = None,
    many: bool = True,
    opened: bool = False,
) -> str:
    preamble = Preamble(tags=tags, opened=opened)
    return call_grammar(tool_format, TOOLS, {}, preamble, many=many).text


def written(tool_format: ToolFormat, *calls: tuple[str, str]) -> str:
    """A section of calls; the arguments as they are."""
    return tool_format.call_syntax.section(calls)


ARGUMENTS = {
    GEMMA4.name: '{city:<|"|>Köln<|"|>,days:2,hours:[1,2],units:<|"|>C<|"|>}',
    QWEN_CODER.name: (
        "<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "<parameter=units>\nC\n</parameter>\n<parameter=hours>\n[1, 2]\n</parameter>\n"
    ),
}
JSON_ARGUMENTS = '{"city": "Köln", "days": 2, "units": "C", "hours": [1, 2]}'


@every_format
def test_a_forced_call_is_parsed_as_that_call(example: Example) -> None:
    tool_format = example.tool_format
    arguments = ARGUMENTS.get(tool_format.name, JSON_ARGUMENTS)
    text = written(tool_format, ("get_weather", arguments))
    assert follows(grammar(tool_format), text)
    for constrained in (False, True):
        parser = parser_for(tool_format, example.tags, constrained=constrained)
        beginning, written_arguments = parse(parser, list(text))
        assert beginning == began("get_weather")
        assert isinstance(written_arguments, ToolCallArguments)
        assert json.loads(written_arguments.text) == json.loads(JSON_ARGUMENTS)
        assert parser.complete_calls == 1


@every_format
def test_nothing_else_is_allowed(example: Example) -> None:
    tool_format = example.tool_format
    good = ARGUMENTS.get(tool_format.name, JSON_ARGUMENTS)
    forced = grammar(tool_format)

    def weather(arguments: str) -> str:
        return written(tool_format, ("get_weather", arguments))

    wrong = {
        "text": "Hello.",
        "a tool that is not there": written(tool_format, ("get_time", good)),
        "a wrong type": weather(good.replace("2", '"two"', 1)),
        "a value out of its list": weather(re.sub(r"\bC\b", "K", good)),
        "an unknown argument": weather(good.replace("days", "weeks")),
        "a missing one": weather("" if tool_format is QWEN_CODER else "{}"),
        "text after it": weather(good) + " So.",
    }
    assert [name for name, text in wrong.items() if follows(forced, text)] == []


@every_format
def test_several_calls_only_where_they_are_allowed_and_the_format_has_them(
    example: Example,
) -> None:
    tool_format = example.tool_format
    empty = "" if tool_format is QWEN_CODER else "{}"
    two = written(tool_format, ("now", empty), ("now", empty))
    assert follows(grammar(tool_format), two) == tool_format.call_syntax.many
    assert not follows(grammar(tool_format, many=False), two)


def test_a_model_that_reasons_may_do_so_before_a_forced_call() -> None:
    call = written(HERMES, ("now", "{}"))
    assert follows(grammar(HERMES, tags=THINK), f"<think>\nHm <b>.\n</think>\n\n{call}")
    assert follows(grammar(HERMES, tags=THINK), call)
    assert not follows(grammar(HERMES, tags=THINK), f"<think>\nHm.\n{call}")
    opened = grammar(HERMES, tags=THINK, opened=True)
    assert follows(opened, f"Hm.</think>\n\n{call}")
    assert not follows(opened, call)
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert follows(grammar(HARMONY), analysis + written(HARMONY, ("now", "{}")))


def test_markers_that_are_tokens_are_written_as_tokens() -> None:
    ids = {"[TOOL_CALLS]": 5, "[ARGS]": 9}
    text = call_grammar(MISTRAL, {"now": True}, ids, Preamble(), many=False).text
    assert 'calls: <[5]> "[" call "]"' in text


def test_a_gemma_value_of_any_kind_follows_its_schema() -> None:
    schema: Schema = {
        "type": "object",
        "properties": {
            "a": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            "c": {"type": "array", "items": {"type": "number"}},
            "d": {},
            "e": {"const": 3},
            "f": {"type": "object"},
        },
        "required": ["a"],
    }
    forced = call_grammar(GEMMA4, {"t": normalize(schema).schema}, {}, Preamble(), many=False).text
    for good in ("{a:{b:true}}", '{a:{b:false},c:[1,-2.5e3],d:{x:<|"|>y<|"|>,z:[null]},e:3,f:{}}'):
        text = written(GEMMA4, ("t", good))
        assert follows(forced, text)
        tools = {"t": schema}
        events = parse(TaggedAnswerParser(GEMMA4, None, tools), [text])
        assert not any(isinstance(event, Token) for event in events)
    for bad in ("{}", "{a:{}}", "{a:{b:1}}", "{a:{b:true},c:[true]}", "{a:{b:true},e:4}", "{c:[]}"):
        assert not follows(forced, written(GEMMA4, ("t", bad)))


@every_format
def test_with_a_form_an_answer_is_calls_or_json_of_that_form(example: Example) -> None:
    tool_format = example.tool_format
    form: Schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    both = call_grammar(tool_format, TOOLS, {}, Preamble(), many=True, form=form).text
    good = ARGUMENTS.get(tool_format.name, JSON_ARGUMENTS)
    assert follows(both, written(tool_format, ("get_weather", good)))
    opening = "<|channel|>final<|message|>" if tool_format is HARMONY else ""
    assert follows(both, opening + '{"ok": true}')
    assert not follows(both, opening + '{"ok": 1}')
    assert not follows(both, "Hello.")


CITY = {"city": {"type": "string"}}


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        ({"properties": CITY, "required": ["city"]}, True),
        ({"properties": {}}, True),
        ({}, False),
        ({"type": "object"}, False),
        ({"properties": CITY, "additionalProperties": True}, False),
        ({"properties": CITY, "patternProperties": {"^x": {}}}, False),
        ({"properties": CITY, "anyOf": [{"required": ["a"]}]}, False),
        ({"properties": CITY, "required": ["other"]}, False),
    ],
)
def test_a_call_has_no_argument_that_its_tool_does_not_know(
    parameters: dict[str, object], closed: bool
) -> None:
    schema = schema_of(Tool(name="f", parameters=json.dumps(parameters)))
    assert (schema.get("additionalProperties") is False) == closed
