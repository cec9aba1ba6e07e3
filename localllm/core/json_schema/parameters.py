"""Tidy the JSON Schema of a tool's arguments for those who read it: chat templates, which expect
the plain form that Python frameworks write, and people."""

from localllm.core.json_schema.values import MAX_DEPTH, TYPES, JsonSchema, is_shallow

_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_SCHEMAS = frozenset(
    (
        *("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not"),
        *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
    )
)
_MAY_BE_NULL = frozenset(("const", "default", "example"))


def tool_parameters(value: object) -> JsonSchema:
    """Return the schema of a tool's arguments, which is that of an object, whatever a client sent.

    Empty and null keywords are left out, types are written in small letters, and what cannot be
    there is left out too. Never raises, whatever the JSON value.
    """
    tidied = _tidied(value, 0)
    schema = tidied if isinstance(tidied, dict) else {}
    return {"type": "object", "properties": {}} | schema | {"type": "object"}


def _tidied(schema: object, depth: int) -> JsonSchema | bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return {}
    tidied = (
        (keyword, _keyword(keyword, value, depth))
        for keyword, value in schema.items()
        if value is not None or keyword in _MAY_BE_NULL
    )
    return {keyword: value for keyword, value in tidied if value is not _LEFT_OUT}


_LEFT_OUT = object()


def _keyword(keyword: str, value: object, depth: int) -> object:
    """Tidy the value of one keyword."""
    if keyword in _LISTS or (keyword == "items" and isinstance(value, list)):
        if not isinstance(value, list) or not value:
            return _LEFT_OUT
        return [_tidied(each, depth + 1) for each in value]
    if keyword in _MAPS:
        if not isinstance(value, dict):
            return _LEFT_OUT
        return {name: _tidied(each, depth + 1) for name, each in value.items()}
    if keyword in _SCHEMAS:
        return _tidied(value, depth + 1)
    if keyword == "type":
        return _LEFT_OUT if (types := _types(value)) is None else types
    if keyword == "required":
        if not isinstance(value, list):
            return _LEFT_OUT
        return [each for each in value if isinstance(each, str)]
    if keyword == "enum" and (not isinstance(value, list) or not value):
        return _LEFT_OUT
    return value if is_shallow(value) else _LEFT_OUT


def _types(value: object) -> object:
    """Write types in small letters; None when there is none."""
    if isinstance(value, list):
        types = [each for each in map(_types, value) if isinstance(each, str)]
        return types or None
    if not isinstance(value, str) or not value:
        return None
    return value.lower() if value.lower() in TYPES else value
