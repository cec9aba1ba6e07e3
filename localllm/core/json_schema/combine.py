"""Join normalized schemas."""

from collections.abc import Mapping, Sequence

from localllm.core.json_schema.values import JsonSchema

IN_PLACE = frozenset(
    ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "$dynamicRef", "$recursiveRef")
)
"""Keywords whose schemas evaluate properties of the same object."""


def may_be(out: Mapping[str, object], kind: str) -> bool:
    types = out.get("type")
    return types is None or types == kind or (isinstance(types, list) and kind in types)


def add_patterns(out: JsonSchema, more: list[JsonSchema], types: Sequence[str] | None) -> None:
    """Demand more patterns, of strings only where other types are possible."""
    if not more:
        return
    others = [each for each in types or _ALL_TYPES if each != "string"]
    if others:
        rest: JsonSchema = {"type": others[0] if len(others) == 1 else others}
        more = [{"anyOf": [each, rest]} for each in more]
    out["allOf"] = more


_ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")


def join(out: JsonSchema, every: list[object]) -> None:
    """Demand all of `every` beside what `out` demands, with as little nesting as possible."""
    if False in every:
        out["anyOf"] = [False]
        return
    before = out.pop("allOf", [])
    assert isinstance(before, list)
    every = [*before, *every]
    if not out and len(every) == 1 and isinstance(every[0], dict):
        out |= every[0]
        return
    first = every[0] if every else None
    if isinstance(first, dict) and first.keys() == {"anyOf"}:
        out["anyOf"] = first["anyOf"]
        every = every[1:]
    if every:
        out["allOf"] = every


def or_null(schema: JsonSchema | bool) -> JsonSchema | bool:
    """Accept null too."""
    if schema is False:
        return {"type": "null"}
    if schema is True:
        return True
    types = schema.get("type")
    if types is not None and not IN_PLACE & schema.keys():
        names = types if isinstance(types, list) else [types]
        return schema | {"type": [*names, *([] if "null" in names else ["null"])]}
    if schema.keys() == {"enum"} and isinstance(schema["enum"], list):
        values = schema["enum"]
        return schema if None in values else {"enum": [*values, None]}
    return {"anyOf": [schema, {"type": "null"}]}


def any_of(schemas: Sequence[JsonSchema | bool]) -> JsonSchema:
    """Join normalized documents as alternatives of one; each keeps its own definitions."""
    definitions: JsonSchema = {}
    options: list[object] = []
    for i, schema in enumerate(schemas):
        renamed = _renamed(schema, f"a{i}")
        if isinstance(renamed, dict):
            own = renamed.pop("$defs", {})
            assert isinstance(own, dict)
            definitions |= {f"a{i}{name}": each for name, each in own.items()}
        options.append(renamed)
    return {"anyOf": options, **({"$defs": definitions} if definitions else {})}


def _renamed(schema: object, prefix: str) -> object:
    """Copy a normalized schema with a prefix before the names that its references have."""
    if isinstance(schema, list):
        return [_renamed(each, prefix) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out: JsonSchema = {}
    for keyword, value in schema.items():
        if keyword == "$ref" and isinstance(value, str):
            out[keyword] = value.replace("#/$defs/", f"#/$defs/{prefix}")
        elif keyword in ("enum", "required"):
            out[keyword] = value
        elif keyword in ("properties", "patternProperties", "$defs") and isinstance(value, dict):
            out[keyword] = {name: _renamed(each, prefix) for name, each in value.items()}
        else:
            out[keyword] = _renamed(value, prefix)
    return out
