"""The formats in which models write tool calls and reasoning, as data.

A chat template shows which ones its model was trained on. Of a template that shows none the format
is `PLAIN`: a system message describes the tools and asks for a call as JSON. A new format is a
`ToolFormat` here, its parser in `syntax.py`, and an example in the tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.call_section import SyntaxParser


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningTags:
    """The texts around a model's reasoning; `ignored` are tags around its answer. `closing` is the
    end as the model writes it, with the white space that it was trained on; "": the tag alone."""

    open: str
    close: str
    closing: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def forced_end(self) -> str:
        """The text that ends the reasoning of a model that would go on."""
        return self.closing or self.close

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that are one control token in many vocabularies."""
        return (self.open.removesuffix("thought\n"), self.close, *self.ignored)


_THINK_END = "\n</think>\n\n"  # as Qwen 3's template writes it after no reasoning at all
THINK = ReasoningTags(open="<think>", close="</think>", closing=_THINK_END)
GRANITE_THINK = ReasoningTags(
    open="<think>",
    close="</think>",
    closing=_THINK_END,
    ignored=("<response>", "</response>"),
)
MISTRAL_THINK = ReasoningTags(open="[THINK]", close="[/THINK]")
GEMMA_THOUGHT = ReasoningTags(open="<|channel>thought\n", close="<channel|>")
SEED_THINK = ReasoningTags(open="<seed:think>", close="</seed:think>")


class ArgumentSyntax(StrEnum):
    JSON = "json"
    TAGS = "tags"  # Qwen3-Coder's <parameter=...>
    GEMMA = "gemma"  # Gemma 4's own notation of values


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """The letters around a section of calls, one by one: as a forced call must look, and as an
    earlier call looks in a prompt whose template has no place for one.

    `before` the arguments stands the function's name, as `{name}`. `many` is False for a format
    with one call an answer.
    """

    before: str
    after: str
    section_begin: str = ""
    separator: str = ""
    section_end: str = ""
    many: bool = True
    arguments: ArgumentSyntax = ArgumentSyntax.JSON

    def begin(self, name: str) -> str:
        """The beginning of a call of this function, up to its arguments."""
        return self.before.replace("{name}", name)

    def section(self, calls: Iterable[tuple[str, str]]) -> str:
        """A section of these calls: names, and arguments as they are written."""
        texts = (self.begin(name) + arguments + self.after for name, arguments in calls)
        return self.section_begin + self.separator.join(texts) + self.section_end


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """One way of writing tool calls.

    `triggers` announce a section of calls anywhere in an answer; a section may also begin with one
    of the characters `bare_starts`, as the answer's first one. `markers` are texts that are one
    control token in many vocabularies: their tokens have no text, and the parser must see it.
    """

    name: str
    parse: SyntaxParser
    triggers: tuple[str, ...]
    call_syntax: CallSyntax
    bare_starts: str = ""
    markers: tuple[str, ...] = ()


_HERMES_SYNTAX = CallSyntax(
    before='<tool_call>\n{"name": "{name}", "arguments": ', after="}\n</tool_call>", separator="\n"
)
_TAG_MARKERS = ("<tool_call>", "</tool_call>")

HERMES = ToolFormat(
    name="hermes",
    parse=syntax.tool_call_tags,
    triggers=("<tool_call>",),
    call_syntax=_HERMES_SYNTAX,
    markers=_TAG_MARKERS,
)
QWEN_CODER = ToolFormat(
    name="qwen-coder",
    parse=syntax.tool_call_tags,
    triggers=("<tool_call>",),
    call_syntax=CallSyntax(
        before="<tool_call>\n<function={name}>\n",
        after="</function>\n</tool_call>",
        separator="\n",
        arguments=ArgumentSyntax.TAGS,
    ),
    markers=_TAG_MARKERS,
)
GRANITE = ToolFormat(
    name="granite",
    parse=syntax.json_list,
    triggers=("<|tool_call|>",),
    call_syntax=CallSyntax(
        section_begin="<|tool_call|>[",
        before='{"name": "{name}", "arguments": ',
        after="}",
        separator=", ",
        section_end="]",
    ),
    markers=("<|tool_call|>",),
)
LLAMA3 = ToolFormat(
    name="llama3",
    parse=syntax.llama3,
    triggers=("<|python_tag|>",),
    bare_starts="{",
    call_syntax=CallSyntax(before='{"name": "{name}", "parameters": ', after="}", many=False),
    markers=("<|python_tag|>",),
)
MISTRAL = ToolFormat(
    name="mistral",
    parse=syntax.mistral,
    triggers=("[TOOL_CALLS]",),
    call_syntax=CallSyntax(
        section_begin="[TOOL_CALLS][",
        before='{"name": "{name}", "arguments": ',
        after="}",
        separator=", ",
        section_end="]",
    ),
    markers=("[TOOL_CALLS]",),
)
MISTRAL_ARGS = ToolFormat(
    name="mistral-args",
    parse=syntax.mistral,
    triggers=("[TOOL_CALLS]",),
    call_syntax=CallSyntax(before="[TOOL_CALLS]{name}[ARGS]", after=""),
    markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
)
DEEPSEEK = ToolFormat(
    name="deepseek",
    parse=syntax.deepseek,
    triggers=(syntax.DEEPSEEK_CALLS_BEGIN,),
    call_syntax=CallSyntax(
        section_begin=syntax.DEEPSEEK_CALLS_BEGIN,
        before=f"{syntax.DEEPSEEK_CALL_BEGIN}function{syntax.DEEPSEEK_SEPARATOR}{{name}}\n```json\n",
        after=f"\n```{syntax.DEEPSEEK_CALL_END}",
        separator="\n",
        section_end=syntax.DEEPSEEK_CALLS_END,
    ),
    markers=syntax.DEEPSEEK_MARKERS,
)
DEEPSEEK_V31 = ToolFormat(
    name="deepseek-v3.1",
    parse=syntax.deepseek,
    triggers=(syntax.DEEPSEEK_CALLS_BEGIN,),
    call_syntax=CallSyntax(
        section_begin=syntax.DEEPSEEK_CALLS_BEGIN,
        before=f"{syntax.DEEPSEEK_CALL_BEGIN}{{name}}{syntax.DEEPSEEK_SEPARATOR}",
        after=syntax.DEEPSEEK_CALL_END,
        section_end=syntax.DEEPSEEK_CALLS_END,
    ),
    markers=syntax.DEEPSEEK_MARKERS,
)
GEMMA4 = ToolFormat(
    name="gemma4",
    parse=syntax.gemma4,
    triggers=("<|tool_call>",),
    call_syntax=CallSyntax(
        before="<|tool_call>call:{name}",
        after="<tool_call|>",
        arguments=ArgumentSyntax.GEMMA,
    ),
    markers=("<|tool_call>", "<tool_call|>", syntax.GEMMA_QUOTE),
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
HARMONY = ToolFormat(
    name="harmony",
    parse=syntax.json_list,  # unused: `harmony.py` parses this format
    triggers=(),
    call_syntax=CallSyntax(
        before="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        after="",
        many=False,
    ),
    markers=HARMONY_MARKERS,
)
PLAIN = ToolFormat(
    name="plain",
    parse=syntax.plain,
    triggers=(),
    bare_starts="{[`",
    call_syntax=CallSyntax(before='{"name": "{name}", "arguments": ', after="}", many=False),
)


def tool_format_of(template: str) -> ToolFormat:
    """Find the format that a chat template's text shows."""

    def has(*texts: str) -> bool:
        return all(text in template for text in texts)

    if has("<|channel|>", "<|message|>", "<|start|>"):
        return HARMONY
    if has("<|tool_call>", "<tool_call|>"):
        return GEMMA4
    if has(syntax.DEEPSEEK_CALLS_BEGIN):
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


def reasoning_tags_of(template: str) -> ReasoningTags | None:
    """Find the tags of reasoning that a chat template's text shows; None when there are none, as in
    harmony, which has channels."""
    if "[THINK]" in template:
        return MISTRAL_THINK
    if "<|channel>thought" in template:
        return GEMMA_THOUGHT
    if "<seed:think>" in template:
        return SEED_THINK
    if "<think>" in template or "</think>" in template:
        return GRANITE_THINK if "<response>" in template else THINK
    return None
