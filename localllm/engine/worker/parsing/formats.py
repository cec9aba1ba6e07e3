"""The families of chat templates: how each writes calls and reasoning, as data.

Which family a model is of says the text of its template. What is not known here is of the family
`PLAIN`: its model is told of the tools in a system message and asked to answer with JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.call_section import Characters, Section
from localllm.engine.worker.parsing.syntax import gemma4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What stands around reasoning. `wrapping` are further markers that say nothing."""

    opens: str
    closes: str
    wrapping: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that are one control token in many vocabularies."""
        return (self.opens.removesuffix("thought\n"), self.closes)


THINK = Fence(opens="<think>", closes="</think>")
GRANITE_THINK = Fence(opens="<think>", closes="</think>", wrapping=("<response>", "</response>"))
MISTRAL_THINK = Fence(opens="[THINK]", closes="[/THINK]")
GEMMA_THOUGHT = Fence(opens="<|channel>thought\n", closes="<channel|>")
SEED_THINK = Fence(opens="<seed:think>", closes="</seed:think>")


class Arguments(StrEnum):
    """How a call's arguments are written."""

    JSON = "json"
    TAGS = "tags"  # Qwen3-Coder's <parameter=...>
    GEMMA = "gemma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """A call as the family's models write it: what a forced call must look like, letter by letter.

    `before` holds `{name}`. Several calls: `begin`, calls with `between`, `end`; where `many` is
    False the family writes one call an answer.
    """

    before: str
    after: str
    begin: str = ""
    between: str = ""
    end: str = ""
    many: bool = True
    arguments: Arguments = Arguments.JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One way of writing calls. `triggers` announce a section of them anywhere in an answer;
    one may also begin with a character of `bare` as the answer's first one."""

    name: str
    syntax: Callable[[Section], Characters]
    triggers: tuple[str, ...]
    writing: Writing
    bare: str = ""
    markers: tuple[str, ...] = ()
    """Texts that are one control token in many vocabularies: they must be seen as text."""


_HERMES_WRITING = Writing(
    before='<tool_call>\n{"name": "{name}", "arguments": ', after="}\n</tool_call>", between="\n"
)
_TAG_MARKERS = ("<tool_call>", "</tool_call>")

HERMES = Family(
    name="hermes",
    syntax=syntax.tags,
    triggers=("<tool_call>",),
    writing=_HERMES_WRITING,
    markers=_TAG_MARKERS,
)
QWEN_CODER = Family(
    name="qwen-coder",
    syntax=syntax.tags,
    triggers=("<tool_call>",),
    writing=Writing(
        before="<tool_call>\n<function={name}>\n",
        after="</function>\n</tool_call>",
        between="\n",
        arguments=Arguments.TAGS,
    ),
    markers=_TAG_MARKERS,
)
GRANITE = Family(
    name="granite",
    syntax=syntax.json_list,
    triggers=("<|tool_call|>",),
    writing=Writing(
        begin="<|tool_call|>[",
        before='{"name": "{name}", "arguments": ',
        after="}",
        between=", ",
        end="]",
    ),
    markers=("<|tool_call|>",),
)
LLAMA3 = Family(
    name="llama3",
    syntax=syntax.llama3,
    triggers=("<|python_tag|>",),
    bare="{",
    writing=Writing(before='{"name": "{name}", "parameters": ', after="}", many=False),
    markers=("<|python_tag|>",),
)
MISTRAL = Family(
    name="mistral",
    syntax=syntax.mistral,
    triggers=("[TOOL_CALLS]",),
    writing=Writing(
        begin="[TOOL_CALLS][",
        before='{"name": "{name}", "arguments": ',
        after="}",
        between=", ",
        end="]",
    ),
    markers=("[TOOL_CALLS]",),
)
MISTRAL_ARGS = Family(
    name="mistral-args",
    syntax=syntax.mistral,
    triggers=("[TOOL_CALLS]",),
    writing=Writing(before="[TOOL_CALLS]{name}[ARGS]", after=""),
    markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
)
DEEPSEEK = Family(
    name="deepseek",
    syntax=syntax.deepseek,
    triggers=(syntax.CALLS_BEGIN,),
    writing=Writing(
        begin=syntax.CALLS_BEGIN,
        before=f"{syntax.CALL_BEGIN}function{syntax.SEPARATOR}{{name}}\n```json\n",
        after=f"\n```{syntax.CALL_END}",
        between="\n",
        end=syntax.CALLS_END,
    ),
    markers=syntax.MARKERS,
)
DEEPSEEK_V31 = Family(
    name="deepseek-v3.1",
    syntax=syntax.deepseek,
    triggers=(syntax.CALLS_BEGIN,),
    writing=Writing(
        begin=syntax.CALLS_BEGIN,
        before=f"{syntax.CALL_BEGIN}{{name}}{syntax.SEPARATOR}",
        after=syntax.CALL_END,
        end=syntax.CALLS_END,
    ),
    markers=syntax.MARKERS,
)
GEMMA4 = Family(
    name="gemma4",
    syntax=gemma4,
    triggers=("<|tool_call>",),
    writing=Writing(
        before="<|tool_call>call:{name}",
        after="<tool_call|>",
        arguments=Arguments.GEMMA,
    ),
    markers=("<|tool_call>", "<tool_call|>", '<|"|>'),
)
HARMONY_MARKERS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
HARMONY = Family(
    name="harmony",
    syntax=syntax.json_list,  # never begun: `harmony.py` reads this family
    triggers=(),
    writing=Writing(
        before="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        after="",
        many=False,
    ),
    markers=HARMONY_MARKERS,
)
PLAIN = Family(
    name="plain",
    syntax=syntax.plain,
    triggers=(),
    bare="{[`",
    writing=Writing(before='{"name": "{name}", "arguments": ', after="}", many=False),
)


def family_of(template: str) -> Family:
    """The family that a chat template's text shows."""

    def has(*texts: str) -> bool:
        return all(text in template for text in texts)

    if has("<|channel|>", "<|message|>", "<|start|>"):
        return HARMONY
    if has("<|tool_call>", "<tool_call|>"):
        return GEMMA4
    if has(syntax.CALLS_BEGIN):
        return DEEPSEEK if has("```json") else DEEPSEEK_V31
    if has("[TOOL_CALLS]"):
        return MISTRAL_ARGS if has("[ARGS]") else MISTRAL
    if has("<tool_call>", "<function=", "<parameter="):
        return QWEN_CODER
    others = ("<arg_key>", "<tool_calls>", "<invoke")  # GLM, Apriel, MiniMax: tags of their own
    if has("<tool_call>", "arguments") and not any(map(has, others)):
        return HERMES
    if has("<|tool_call|>"):
        return GRANITE
    if has("<|start_header_id|>", '"parameters": '):
        return LLAMA3
    return PLAIN


def fence_of(template: str) -> Fence | None:
    """What stands around reasoning in answers of this template's model; None: it is not known to
    reason. Harmony's channels are no fence."""
    if "[THINK]" in template:
        return MISTRAL_THINK
    if "<|channel>thought" in template:
        return GEMMA_THOUGHT
    if "<seed:think>" in template:
        return SEED_THINK
    if "<think>" in template or "</think>" in template:
        return GRANITE_THINK if "<response>" in template else THINK
    return None
