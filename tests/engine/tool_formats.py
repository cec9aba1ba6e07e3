"""One answer in each tool format, with reasoning, text and calls, as its models write them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.engine.messages import Event, Reasoning, Token, ToolCallArguments, ToolCallBegan
from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import (
    DEEPSEEK,
    DEEPSEEK_V31,
    GEMMA4,
    GEMMA_THOUGHT,
    GRANITE,
    GRANITE_THINK,
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_THINK,
    PLAIN,
    QWEN_CODER,
    THINK,
    ReasoningTags,
    ToolFormat,
)
from localllm.engine.worker.parsing.harmony import HarmonyAnswerParser
from localllm.engine.worker.parsing.parser import AnswerParser, TaggedAnswerParser

TEMPLATES = Path(__file__).parent / "templates"

SCHEMAS: dict[str, Schema] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"enum": ["C", "F"]},
            "hours": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An answer in a format, and the events it stands for. `template` is a chat template's file."""

    template: str
    tool_format: ToolFormat
    tags: ReasoningTags | None
    answer: str
    events: tuple[Event, ...]


def text(text: str) -> Token:
    return Token(request_id="a", text=text)


def reasoning(text: str) -> Reasoning:
    return Reasoning(request_id="a", text=text)


def began(name: str, number: int = 0) -> ToolCallBegan:
    """The beginning of the answer's call of this number, without the random id."""
    return ToolCallBegan(request_id="a", call=number, id="", name=name)


def arguments(text: str, number: int = 0) -> ToolCallArguments:
    return ToolCallArguments(request_id="a", call=number, text=text)


def call(name: str, text: str, number: int = 0) -> tuple[Event, ...]:
    return (began(name, number), arguments(text, number))


KOELN = '{"city": "Köln \\"Süd\\" }]", "days": 2}'
TWO = (*call("get_weather", KOELN), *call("now", "{}", 1))

_BEGIN, _CALL, _SEP, _END, _ENDS = syntax.DEEPSEEK_MARKERS

EXAMPLES = (
    Example(
        template="Qwen-Qwen2.5-7B-Instruct",
        tool_format=HERMES,
        tags=None,
        answer=(
            'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": '
            + KOELN
            + '}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        events=(text("Let me look."), *TWO),
    ),
    Example(
        template="Qwen-Qwen3-0.6B",
        tool_format=HERMES,
        tags=THINK,
        answer=(
            "<think>\nThe time?\n\nI ask.\n</think>\n\n"
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        events=(reasoning("The time?\n\nI ask."), *call("now", "{}")),
    ),
    Example(
        template="Qwen3-Coder",
        tool_format=QWEN_CODER,
        tags=None,
        answer=(
            "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n12 < 13\n"
            "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=now>\n</function>\n</tool_call>"
        ),
        events=(
            text("I look."),
            *call("get_weather", '{"city": "12 < 13", "days": 3}'),
            *call("now", "{}", 1),
        ),
    ),
    Example(
        template="ibm-granite-granite-4.0",
        tool_format=HERMES,
        tags=None,
        answer='<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        events=call("now", "{}"),
    ),
    Example(
        template="ibm-granite-granite-3.3-2B-Instruct",
        tool_format=GRANITE,
        tags=GRANITE_THINK,
        answer=(
            "<think>Hm.</think>\n<response>So:</response> <|tool_call|>"
            '[{"name": "get_weather", "arguments": '
            + KOELN
            + '}, {"name": "now", "arguments": {}}]'
        ),
        events=(reasoning("Hm."), text("So:"), *TWO),
    ),
    Example(
        template="mistralai-Mistral-Nemo-Instruct-2407",
        tool_format=MISTRAL,
        tags=None,
        answer=(
            '[TOOL_CALLS][{"name": "get_weather", "arguments": '
            + KOELN
            + ', "id": "a1b2c3d4e"}, {"arguments": {}, "name": "now"}]'
        ),
        events=TWO,
    ),
    Example(
        template="mistralai-Ministral-3-14B-Reasoning-2512",
        tool_format=MISTRAL_ARGS,
        tags=MISTRAL_THINK,
        answer=(
            "[THINK]Rain?[/THINK]Yes.[TOOL_CALLS]get_weather[ARGS]"
            + KOELN
            + "[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}"
        ),
        events=(reasoning("Rain?"), text("Yes."), *TWO),
    ),
    Example(
        template="deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        tool_format=DEEPSEEK,
        tags=THINK,
        answer=(
            f"<think>\nRain?\n</think>\n\n{_BEGIN}{_CALL}function{_SEP}get_weather\n```json\n{KOELN}"
            f"\n```{_END}\n{_CALL}function{_SEP}now\n```json\n{{}}\n```{_END}{_ENDS}"
        ),
        events=(reasoning("Rain?"), *TWO),
    ),
    Example(
        template="deepseek-ai-DeepSeek-V3.1",
        tool_format=DEEPSEEK_V31,
        tags=THINK,
        answer=f"Wait.{_BEGIN}{_CALL}get_weather{_SEP}{KOELN}{_END}{_CALL}now{_SEP}{{}}{_END}{_ENDS}",
        events=(text("Wait."), *TWO),
    ),
    Example(
        template="openai-gpt-oss-120b",
        tool_format=HARMONY,
        tags=None,
        answer=(
            "<|channel|>analysis<|message|>Rain?<|end|><|start|>assistant<|channel|>commentary"
            "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary "
            f"to=functions.get_weather <|constrain|>json<|message|>{KOELN}"
        ),
        events=(reasoning("Rain?"), text("I look."), *call("get_weather", KOELN)),
    ),
    Example(
        template="own-llama-3",
        tool_format=LLAMA3,
        tags=None,
        answer='{"name": "get_weather", "parameters": ' + KOELN + "}",
        events=call("get_weather", KOELN),
    ),
    Example(
        template="google-gemma-4-31B-it",
        tool_format=GEMMA4,
        tags=GEMMA_THOUGHT,
        answer=(
            "<|channel>thought\nRain?\n<channel|>I look.<|tool_call>call:get_weather{city:"
            '<|"|>Köln "Süd" }]<|"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>'
        ),
        events=(reasoning("Rain?"), text("I look."), *TWO),
    ),
    Example(
        template="own-gemma-3",
        tool_format=PLAIN,
        tags=None,
        answer='```json\n{"name": "get_weather", "arguments": ' + KOELN + "}\n```",
        events=call("get_weather", KOELN),
    ),
)


def source(example: Example) -> str:
    """The text of an example's chat template; of Llama 3's own when the environment variable
    LLAMA3_TEMPLATE names a file with it."""
    real = os.environ.get("LLAMA3_TEMPLATE") if example.template == "own-llama-3" else None
    if real is not None:
        return Path(real).read_text(encoding="utf-8")
    return (TEMPLATES / f"{example.template}.jinja").read_text(encoding="utf-8")


def parser_for(
    tool_format: ToolFormat,
    tags: ReasoningTags | None,
    *,
    reasoning: bool = False,
    constrained: bool = False,
) -> AnswerParser:
    """A parser of an answer that may call the two tools."""
    if tool_format is HARMONY:
        return HarmonyAnswerParser(SCHEMAS, constrained=constrained)
    return TaggedAnswerParser(
        tool_format, tags, SCHEMAS, reasoning=reasoning, constrained=constrained
    )


def push(parser: AnswerParser, piece: str) -> list[Event]:
    """The events of a token with this text, but for an empty text and the ids of calls."""
    return comparable(parser.push(text(piece)))


def parse(parser: AnswerParser, pieces: Sequence[str]) -> list[Event]:
    """All events of an answer that comes in these pieces, neighbours of one kind as one."""
    events = [event for piece in pieces for event in parser.push(text(piece))]
    return merged(comparable([*events, *parser.finish(text(""))]))


def comparable(events: Sequence[Event]) -> list[Event]:
    """The events without the random ids of calls and without Tokens that have no text."""
    without_ids = [
        replace(event, id="") if isinstance(event, ToolCallBegan) else event for event in events
    ]
    return [event for event in without_ids if not (isinstance(event, Token) and not event.text)]


def merged(events: Sequence[Event]) -> list[Event]:
    """The events with neighbours of one kind, of one call, as one."""
    whole: list[Event] = []
    for event in events:
        match whole[-1] if whole else None, event:
            case Token() as last, Token(text=more):
                whole[-1] = replace(last, text=last.text + more)
            case Reasoning() as last, Reasoning(text=more):
                whole[-1] = replace(last, text=last.text + more)
            case ToolCallArguments() as last, ToolCallArguments(text=more, call=number) if (
                last.call == number
            ):
                whole[-1] = replace(last, text=last.text + more)
            case _:
                whole.append(event)
    return whole
