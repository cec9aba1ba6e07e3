"""The grammar of tool calls: the format's own syntax around arguments that follow the schema.

It is written in llguidance's dialect of Lark. A marker that is one control token in the model's
vocabulary is written as that token: `<[id]>`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from localllm.core.json_schema import any_of
from localllm.engine.messages import Grammar, GrammarKind, Tool
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import (
    HARMONY,
    ArgumentSyntax,
    ReasoningTags,
    ToolFormat,
)
from localllm.engine.worker.parsing.syntax import GEMMA_QUOTE
from localllm.engine.worker.sampling.inline_schema import FORM, inline

_FINAL = "<|channel|>final<|message|>"
"""Before harmony's answer."""

_TEXT = "TEXT: /(.|\\n)*/"
_GAP = "GAP: /[ \\n]{0,2}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """The reasoning that a whole answer may begin with. `opened`: the prompt ends with the opening
    tag, so that there is reasoning for certain."""

    tags: ReasoningTags | None = None
    opened: bool = False


def schema_of(tool: Tool) -> Schema:
    """Return the schema of a tool's arguments: that of an object.

    One that lists its properties has no others unless it says so: a function takes no argument that
    it does not know, and most clients send their schemas without a word on it.
    """
    schema = {"type": "object", **json.loads(tool.parameters)}
    listed = schema.get("properties")
    if isinstance(listed, dict) and not _OPENS & schema.keys():
        required = schema.get("required", [])
        if isinstance(required, list) and all(name in listed for name in required):
            schema["additionalProperties"] = False
    return schema


_OPENS = {
    "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "$ref",
    "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "minProperties",
}  # fmt: skip
"""Keywords that may stand for further properties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGrammar:
    """A grammar of calls that is still to be written (a `SchemaGrammar`).

    `preamble` and `many`: see `call_grammar`. With a `form`, the text of a JSON Schema, the answer
    is JSON of that form where it is no call.
    """

    tool_format: ToolFormat
    tools: tuple[Tool, ...]
    marker_ids: Mapping[str, int]
    preamble: Preamble | None
    many: bool
    forced: bool
    form: str | None = None
    strict_form: bool = False

    @property
    def schemas(self) -> Mapping[str, str]:
        found = {tool.name: json.dumps(schema_of(tool)) for tool in self.tools}
        return found if self.form is None else {**found, FORM: self.form}

    @property
    def strict(self) -> frozenset[str]:
        """What the model may choose to call costs nobody an answer."""
        names = {tool.name for tool in self.tools if tool.strict and self.forced}
        return frozenset(names | {FORM} if self.strict_form else names)

    def write(self, schemas: Mapping[str, Schema | bool]) -> Grammar:
        return call_grammar(
            self.tool_format,
            {tool.name: schemas[tool.name] for tool in self.tools},
            self.marker_ids,
            self.preamble,
            many=self.many,
            form=schemas.get(FORM),
        )


def call_grammar(
    tool_format: ToolFormat,
    tools: Mapping[str, Schema | bool],
    marker_ids: Mapping[str, int],
    preamble: Preamble | None,
    *,
    many: bool,
    form: Schema | bool | None = None,
) -> Grammar:
    """Write the grammar of a section with one call of one of the `tools`, or with `many` where the
    format has them. Their schemas, by name, are normalized.

    `marker_ids` are the control tokens among the format's markers. With a `preamble` it is the
    grammar of a whole answer; without one that of a section that has begun already. With a `form`
    (a schema too) JSON of that form may come instead of calls.
    """
    writer = _GrammarWriter(marker_ids)
    syntax = tool_format.call_syntax
    bare = _BARE_CALL.fullmatch(syntax.before)
    if form is not None and bare is not None and not syntax.section_begin:
        # A call is JSON too: two grammars that both begin with a brace would get into each other.
        calls_and_form = any_of([form, *(_call_schema(tools, name, bare[1]) for name in tools)])
        before = writer.preamble(tool_format, preamble) if preamble is not None else ""
        lines = [f"start: {before} form", f"form: {inline(calls_and_form)}"]
        return Grammar(
            kind=GrammarKind.TOOL_CALLS, text="\n".join([*lines, *writer.rules, _TEXT, _GAP])
        )
    call = " | ".join(f"call_{i}" for i in range(len(tools)))
    again = f" ({writer.literal(syntax.separator)} call)*" if many and syntax.many else ""
    begin, end = writer.literal(syntax.section_begin), writer.literal(syntax.section_end)
    before = writer.preamble(tool_format, preamble) if preamble is not None else ""
    lines = [f"calls: {begin} call{again} {end}", f"call: {call}"]
    if form is None:
        lines.insert(0, f"start: {before} calls")
    else:
        opening = writer.literal(_FINAL) if tool_format is HARMONY else ""
        lines.insert(0, f"start: {before} (calls | {opening} form)")
        lines.append(f"form: {inline(form)}")
    for i, (name, schema) in enumerate(tools.items()):
        opening = writer.literal(syntax.begin(name))
        lines.append(f"call_{i}: {opening} args_{i} {writer.literal(syntax.after)}")
        lines += writer.arguments(f"args_{i}", schema, syntax.arguments)
    return Grammar(
        kind=GrammarKind.TOOL_CALLS, text="\n".join([*lines, *writer.rules, _TEXT, _GAP])
    )


_BARE_CALL = re.compile(r'\{"name": "\{name\}", "(\w+)": ')


def _call_schema(tools: Mapping[str, Schema | bool], name: str, key: str) -> Schema:
    """Return the schema of a call that is a JSON object with its arguments as `key`."""
    arguments = tools[name]
    definitions = {}
    if isinstance(arguments, dict) and "$defs" in arguments:
        definitions = {"$defs": arguments["$defs"]}
        arguments = {word: each for word, each in arguments.items() if word != "$defs"}
    return {
        "type": "object",
        "properties": {"name": {"enum": [name]}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
        **definitions,
    }


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

    def arguments(self, rule: str, schema: Schema | bool, syntax: ArgumentSyntax) -> Iterator[str]:
        """Write the rule of arguments, and those that it refers to."""
        properties = schema if isinstance(schema, dict) else {}
        match syntax:
            case ArgumentSyntax.JSON:
                yield f"{rule}: {inline(schema)}"
            case ArgumentSyntax.TAGS:
                yield from self._tags(rule, properties)
            case ArgumentSyntax.GEMMA:
                yield from GemmaGrammar(rule, self.literal).rules(properties)

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
                yield f"{rule}_{i}_value: {inline(value | shared)}"
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
