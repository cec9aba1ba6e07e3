"""Prove that no value can follow two alternatives of a schema: then `oneOf` is `anyOf`."""

from collections.abc import Mapping, Sequence

from localllm.core.json_schema.values import (
    canonical,
    is_shallow,
    means_constant,
    resolve,
    types_of,
)

MAX_OPTIONS = 64


def are_disjoint(options: Sequence[object], root: object) -> bool:
    """Return True when each two options certainly exclude each other: by their types, or by the
    constants of a property that both require (a discriminator)."""
    if len(options) > MAX_OPTIONS:
        return False
    schemas = [_resolved(each, root) for each in options]
    return all(
        _exclude(one, other, root) for i, one in enumerate(schemas) for other in schemas[i + 1 :]
    )


def _resolved(schema: object, root: object) -> Mapping[str, object]:
    if isinstance(schema, dict) and "$ref" in schema:
        found = resolve(root, schema["$ref"])
        schema = found[1] if found is not None else None
    return schema if isinstance(schema, dict) else {}


def _exclude(one: Mapping[str, object], other: Mapping[str, object], root: object) -> bool:
    if one.get("nullable") is True and other.get("nullable") is True:
        return False
    first, second = _constants(one), _constants(other)
    if first is not None and second is not None:
        return not first & second
    types, others = types_of(one), types_of(other)
    if types is not None and others is not None and not _widened(types) & _widened(others):
        return True
    if types != ("object",) or others != ("object",):
        return False
    properties, more = one.get("properties"), other.get("properties")
    if not isinstance(properties, dict) or not isinstance(more, dict):
        return False
    for name in _required(one) & _required(other):
        first = _constants(_resolved(properties.get(name), root))
        second = _constants(_resolved(more.get(name), root))
        if first is not None and second is not None and not first & second:
            return True
    return False


def _widened(types: Sequence[str]) -> frozenset[str]:
    """An integer is a number too."""
    return frozenset(types) | ({"number"} if "integer" in types else set())


def _required(schema: Mapping[str, object]) -> frozenset[str]:
    required = schema.get("required")
    names = required if isinstance(required, list) else ()
    return frozenset(each for each in names if isinstance(each, str))


def _constants(schema: Mapping[str, object]) -> frozenset[str] | None:
    """Return the only values that a schema may accept; None when it names none."""
    values = [schema["const"]] if means_constant(schema) else schema.get("enum")
    if not isinstance(values, list) or not values or not is_shallow(values):
        return None
    return frozenset(map(canonical, values))
