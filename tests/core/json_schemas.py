"""JSON Schemas as client libraries write them, and strategies of hostile ones."""

import random
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

FROM_CLIENTS: Mapping[str, object] = {
    "null for an empty list": {"type": "object", "properties": {}, "required": None},
    "null for no properties": {"type": "object", "properties": None},
    "Go's empty words": {"type": "", "properties": None},
    "PHP's empty object": {"type": "object", "properties": []},
    "null everywhere": {
        "type": "object",
        "properties": {
            "a": {"type": "string", "enum": None, "pattern": None, "format": None, "const": None}
        },
        "required": None,
        "additionalProperties": None,
        "anyOf": None,
    },
    "a tuple of draft-07": {
        "type": "array",
        "items": [{"type": "integer"}, {"type": "string"}],
        "minItems": 2,
        "maxItems": 2,
    },
    "any": {"type": "object", "properties": {"a": {"type": "any"}}},
    "Gemini's capitals": {
        "type": "OBJECT",
        "properties": {
            "name": {"type": "STRING", "nullable": True},
            "sizes": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1"},
            "unit": {"type": "INTEGER", "enum": ["1", "2"]},
        },
        "required": ["name"],
        "propertyOrdering": ["name", "sizes"],
    },
    "OpenAPI's nullable": {
        "type": "object",
        "properties": {
            "a": {"type": "string", "nullable": True},
            "b": {"allOf": [{"$ref": "#/components/schemas/B"}], "nullable": True},
            "c": {"enum": ["x", "y"], "nullable": True},
        },
        "required": ["a", "b", "c"],
        "additionalProperties": False,
        "components": {"schemas": {"B": {"type": "integer", "format": "int32"}}},
    },
    "pydantic's optional and definitions": {
        "$defs": {
            "Cat": {
                "properties": {
                    "kind": {"const": "cat", "type": "string"},
                    "n": {"type": "integer"},
                },
                "required": ["kind", "n"],
                "title": "Cat",
                "type": "object",
            },
            "Dog": {
                "properties": {"kind": {"const": "dog", "type": "string"}},
                "required": ["kind"],
                "title": "Dog",
                "type": "object",
            },
        },
        "properties": {
            "pet": {
                "discriminator": {
                    "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
                    "propertyName": "kind",
                },
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            },
            "nick": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["pet"],
        "title": "Owner",
        "type": "object",
    },
    "pydantic's recursive model": {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                },
                "required": ["value"],
            }
        },
        "$ref": "#/$defs/Node",
    },
    "zod 3": {
        "$ref": "#/definitions/Answer",
        "definitions": {
            "Answer": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
                    "pair": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "items": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0}],
                    },
                },
                "required": ["id"],
                "additionalProperties": False,
            }
        },
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    "zod 4": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "mail": {
                "type": "string",
                "format": "email",
                "pattern": "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@"
                "([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$",
            },
            "count": {
                "type": "integer",
                "minimum": -9007199254740991,
                "maximum": 9007199254740991,
            },
            "map": {
                "type": "object",
                "propertyNames": {"type": "string"},
                "additionalProperties": {"type": "number"},
            },
            "flags": {
                "type": "object",
                "propertyNames": {"enum": ["a", "b"]},
                "additionalProperties": {"type": "boolean"},
            },
            "never": {"not": {}},
            "kind": {"oneOf": [{"const": "a"}, {"const": "b"}]},
            "point": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]},
        },
        "required": ["mail", "count"],
        "additionalProperties": False,
    },
    "300 properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "boolean"} for i in range(300)},
    },
    "draft-04": {
        "type": "object",
        "properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
    },
    "a condition": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "x": {"type": "integer"}},
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["x"]},
        "else": {"properties": {"x": False}},
    },
    "a password": {
        "type": "string",
        "pattern": "^(?=.*[A-Z])(?=.*[0-9])(?!.*!!).{8,20}$",
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b", "c", "$ref"]) | st.text(max_size=4), inner,
                      max_size=4),
    max_leaves=20,
)  # fmt: skip
"""Any JSON value, infinity included: Python's parser reads 1e999 so."""

_NAMES = ("a", "b", "c", "")
_NUMBERS = (-3, -1, 0, 0.5, 1, 1.0, 2, 3, 10**18, 1e300, -(2**63), 2**63 - 1)
_SCALARS = (None, True, False, "", "a", "ab", "b1", "A1aaaaaa", "2020-01-01", *_NUMBERS)
_PATTERNS = ("^a", "b$", "^(?=.*[0-9])", "^(?!ab)[ab]+$", "a|b", "^[^b]*$", "(a)(?!b)", "\\d")
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


class Writer:
    """Writes random schemas of draft 2020-12, and values for them. Hypothesis draws only the seed:
    to shrink schemas of thirty optional keywords it would take minutes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._references: tuple[str, ...] = ()

    def value(self, depth: int = 2) -> object:
        kind = self._random.random() if depth else 1
        if kind < 0.2:
            return [self.value(depth - 1) for _ in range(self._random.randint(0, 3))]
        if kind < 0.5:
            return {name: self.value(depth - 1) for name in self._some(_NAMES)}
        return self._one(_SCALARS)

    def document(self, *, circles: bool = False) -> dict[str, object]:
        """Write a schema; with `circles` its references may go round in some."""
        self._references = ("#", "#/$defs/a", "#/$defs/b", "#/$defs/none") if circles else ()
        definitions = {"a": self.schema(2), "b": self.schema(2)}
        self._references = self._references or ("#/$defs/a", "#/$defs/b")
        return {**self._object(3), "$defs": definitions}

    def schema(self, depth: int) -> object:
        if depth <= 0 or self._random.random() < 0.15:
            return self._one((True, False, {}, {"type": "string"}, {"type": "integer"}))
        return self._object(depth)

    def _object(self, depth: int) -> dict[str, object]:
        return {
            keyword: self._keyword(keyword, depth - 1)
            for keyword in self._random.sample(_KEYWORDS, self._random.randint(1, 4))
            if keyword != "$ref" or self._references
        }

    def _keyword(self, keyword: str, depth: int) -> object:  # noqa: PLR0911, PLR0912, a table
        match keyword:
            case "type":
                return self._one((*_TYPES, ["string", "null"], ["integer", "array", "object"]))
            case "enum":
                return [self.value() for _ in range(self._random.randint(1, 3))]
            case "const":
                return self.value() or 1  # beside a type null may stand for nothing
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                return self._one(_NUMBERS)
            case "multipleOf":
                return self._one((1, 2, 0.5, 0.25, 10**9 + 7))
            case "pattern":
                return self._one(_PATTERNS)
            case "format":
                return self._one(("phone", "int32"))
            case "uniqueItems":
                return self._one((True, False))
            case "properties" | "dependentSchemas":
                return {name: self.schema(depth) for name in self._some(_NAMES)}
            case "patternProperties":
                return {pattern: self.schema(depth) for pattern in self._some(_PATTERNS)[:2]}
            case "propertyNames":
                return self._one(
                    ({"enum": self._some(_NAMES) or ["a"]}, {"pattern": "^a"}, {"minLength": 1})
                )
            case "required":
                return self._some(_NAMES)
            case "dependentRequired":
                return {name: self._some(_NAMES) for name in self._some(_NAMES)[:1]}
            case "anyOf" | "oneOf" | "allOf" | "prefixItems":
                return [self.schema(depth) for _ in range(self._random.randint(1, 3))]
            case "$ref":
                return self._one(self._references)
            case _ if keyword.startswith(("min", "max")):
                return self._random.randint(0, 3)
        return self.schema(depth)

    def _one(self, values: Sequence[object]) -> object:
        return self._random.choice(values)

    def _some(self, values: Sequence[str]) -> list[str]:
        return self._random.sample(values, self._random.randint(0, min(3, len(values))))


_KEYWORDS = (
    *("type", "type", "enum", "const", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "items"),
    *("prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "properties", "properties"),
    *("patternProperties", "additionalProperties", "propertyNames", "required", "minProperties"),
    *("maxProperties", "dependentRequired", "dependentSchemas", "anyOf", "oneOf", "allOf", "not"),
    *("if", "then", "else", "unevaluatedProperties", "$ref"),
)
writers = st.builds(Writer, st.integers(0, 2**32))
