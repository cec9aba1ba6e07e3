"""The grammar of a forced call: the family's own syntax around arguments that follow the schema.

Written in llguidance's dialect of Lark. Texts that are one control token in this vocabulary are
written as that token: `<[id]>`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.engine.events import Grammar, GrammarKind, Tool
from localllm.engine.worker.tools.family import HARMONY, Arguments, Family, Fence
from localllm.engine.worker.tools.gemma_grammar import GemmaGrammar
from localllm.engine.worker.tools.section import Schema

_ON_ONE_LINE = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}
"""As `json.dumps` writes it: a small model that may write white space writes nothing else."""

_TEXT = "TEXT: /(.|\\n)*/"
_GAP = "GAP: /[ \\n]{0,2}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forcing:
    """What stands before the calls. `thinking`: the prompt has opened the fence, so reasoning is
    there for certain; otherwise it may be. `lazily`: nothing does, as the calls have begun."""

    fence: Fence | None = None
    thinking: bool = False
    lazily: bool = False


def schema_of(tool: Tool) -> Schema:
    """A tool's parameters, as the schema of an object."""
    return {"type": "object", **json.loads(tool.parameters)}


def call_grammar(
    family: Family,
    tools: Sequence[Tool],
    ids: Mapping[str, int],
    forcing: Forcing,
    *,
    many: bool,
) -> Grammar:
    """One call of one of the `tools`, or as `many` as the model likes where the family can.

    `ids` are the control tokens among the family's markers.
    """
    writer = _Writer(ids)
    writing = family.writing
    call = " | ".join(f"call_{i}" for i in range(len(tools)))
    again = f" ({writer.literal(writing.between)} call)*" if many and writing.many else ""
    lines = [
        f"start: {writer.before(family, forcing)} calls",
        f"calls: {writer.literal(writing.begin)} call{again} {writer.literal(writing.end)}",
        f"call: {call}",
    ]
    for i, tool in enumerate(tools):
        before = writer.literal(writing.before.replace("{name}", tool.name))
        lines.append(f"call_{i}: {before} args_{i} {writer.literal(writing.after)}")
        lines += writer.arguments(f"args_{i}", schema_of(tool), writing.arguments)
    return Grammar(
        kind=GrammarKind.TOOL_CALLS, text="\n".join([*lines, *writer.rules, _TEXT, _GAP])
    )


class _Writer:
    """Writes rules for one vocabulary."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        """What `before` needs besides."""
        self._ids = ids
        self._markers = re.compile("|".join(map(re.escape, ids))) if ids else None

    def literal(self, text: str) -> str:
        """Exactly this text."""
        return " ".join(self._pieces(text))

    def _pieces(self, text: str) -> Iterator[str]:
        at = 0
        for found in self._markers.finditer(text) if self._markers is not None else ():
            if found.start() > at:
                yield json.dumps(text[at : found.start()], ensure_ascii=False)
            yield f"<[{self._ids[found[0]]}]>"
            at = found.end()
        if at < len(text):
            yield json.dumps(text[at:], ensure_ascii=False)

    def before(self, family: Family, forcing: Forcing) -> str:
        """What may or must come before the calls: reasoning."""
        if forcing.lazily:
            return ""
        if family is HARMONY:
            opens = self.literal("<|channel|>analysis<|message|>")
            return f"({opens} {self._through('<|end|>')} {self.literal('<|start|>assistant')})?"
        if forcing.fence is None:
            return ""
        closed = f"{self._through(forcing.fence.closes)} GAP"
        if forcing.thinking:
            return closed
        return f"({self.literal(forcing.fence.opens)} {closed})?"

    def _through(self, end: str) -> str:
        """Any text, and `end` after it."""
        literal = self.literal(end)
        if literal.startswith("<["):  # one token: no text can hold it
            return f"TEXT {literal}"
        self.rules.append(f"through[lazy]: TEXT {literal}")
        return "through"

    def arguments(self, rule: str, schema: Schema, arguments: Arguments) -> Iterator[str]:
        match arguments:
            case Arguments.JSON:
                yield f"{rule}: %json {json.dumps(schema | _ON_ONE_LINE)}"
            case Arguments.TAGS:
                yield from self._tags(rule, schema)
            case Arguments.GEMMA:
                yield from GemmaGrammar(rule, self.literal).rules(schema)

    def _tags(self, rule: str, schema: Schema) -> Iterator[str]:
        """Qwen3-Coder's parameters, in the order of the schema."""
        found, required = schema.get("properties"), schema.get("required")
        properties = found if isinstance(found, dict) else {}
        names = []
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        for i, (key, each) in enumerate(
            (properties if isinstance(properties, dict) else {}).items()
        ):
            need = isinstance(required, list) and key in required
            names.append(f"{rule}_{i}" + ("" if need else "?"))
            opens, closes = self.literal(f"<parameter={key}>\n"), '"\\n</parameter>\\n"'
            if isinstance(each, dict) and each.get("type") == "string" and "enum" not in each:
                yield f"{rule}_{i}: {opens} {rule}_{i}_text"
                yield f"{rule}_{i}_text[lazy]: TEXT {closes}"
            elif isinstance(each, dict) and isinstance(each.get("enum"), list) and each["enum"]:
                values = " | ".join(self.literal(_bare(value)) for value in each["enum"])
                yield f"{rule}_{i}: {opens} ({values}) {closes}"
            else:
                value = each if isinstance(each, dict) else {}
                yield f"{rule}_{i}: {opens} {rule}_{i}_value {closes}"
                yield f"{rule}_{i}_value: %json {json.dumps(value | shared | _ON_ONE_LINE)}"
        yield f"{rule}: " + (" ".join(names) or '""')


def _bare(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
