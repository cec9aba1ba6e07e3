"""The grammar of tool calls: the format's own syntax around arguments that follow the schema.

It is written in llguidance's dialect of Lark. A marker that is one control token in the model's
vocabulary is written as that token: `<[id]>`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.engine.messages import Grammar, GrammarKind, Tool
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import (
    HARMONY,
    ArgumentSyntax,
    ReasoningTags,
    ToolFormat,
)
from localllm.engine.worker.parsing.syntax import GEMMA_QUOTE

_ON_ONE_LINE = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}
"""JSON as `json.dumps` writes it: small models that may write white space write nothing else."""

_TEXT = "TEXT: /(.|\\n)*/"
_GAP = "GAP: /[ \\n]{0,2}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """The reasoning that a whole answer may begin with. `opened`: the prompt ends with the opening
    tag, so that there is reasoning for certain."""

    tags: ReasoningTags | None = None
    opened: bool = False


def schema_of(tool: Tool) -> Schema:
    """Return the schema of a tool's arguments: that of an object."""
    return {"type": "object", **json.loads(tool.parameters)}


def call_grammar(
    tool_format: ToolFormat,
    tools: Sequence[Tool],
    marker_ids: Mapping[str, int],
    preamble: Preamble | None,
    *,
    many: bool,
) -> Grammar:
    """Write the grammar of a section with one call of one of the `tools`, or with `many` where the
    format has them.

    `marker_ids` are the control tokens among the format's markers. With a `preamble` it is the
    grammar of a whole answer; without one that of a section that has begun already.
    """
    writer = _GrammarWriter(marker_ids)
    syntax = tool_format.call_syntax
    call = " | ".join(f"call_{i}" for i in range(len(tools)))
    again = f" ({writer.literal(syntax.separator)} call)*" if many and syntax.many else ""
    begin, end = writer.literal(syntax.section_begin), writer.literal(syntax.section_end)
    before = writer.preamble(tool_format, preamble) if preamble is not None else ""
    lines = [f"start: {before} calls", f"calls: {begin} call{again} {end}", f"call: {call}"]
    for i, tool in enumerate(tools):
        opening = writer.literal(syntax.begin(tool.name))
        lines.append(f"call_{i}: {opening} args_{i} {writer.literal(syntax.after)}")
        lines += writer.arguments(f"args_{i}", schema_of(tool), syntax.arguments)
    return Grammar(
        kind=GrammarKind.TOOL_CALLS, text="\n".join([*lines, *writer.rules, _TEXT, _GAP])
    )


class _GrammarWriter:
    """Writes rules for one vocabulary."""

    def __init__(self, marker_ids: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        """Rules that the preamble refers to."""
        self._ids = marker_ids
        self._markers = re.compile("|".join(map(re.escape, marker_ids))) if marker_ids else None

    def literal(self, text: str) -> str:
        """Write exactly this text."""
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

    def preamble(self, tool_format: ToolFormat, preamble: Preamble) -> str:
        """Write the reasoning that may or must come before the calls."""
        if tool_format is HARMONY:
            opening = self.literal("<|channel|>analysis<|message|>")
            return f"({opening} {self._through('<|end|>')} {self.literal('<|start|>assistant')})?"
        if preamble.tags is None:
            return ""
        closed = f"{self._through(preamble.tags.close)} GAP"
        if preamble.opened:
            return closed
        return f"({self.literal(preamble.tags.open)} {closed})?"

    def _through(self, end: str) -> str:
        """Write any text, and `end` after it."""
        literal = self.literal(end)
        if literal.startswith("<["):  # one token: no text can hold it
            return f"TEXT {literal}"
        self.rules.append(f"through[lazy]: TEXT {literal}")
        return "through"

    def arguments(self, rule: str, schema: Schema, syntax: ArgumentSyntax) -> Iterator[str]:
        """Write the rule of arguments, and those that it refers to."""
        match syntax:
            case ArgumentSyntax.JSON:
                yield f"{rule}: %json {json.dumps(schema | _ON_ONE_LINE)}"
            case ArgumentSyntax.TAGS:
                yield from self._tags(rule, schema)
            case ArgumentSyntax.GEMMA:
                yield from GemmaGrammar(rule, self.literal).rules(schema)

    def _tags(self, rule: str, schema: Schema) -> Iterator[str]:
        """Write Qwen3-Coder's parameters, in the order of the schema."""
        found, required = schema.get("properties"), schema.get("required")
        properties = found if isinstance(found, dict) else {}
        names = []
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        for i, (key, each) in enumerate(
            (properties if isinstance(properties, dict) else {}).items()
        ):
            optional = not (isinstance(required, list) and key in required)
            names.append(f"{rule}_{i}" + ("?" if optional else ""))
            opening, closing = self.literal(f"<parameter={key}>\n"), '"\\n</parameter>\\n"'
            if isinstance(each, dict) and each.get("type") == "string" and "enum" not in each:
                yield f"{rule}_{i}: {opening} {rule}_{i}_text"
                yield f"{rule}_{i}_text[lazy]: TEXT {closing}"
            elif isinstance(each, dict) and isinstance(each.get("enum"), list) and each["enum"]:
                values = " | ".join(self.literal(_tag_value(value)) for value in each["enum"])
                yield f"{rule}_{i}: {opening} ({values}) {closing}"
            else:
                value = each if isinstance(each, dict) else {}
                yield f"{rule}_{i}: {opening} {rule}_{i}_value {closing}"
                yield f"{rule}_{i}_value: %json {json.dumps(value | shared | _ON_ONE_LINE)}"
        yield f"{rule}: " + (" ".join(names) or '""')


def _tag_value(value: object) -> str:
    """Return a constant as a tag holds it: strings without quotation marks."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_NUMBER = "/-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?/"
_SCALARS = {"integer": "/-?(0|[1-9][0-9]*)/", "number": _NUMBER, "null": '"null"',
          "boolean": '("true" | "false")'}  # fmt: skip
MAX_DEPTH = 16
"""Of nested schemas: what is deeper may be any value."""


class GemmaGrammar:
    """Writes the rules of one tool's arguments in Gemma 4's own notation.

    Types, enums, constants, required properties and items are followed; anything else may be any
    value. Properties come in the order of their names, as the chat template writes them.
    """

    def __init__(self, rule: str, literal: Callable[[str], str]) -> None:
        """`rule` is the arguments' name, with which the names of all others begin; `literal`
        writes a text."""
        self._rule = rule
        self._literal = literal
        self._rules: list[str] = []

    def rules(self, schema: Schema) -> Iterator[str]:
        """Write the rules of arguments that follow the schema."""
        self._add_any_value()
        yield f"{self._rule}: {self._object(schema, 0)}"
        yield from self._rules

    def _new(self, body: str) -> str:
        """Add a rule; return its name."""
        name = f"{self._rule}_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _add_any_value(self) -> None:
        """Add the rules of strings, and of values whose schema is not followed."""
        base, quote = self._rule, self._literal(GEMMA_QUOTE)
        if quote.startswith("<["):  # one token: no text can hold it
            self._rules.append(f"{base}_text: {quote} TEXT {quote}")
        else:
            self._rules.append(f"{base}_text: {quote} {base}_rest")
            self._rules.append(f"{base}_rest[lazy]: TEXT {quote}")
        self._rules += [
            f'{base}_any: {base}_text | {_NUMBER} | "true" | "false" | "null" | {base}_map '
            f"| {base}_list",
            f'{base}_map: "{{" ({base}_pair ("," {base}_pair)*)? "}}"',
            f'{base}_pair: /[A-Za-z_][A-Za-z0-9_-]*/ ":" {base}_any',
            f'{base}_list: "[" ({base}_any ("," {base}_any)*)? "]"',
        ]

    def _value(self, schema: object, depth: int) -> str:
        """Write a value of this schema."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return f"{self._rule}_any"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(choices, list) and choices:
            if all(isinstance(each, str | int | float | bool | None) for each in choices):
                return "(" + " | ".join(self._constant(each) for each in choices) + ")"
            return f"{self._rule}_any"
        match schema.get("type"):
            case "string":
                return f"{self._rule}_text"
            case "object" if isinstance(schema.get("properties"), dict):
                return self._new(self._object(schema, depth + 1))
            case "object":
                return f"{self._rule}_map"
            case "array":
                item = self._value(schema.get("items"), depth + 1)
                return self._new(f'"[" ({item} ("," {item})*)? "]"')
            case str(kind) if kind in _SCALARS:
                return _SCALARS[kind]
        return f"{self._rule}_any"

    def _constant(self, value: object) -> str:
        if isinstance(value, str):
            return self._literal(f"{GEMMA_QUOTE}{value}{GEMMA_QUOTE}")
        return self._literal(json.dumps(value))

    def _object(self, schema: Schema, depth: int) -> str:
        """Write pairs with commas between those that are there: one rule for what may follow
        when nothing is written yet, and one for when something is."""
        properties, required = schema.get("properties"), schema.get("required")
        if not isinstance(properties, dict) or not properties:
            return f"{self._rule}_map" if schema.get("additionalProperties") else '"{" "}"'
        fresh, later = '""', '""'
        for key in sorted(properties, reverse=True):
            pair = f"{self._literal(key + ':')} {self._value(properties[key], depth)}"
            optional = not (isinstance(required, list) and key in required)
            first = self._new(f"{pair} {later}" + (f" | {fresh}" if optional else ""))
            later = self._new(f'"," {pair} {later}' + (f" | {later}" if optional else ""))
            fresh = first
        return f'"{{" {fresh} "}}"'
