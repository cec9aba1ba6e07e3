"""Tools in the OpenAI dialect: what a request says of them, and the calls of earlier turns."""

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from localllm.engine.messages import Tool, ToolCall, ToolChoice, ToolMode
from localllm.engine.messages.limits import MAX_TOOL_NAME, MAX_TOOLS, TOOL_NAME_CHARS
from localllm.server.schema import Shape, refusal

MAX_SCHEMA_DEPTH = 64
_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def _name(value: str) -> str:
    if not 0 < len(value) <= MAX_TOOL_NAME or not set(value) <= TOOL_NAME_CHARS:
        raise refusal(
            "invalid_value",
            "needs 1 to {most} letters, digits, underscores, hyphens and dots",
            most=MAX_TOOL_NAME,
        )
    return value


ToolName = Annotated[str, AfterValidator(_name)]


def _arguments(value: str) -> str:
    """The text of an object; nothing at all stands for an empty one."""
    try:
        known = isinstance(json.loads(value or "{}"), dict)
    except (ValueError, RecursionError):
        known = False
    if not known:
        raise refusal("invalid_value", "must be the text of a JSON object")
    return value or "{}"


class CalledFunction(Shape):
    name: ToolName
    arguments: Annotated[str, AfterValidator(_arguments)]


class Called(Shape):
    """A call that an assistant made in an earlier turn."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    type: Literal["function"] = "function"
    function: CalledFunction

    def tool_call(self) -> ToolCall:
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


def _schema(value: dict[str, object]) -> dict[str, object]:
    if value.get("type", "object") != "object":
        raise refusal("invalid_value", "must be the JSON Schema of an object")
    _check_schema(value, 0)
    return value


def _check_schema(schema: object, depth: int) -> None:
    """Raise for what no JSON Schema says, as far as the fields go that tools use."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
        raise _bad_schema()
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise _bad_schema()
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise _bad_schema()
    if not all(isinstance(each, str) for each in required) or schema.get("enum", [0]) in ([], None):
        raise _bad_schema()
    for each in (*properties.values(), *([schema["items"]] if "items" in schema else [])):
        _check_schema(each, depth + 1)


def _bad_schema() -> Exception:
    return refusal("invalid_value", "is not a valid JSON Schema")


class Function(Shape):
    """`strict` changes nothing: a call follows its schema wherever that can be followed."""

    name: ToolName
    description: str | None = None
    parameters: Annotated[dict[str, object], AfterValidator(_schema)] | None = None
    strict: bool | None = None


class OfferedTool(Shape):
    type: Literal["function"]
    function: Function

    def tool(self) -> Tool:
        parameters = {"type": "object", "properties": {}, **(self.function.parameters or {})}
        return Tool(
            name=self.function.name,
            description=self.function.description or "",
            parameters=json.dumps(parameters),
        )


def _offered(value: list[OfferedTool]) -> list[OfferedTool]:
    names = [tool.function.name for tool in value]
    if len(set(names)) < len(names):
        raise refusal("invalid_value", "names two functions alike")
    return value


Tools = Annotated[
    Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS, fail_fast=True)],
    AfterValidator(_offered),
]


class ChosenFunction(Shape):
    name: ToolName


class Choice(Shape):
    type: Literal["none", "auto", "required", "function"]
    function: ChosenFunction | None = None

    @property
    def tool_choice(self) -> ToolChoice:
        if self.function is not None:
            return ToolChoice(mode=ToolMode.NAMED, name=self.function.name)
        return ToolChoice(mode=ToolMode(self.type))


def _choice(value: object) -> object:
    """A word, or the function that must be called."""
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise refusal("invalid_value", "must be 'none', 'auto', 'required' or a function")
        return {"type": value}
    if isinstance(value, dict) and (value.get("type") == "function") != ("function" in value):
        raise refusal("invalid_value", "has a `function` if its type is that, and only then")
    return value


ChoiceOfTools = Annotated[Choice, BeforeValidator(_choice)]
