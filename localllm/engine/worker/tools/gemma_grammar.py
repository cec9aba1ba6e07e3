"""A JSON Schema as a grammar of Gemma 4's own notation (`gemma.py`).

What is followed: types, enums, constants, properties in the order of their names (as the chat
template writes them), required ones, items. Anything else may be any value.
"""

import json
from collections.abc import Callable, Iterator

from localllm.engine.worker.tools.gemma import QUOTE
from localllm.engine.worker.tools.section import Schema

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
