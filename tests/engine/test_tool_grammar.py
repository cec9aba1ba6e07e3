"""A forced call is in the family's own syntax, and its arguments follow the schema."""

import json
import re

import llguidance
import pytest

from localllm.engine.messages import Tool
from localllm.engine.worker.parsing.call_grammar import Forcing, call_grammar
from localllm.engine.worker.parsing.call_section import (
    CallArguments,
    CallBegan,
    CallEnded,
    Part,
    Schema,
    Text,
)
from localllm.engine.worker.parsing.formats import (
    GEMMA4,
    HARMONY,
    HERMES,
    MISTRAL,
    QWEN_CODER,
    THINK,
    Family,
    Fence,
)
from localllm.engine.worker.parsing.parser import TextReader
from tests.engine.tool_families import EXAMPLES, SCHEMAS, Example, read, reader

TOOLS = [Tool(name=name, parameters=json.dumps(schema)) for name, schema in SCHEMAS.items()]
BYTES = llguidance.LLTokenizer("byte")

families = pytest.mark.parametrize("example", EXAMPLES, ids=[e.template for e in EXAMPLES])


def follows(grammar: str, text: str) -> bool:
    """Whether a text is a whole answer of the grammar."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def grammar(
    family: Family, *, fence: Fence | None = None, many: bool = True, thinking: bool = False
) -> str:
    forcing = Forcing(fence=fence, thinking=thinking)
    return call_grammar(family, TOOLS, {}, forcing, many=many).text


def written(family: Family, *calls: tuple[str, str]) -> str:
    """Calls as the family writes them; the arguments as they are."""
    writing = family.writing
    body = writing.between.join(
        writing.before.replace("{name}", name) + arguments + writing.after
        for name, arguments in calls
    )
    return writing.begin + body + writing.end


ARGUMENTS = {
    GEMMA4.name: '{city:<|"|>Köln<|"|>,days:2,hours:[1,2],units:<|"|>C<|"|>}',
    QWEN_CODER.name: (
        "<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "<parameter=units>\nC\n</parameter>\n<parameter=hours>\n[1, 2]\n</parameter>\n"
    ),
}
JSON_ARGUMENTS = '{"city": "Köln", "days": 2, "units": "C", "hours": [1, 2]}'


@families
def test_a_forced_call_is_read_as_that_call(example: Example) -> None:
    family = example.family
    arguments = ARGUMENTS.get(family.name, JSON_ARGUMENTS)
    text = written(family, ("get_weather", arguments))
    assert follows(grammar(family), text)
    for trusted in (False, True):
        began, said, ended = read(reader(family, example.fence, trusted=trusted), list(text))
        assert (began, ended) == (CallBegan("get_weather"), CallEnded())
        assert isinstance(said, CallArguments)
        assert json.loads(said.text) == json.loads(JSON_ARGUMENTS)


@families
def test_nothing_else_is_allowed(example: Example) -> None:
    family = example.family
    good = ARGUMENTS.get(family.name, JSON_ARGUMENTS)
    forced = grammar(family)
    wrong = {
        "text": "Hello.",
        "a tool that is not there": written(family, ("get_time", good)),
        "a wrong type": written(family, ("get_weather", good.replace("2", '"two"', 1))),
        "a value out of its list": written(family, ("get_weather", re.sub(r"\bC\b", "K", good))),
        "an unknown argument": written(family, ("get_weather", good.replace("days", "weeks"))),
        "a missing one": written(family, ("get_weather", "" if family is QWEN_CODER else "{}")),
        "text after it": written(family, ("get_weather", good)) + " So.",
    }
    assert [name for name, text in wrong.items() if follows(forced, text)] == []


@families
def test_several_calls_only_where_they_are_wanted_and_the_family_can(example: Example) -> None:
    family = example.family
    empty = "" if family is QWEN_CODER else "{}"
    two = written(family, ("now", empty), ("now", empty))
    assert follows(grammar(family), two) == family.writing.many
    assert not follows(grammar(family, many=False), two)


def test_a_model_that_reasons_may_do_so_before_a_forced_call() -> None:
    call = written(HERMES, ("now", "{}"))
    assert follows(grammar(HERMES, fence=THINK), f"<think>\nHm <b>.\n</think>\n\n{call}")
    assert follows(grammar(HERMES, fence=THINK), call)
    assert not follows(grammar(HERMES, fence=THINK), f"<think>\nHm.\n{call}")
    opened = grammar(HERMES, fence=THINK, thinking=True)
    assert follows(opened, f"Hm.</think>\n\n{call}")
    assert not follows(opened, call)
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert follows(grammar(HARMONY), analysis + written(HARMONY, ("now", "{}")))


def test_markers_that_are_tokens_are_written_as_tokens() -> None:
    ids = {"[TOOL_CALLS]": 5, "[ARGS]": 9}
    text = call_grammar(MISTRAL, TOOLS[1:], ids, Forcing(), many=False).text
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
    tool = Tool(name="t", parameters=json.dumps(schema))
    forced = call_grammar(GEMMA4, [tool], {}, Forcing(), many=False).text
    for good in ("{a:{b:true}}", '{a:{b:false},c:[1,-2.5e3],d:{x:<|"|>y<|"|>,z:[null]},e:3,f:{}}'):
        text = written(GEMMA4, ("t", good))
        assert follows(forced, text)
        tools = {"t": schema}
        parts: list[Part] = read(TextReader(GEMMA4, None, tools), [text])
        assert not any(isinstance(part, Text) for part in parts)
    for bad in ("{}", "{a:{}}", "{a:{b:1}}", "{a:{b:true},c:[true]}", "{a:{b:true},e:4}", "{c:[]}"):
        assert not follows(forced, written(GEMMA4, ("t", bad)))
