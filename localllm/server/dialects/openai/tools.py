"""Tools in OpenAI's form: those that a request offers, and the calls of earlier turns."""

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from localllm.engine.messages import Tool, ToolCall, ToolChoice, ToolMode
from localllm.engine.messages.limits import MAX_TOOLS
from localllm.server.generation.tools import ToolName, ToolParameters, check_unique, make_tool
from localllm.server.schema import ApiModel, field_error


def _object_text(value: str) -> str:
    """Check the text of a JSON object; an empty one stands for an empty object."""
    try:
        valid = isinstance(json.loads(value or "{}"), dict)
    except (ValueError, RecursionError):
        valid = False
    if not valid:
        raise field_error("invalid_value", "must be the text of a JSON object")
    return value or "{}"


class FunctionCallParam(ApiModel):
    name: ToolName
    arguments: Annotated[str, AfterValidator(_object_text)]


class ToolCallParam(ApiModel):
    """A call in an assistant's earlier turn."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    type: Literal["function"] = "function"
    function: FunctionCallParam

    def tool_call(self) -> ToolCall:
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


class FunctionDefinition(ApiModel):
    """`strict` changes nothing: a call follows its schema wherever that can be followed."""

    name: ToolName
    description: str | None = None
    parameters: ToolParameters | None = None
    strict: bool | None = None


class ToolParam(ApiModel):
    type: Literal["function"]
    function: FunctionDefinition

    def tool(self) -> Tool:
        function = self.function
        return make_tool(function.name, function.description, function.parameters)


def _check_names(value: list[ToolParam]) -> list[ToolParam]:
    check_unique([tool.function.name for tool in value])
    return value


ToolParams = Annotated[
    Annotated[list[ToolParam], Field(max_length=MAX_TOOLS, fail_fast=True)],
    AfterValidator(_check_names),
]


class NamedFunction(ApiModel):
    name: ToolName


class ToolChoiceOption(ApiModel):
    type: Literal["none", "auto", "required", "function"]
    function: NamedFunction | None = None

    @property
    def tool_choice(self) -> ToolChoice:
        if self.function is not None:
            return ToolChoice(mode=ToolMode.NAMED, name=self.function.name)
        return ToolChoice(mode=ToolMode(self.type))


def _tool_choice(value: object) -> object:
    """Accept a word, or the function that must be called."""
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise field_error("invalid_value", "must be 'none', 'auto', 'required' or a function")
        return {"type": value}
    if isinstance(value, dict) and (value.get("type") == "function") != ("function" in value):
        raise field_error("invalid_value", "has a `function` if its type is that, and only then")
    return value


ToolChoiceParam = Annotated[ToolChoiceOption, BeforeValidator(_tool_choice)]
