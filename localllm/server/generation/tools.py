"""Tools of a request: the checks of their names and schemas, and of the choice among them."""

import json
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator

from localllm.engine.messages import Tool, ToolChoice
from localllm.engine.messages.limits import MAX_TOOL_NAME, TOOL_NAME_CHARS
from localllm.engine.messages.validation import tool_choice_error
from localllm.server.schema import field_error

MAX_SCHEMA_DEPTH = 64
_SCHEMA_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def _check_name(value: str) -> str:
    if not 0 < len(value) <= MAX_TOOL_NAME or not set(value) <= TOOL_NAME_CHARS:
        raise field_error(
            "invalid_value",
            "needs 1 to {most} letters, digits, underscores, hyphens and dots",
            most=MAX_TOOL_NAME,
        )
    return value


def _check_parameters(value: dict[str, object]) -> dict[str, object]:
    if value.get("type", "object") != "object":
        raise field_error("invalid_value", "must be the JSON Schema of an object")
    _check_schema(value, 0)
    return value


def _check_schema(schema: object, depth: int) -> None:
    """Raise for what no JSON Schema is, as far as the keywords go that tools use."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
        raise _schema_error()
    types = schema.get("type", [])
    for type_ in types if isinstance(types, list) else [types]:
        if not isinstance(type_, str) or type_ not in _SCHEMA_TYPES:
            raise _schema_error()
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise _schema_error()
    if not all(isinstance(each, str) for each in required) or schema.get("enum", [0]) in ([], None):
        raise _schema_error()
    for each in (*properties.values(), *([schema["items"]] if "items" in schema else [])):
        _check_schema(each, depth + 1)


def _schema_error() -> Exception:
    return field_error("invalid_value", "is not a valid JSON Schema")


ToolName = Annotated[str, AfterValidator(_check_name)]
ToolParameters = Annotated[dict[str, object], AfterValidator(_check_parameters)]
"""The JSON Schema of a tool's arguments."""


def make_tool(name: str, description: str | None, parameters: dict[str, object] | None) -> Tool:
    """Make the engine's tool; without `parameters` it takes none."""
    schema = {"type": "object", "properties": {}, **(parameters or {})}
    return Tool(name=name, description=description or "", parameters=json.dumps(schema))


def check_unique(names: Collection[str]) -> None:
    """Raise a field error when two tools have one name."""
    if len(set(names)) < len(names):
        raise field_error("invalid_value", "names two functions alike")


def check_tool_choice(choice: ToolChoice, names: Collection[str], *, constrained: bool) -> None:
    """Raise a field error when the choice cannot be obeyed (see `tool_choice_error`)."""
    error = tool_choice_error(choice, names, constrained=constrained)
    if error is not None:
        raise field_error("invalid_value", error)
