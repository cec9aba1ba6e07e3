"""One answer of each family with reasoning, text and calls, as its models write them."""

import os
from dataclasses import dataclass
from pathlib import Path

from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.call_section import (
    CallArguments,
    CallBegan,
    CallEnded,
    Part,
    Schema,
    Text,
    Thought,
    joined,
)
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
    Family,
    Fence,
)
from localllm.engine.worker.parsing.harmony import HarmonyReader
from localllm.engine.worker.parsing.parser import Reader, TextReader

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
    """A family's answer and what it means. `template` is the file of its chat template."""

    template: str
    family: Family
    fence: Fence | None
    answer: str
    parts: tuple[Part, ...]


def call(name: str, arguments: str) -> tuple[Part, ...]:
    return (CallBegan(name), CallArguments(arguments), CallEnded())


KOELN = '{"city": "Köln \\"Süd\\" }]", "days": 2}'
TWO = (*call("get_weather", KOELN), *call("now", "{}"))

_BEGIN, _CALL, _SEP, _END, _ENDS = syntax.MARKERS

EXAMPLES = (
    Example(
        template="Qwen-Qwen2.5-7B-Instruct",
        family=HERMES,
        fence=None,
        answer=(
            'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": '
            + KOELN
            + '}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        parts=(Text("Let me look."), *TWO),
    ),
    Example(
        template="Qwen-Qwen3-0.6B",
        family=HERMES,
        fence=THINK,
        answer=(
            "<think>\nThe time?\n\nI ask.\n</think>\n\n"
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        parts=(Thought("The time?\n\nI ask."), *call("now", "{}")),
    ),
    Example(
        template="Qwen3-Coder",
        family=QWEN_CODER,
        fence=None,
        answer=(
            "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n12 < 13\n"
            "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=now>\n</function>\n</tool_call>"
        ),
        parts=(
            Text("I look."),
            *call("get_weather", '{"city": "12 < 13", "days": 3}'),
            *call("now", "{}"),
        ),
    ),
    Example(
        template="ibm-granite-granite-4.0",
        family=HERMES,
        fence=None,
        answer='<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        parts=call("now", "{}"),
    ),
    Example(
        template="ibm-granite-granite-3.3-2B-Instruct",
        family=GRANITE,
        fence=GRANITE_THINK,
        answer=(
            "<think>Hm.</think>\n<response>So:</response> <|tool_call|>"
            '[{"name": "get_weather", "arguments": '
            + KOELN
            + '}, {"name": "now", "arguments": {}}]'
        ),
        parts=(Thought("Hm."), Text("So:"), *TWO),
    ),
    Example(
        template="mistralai-Mistral-Nemo-Instruct-2407",
        family=MISTRAL,
        fence=None,
        answer=(
            '[TOOL_CALLS][{"name": "get_weather", "arguments": '
            + KOELN
            + ', "id": "a1b2c3d4e"}, {"arguments": {}, "name": "now"}]'
        ),
        parts=TWO,
    ),
    Example(
        template="mistralai-Ministral-3-14B-Reasoning-2512",
        family=MISTRAL_ARGS,
        fence=MISTRAL_THINK,
        answer=(
            "[THINK]Rain?[/THINK]Yes.[TOOL_CALLS]get_weather[ARGS]"
            + KOELN
            + "[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}"
        ),
        parts=(Thought("Rain?"), Text("Yes."), *TWO),
    ),
    Example(
        template="deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        family=DEEPSEEK,
        fence=THINK,
        answer=(
            f"<think>\nRain?\n</think>\n\n{_BEGIN}{_CALL}function{_SEP}get_weather\n```json\n{KOELN}"
            f"\n```{_END}\n{_CALL}function{_SEP}now\n```json\n{{}}\n```{_END}{_ENDS}"
        ),
        parts=(Thought("Rain?"), *TWO),
    ),
    Example(
        template="deepseek-ai-DeepSeek-V3.1",
        family=DEEPSEEK_V31,
        fence=THINK,
        answer=f"Wait.{_BEGIN}{_CALL}get_weather{_SEP}{KOELN}{_END}{_CALL}now{_SEP}{{}}{_END}{_ENDS}",
        parts=(Text("Wait."), *TWO),
    ),
    Example(
        template="openai-gpt-oss-120b",
        family=HARMONY,
        fence=None,
        answer=(
            "<|channel|>analysis<|message|>Rain?<|end|><|start|>assistant<|channel|>commentary"
            "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary "
            f"to=functions.get_weather <|constrain|>json<|message|>{KOELN}"
        ),
        parts=(Thought("Rain?"), Text("I look."), *call("get_weather", KOELN)),
    ),
    Example(
        template="own-llama-3",
        family=LLAMA3,
        fence=None,
        answer='{"name": "get_weather", "parameters": ' + KOELN + "}",
        parts=call("get_weather", KOELN),
    ),
    Example(
        template="google-gemma-4-31B-it",
        family=GEMMA4,
        fence=GEMMA_THOUGHT,
        answer=(
            "<|channel>thought\nRain?\n<channel|>I look.<|tool_call>call:get_weather{city:"
            '<|"|>Köln "Süd" }]<|"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>'
        ),
        parts=(Thought("Rain?"), Text("I look."), *TWO),
    ),
    Example(
        template="own-gemma-3",
        family=PLAIN,
        fence=None,
        answer='```json\n{"name": "get_weather", "arguments": ' + KOELN + "}\n```",
        parts=call("get_weather", KOELN),
    ),
)


def source(example: Example) -> str:
    """The text of an example's chat template; of Llama 3's own when the environment variable
    LLAMA3_TEMPLATE names a file with it."""
    real = os.environ.get("LLAMA3_TEMPLATE") if example.template == "own-llama-3" else None
    if real is not None:
        return Path(real).read_text(encoding="utf-8")
    return (TEMPLATES / f"{example.template}.jinja").read_text(encoding="utf-8")


def reader(
    family: Family, fence: Fence | None, *, thinking: bool = False, trusted: bool = False
) -> Reader:
    """A reader of an answer that may call the two tools."""
    if family is HARMONY:
        return HarmonyReader(SCHEMAS, trusted=trusted)
    return TextReader(family, fence, SCHEMAS, thinking=thinking, trusted=trusted)


def read(reader: Reader, pieces: list[str]) -> list[Part]:
    """All parts of an answer that comes in these pieces."""
    parts = [part for piece in pieces for part in reader.push(piece)]
    return joined([*parts, *reader.finish()])
