"""JSON values and the references between schemas, for everything that walks through a schema."""

import json
import math
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

JsonSchema = dict[str, object]
"""A JSON Schema that is an object; `True` and `False` are schemas too."""

MAX_DEPTH = 64
"""Of nested schemas."""
MAX_VALUE_DEPTH = 64
"""Of constants."""
MAX_REFERENCES = 64
"""Followed one after another from one place."""

TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))


def is_number(value: object) -> bool:
    """Return True for a number that a double holds; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def has_type(value: object, types: Iterable[str]) -> bool:
    """Return True when a value is of one of these types; 1.0 is an integer, as in JSON Schema."""
    kind = type_of(value)
    if kind in types or (kind == "integer" and "number" in types):
        return True
    return isinstance(value, float) and "integer" in types and value.is_integer()


def type_of(value: object) -> str:
    """Return the narrowest type of a JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def canonical(value: object) -> str:
    """Write a value so that two texts are equal when JSON Schema calls the values equal: 1 is 1.0,
    true is not 1, and the order of names means nothing. The value is no deeper than MAX_VALUE_DEPTH
    (`is_shallow`)."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: object) -> object:
    match value:
        case dict():
            return {str(key): _canonical(each) for key, each in value.items()}
        case list():
            return [_canonical(each) for each in value]
        case float() if math.isfinite(value) and value.is_integer():
            return int(value)
    return value


def is_shallow(value: object) -> bool:
    """Return True when a value is nested no deeper than MAX_VALUE_DEPTH and holds numbers that can
    be written."""
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, dict | list):
            if depth >= MAX_VALUE_DEPTH:
                return False
            inside = each.values() if isinstance(each, dict) else each
            waiting.extend((one, depth + 1) for one in inside)
        elif isinstance(each, int | float) and not isinstance(each, bool) and not is_number(each):
            return False
    return True


def is_exact(value: object) -> bool:
    """Return True when the numbers of a shallow value are those that the grammar would write: it
    reads constants as doubles, and ends the process at the smallest int64 (llguidance 1.9)."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            waiting += each.values() if isinstance(each, dict) else each
        elif isinstance(each, int | float) and each and not 1e-9 <= abs(each) <= 2**53:
            return False
    return True


def resolve(root: object, reference: object) -> tuple[str, object] | None:
    """Find what a `$ref` points at inside the document: its pointer, and the schema there.

    Chains of bare references are followed to their end. None: elsewhere, nowhere, or in a circle.
    """
    seen: set[str] = set()
    while isinstance(reference, str) and len(seen) < MAX_REFERENCES:
        pointer = _pointer(reference)
        if pointer is None or pointer in seen:
            return None
        seen.add(pointer)
        found, target = _at(root, pointer)
        if not found:
            return None
        if not isinstance(target, dict) or not _is_bare_reference(target):
            return pointer, target
        reference = target["$ref"]
    return None


def _pointer(reference: str) -> str | None:
    if reference in ("#", "#/"):
        return ""
    return unquote(reference[1:]) if reference.startswith("#/") else None


def _at(root: object, pointer: str) -> tuple[bool, object]:
    value = root
    for segment in pointer.split("/")[1:]:
        name = segment.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif (
            isinstance(value, list)
            and name.isascii()
            and name.isdigit()
            and len(name) < 10
            and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            return False, None
    return True, value


_BESIDE_A_REFERENCE = frozenset(
    (
        *("$ref", "description", "title", "default", "examples", "$comment", "$schema", "$id"),
        *("$defs", "definitions"),
    )
)


def _is_bare_reference(schema: Mapping[str, object]) -> bool:
    return "$ref" in schema and schema.keys() <= _BESIDE_A_REFERENCE


def types_of(schema: Mapping[str, object]) -> tuple[str, ...] | None:
    """Read a schema's `type`, whatever its letters' case; None for any. With OpenAPI's `nullable`
    null is one more. An unknown word stands for any type."""
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    types: list[str] = []
    for name in names:
        lowered = name.lower() if isinstance(name, str) else ""
        if lowered not in TYPES:
            return None
        if lowered not in types:
            types.append(lowered)
    if types and schema.get("nullable") is True and "null" not in types:
        types.append("null")
    return tuple(types) or None


def means_constant(schema: Mapping[str, object]) -> bool:
    """Return True when a schema has a `const`. A null beside a type that has none is a field that
    the client has left empty."""
    if "const" not in schema or schema["const"] is not None:
        return "const" in schema
    types = types_of(schema)
    return types is None or "null" in types
