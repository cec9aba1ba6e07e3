"""The grammar of a forced call: the family's own syntax around arguments that follow the schema.

Written in llguidance's dialect of Lark. Texts that are one control token in this vocabulary are
written as that token: `<[id]>`. Gemma 4 has a notation of values of its own: there types, enums,
constants, properties in the order of their names (as the chat template writes them), required ones
and items are followed; anything else may be any value.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.engine.messages import Grammar, GrammarKind, Tool
from localllm.engine.worker.parsing.call_section import Schema
from localllm.engine.worker.parsing.formats import HARMONY, Arguments, Family, Fence
from localllm.engine.worker.parsing.syntax import QUOTE

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


_NUMBER = "/-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?/"
_PLAIN = {"integer": "/-?(0|[1-9][0-9]*)/", "number": _NUMBER, "null": '"null"',
          "boolean": '("true" | "false")'}  # fmt: skip
MAX_DEPTH = 16
"""Of nested schemas; deeper ones may be any value."""


class GemmaGrammar:
    """Writes the rules of one tool's arguments; their names begin with `rule`."""

    def __init__(self, rule: str, literal: Callable[[str], str]) -> None:
        self._rule = rule
        self._literal = literal
        self._rules: list[str] = []

    def rules(self, schema: Schema) -> Iterator[str]:
        self._any()
        yield f"{self._rule}: {self._object(schema, 0)}"
        yield from self._rules

    def _new(self, body: str) -> str:
        name = f"{self._rule}_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _any(self) -> None:
        base, quote = self._rule, self._literal(QUOTE)
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
            case str(kind) if kind in _PLAIN:
                return _PLAIN[kind]
        return f"{self._rule}_any"

    def _constant(self, value: object) -> str:
        if isinstance(value, str):
            return self._literal(f"{QUOTE}{value}{QUOTE}")
        return self._literal(json.dumps(value))

    def _object(self, schema: Schema, depth: int) -> str:
        """Pairs with commas between those that are there: one rule for what may follow when
        nothing is written yet, and one for when something is."""
        properties, required = schema.get("properties"), schema.get("required")
        if not isinstance(properties, dict) or not properties:
            return f"{self._rule}_map" if schema.get("additionalProperties") else '"{" "}"'
        fresh, later = '""', '""'
        for key in sorted(properties, reverse=True):
            pair = f"{self._literal(key + ':')} {self._value(properties[key], depth)}"
            need = isinstance(required, list) and key in required
            first = self._new(f"{pair} {later}" + ("" if need else f" | {fresh}"))
            later = self._new(f'"," {pair} {later}' + ("" if need else f" | {later}"))
            fresh = first
        return f'"{{" {fresh} "}}"'
