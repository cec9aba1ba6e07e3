"""Tools of a request: the checks of their names and schemas, and of the choice among them."""

import json
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from localllm.core.json_schema import JsonSchema, tool_parameters
from localllm.engine.messages import Tool, ToolChoice
from localllm.engine.messages.limits import MAX_TOOL_NAME, TOOL_NAME_CHARS
from localllm.engine.messages.validation import tool_choice_error
from localllm.server.schema import field_error


def _check_name(value: str) -> str:
    if not 0 < len(value) <= MAX_TOOL_NAME or not set(value) <= TOOL_NAME_CHARS:
        raise field_error(
            "invalid_value",
            "needs 1 to {most} letters, digits, underscores, hyphens and dots",
            most=MAX_TOOL_NAME,
        )
    return value


def _read_parameters(value: object) -> JsonSchema | None:
    """Read a schema as it is meant: what a model may choose to call never costs the request."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return None if value is None else tool_parameters(value)


ToolName = Annotated[str, AfterValidator(_check_name)]
ToolParameters = Annotated[object, AfterValidator(_read_parameters)]
"""The JSON Schema of a tool's arguments, whatever a client writes there."""


def _call_arguments(value: object) -> object:
    """Accept arguments as a text or as what the text would say; a text is kept as it is, for half
    a call is shown to the model as it was."""
    if value is None or value in ("", []):  # PHP writes an empty object as []
        return "{}"
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise field_error("invalid_value", "is nested too deeply") from None


CallArguments = Annotated[str, BeforeValidator(_call_arguments)]
"""The arguments of an earlier call."""


def make_tool(
    name: str, description: str | None, parameters: object, *, strict: bool = False
) -> Tool:
    """Make the engine's tool; without `parameters` it takes none."""
    return Tool(
        name=name,
        description=description or "",
        parameters=json.dumps(tool_parameters(parameters)),
        strict=strict,
    )


def check_unique(names: Collection[str]) -> None:
    """Raise a field error when two tools have one name."""
    if len(set(names)) < len(names):
        raise field_error("invalid_value", "names two functions alike")


def check_tool_choice(choice: ToolChoice, names: Collection[str]) -> None:
    """Raise a field error when the choice cannot be obeyed (see `tool_choice_error`). The formats
    that a dialect offers are JSON, which goes with tools."""
    error = tool_choice_error(choice, names, constrained=False)
    if error is not None:
        raise field_error("invalid_value", error)
