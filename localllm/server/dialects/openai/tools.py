"""Tools in OpenAI's form: those that a request offers, and the calls of earlier turns."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Tool, ToolCall, ToolChoice, ToolMode
from localllm.engine.messages.limits import MAX_TOOLS
from localllm.server.generation.tools import (
    CallArguments,
    ToolName,
    ToolParameters,
    check_unique,
    make_tool,
)
from localllm.server.schema import RequestModel, field_error

T = TypeVar("T")


class FunctionCallParam(RequestModel):
    """A function and its arguments, as an earlier answer has them."""

    name: str
    arguments: CallArguments = "{}"


class ToolCallParam(RequestModel):
    """A call in an assistant's earlier turn; without an `id` its result is the next one."""

    id: object = None
    type: object = None
    function: FunctionCallParam

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, dict) and "function" not in value and "name" in value:
            function = {name: value[name] for name in ("name", "arguments") if name in value}
            rest = {name: each for name, each in value.items() if name not in function}
            return {**rest, "function": function}
        return value

    def tool_call(self) -> ToolCall:
        id_ = self.id if isinstance(self.id, str) else ""
        return ToolCall(id=id_, name=self.function.name, arguments=self.function.arguments)


class FunctionDefinition(RequestModel):
    """Without `strict` a forced call follows its schema as far as that can be followed."""

    name: ToolName
    description: str | None = None
    parameters: ToolParameters = None
    strict: object = None

    def tool(self) -> Tool:
        return make_tool(self.name, self.description, self.parameters, strict=self.strict is True)


class ToolParam(RequestModel):
    type: Literal["function"]
    function: FunctionDefinition

    @classmethod
    def understand(cls, value: object) -> object:
        """Understand a function without its wrapper, as in the Responses API and Anthropic's."""
        if not isinstance(value, dict):
            return value
        if "function" in value:
            return {"type": "function", **value}
        if "name" not in value or value.get("type", "custom") not in ("function", "custom"):
            return value
        if value.get("type") == "custom" and "input_schema" not in value:
            return value  # OpenAI's custom tools take a text that follows no schema
        function = {_FUNCTION_FIELDS.get(name, name): each for name, each in value.items()}
        function.pop("type", None)
        return {"type": "function", "function": function}


_FUNCTION_FIELDS = {"input_schema": "parameters"}


def _check_names(value: list[ToolParam]) -> list[ToolParam]:
    check_unique([tool.function.name for tool in value])
    return value


def _check_function_names(value: list[FunctionDefinition]) -> list[FunctionDefinition]:
    check_unique([function.name for function in value])
    return value


ToolParams = Annotated[
    Annotated[list[ToolParam], Field(max_length=MAX_TOOLS, fail_fast=True)],
    AfterValidator(_check_names),
]
FunctionParams = Annotated[
    Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS, fail_fast=True)],
    AfterValidator(_check_function_names),
]
"""The functions of requests from before there were tools."""


class NamedFunction(RequestModel):
    name: ToolName


class AllowedTools(RequestModel):
    """The tools of a request that may be called this time."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedFunction], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ToolChoiceOption(RequestModel):
    """A rule of the answer's calls, by its `type`."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: Annotated[NamedFunction | None, Field(validate_default=True)] = None
    allowed_tools: Annotated[AllowedTools | None, Field(validate_default=True)] = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in _WORDS:
                raise field_error(
                    "invalid_value", "must be 'none', 'auto', 'required' or a function"
                )
            return {"type": _WORDS[value]}
        if not isinstance(value, dict):
            return value
        return _understand_choice(value)

    @field_validator("function", "allowed_tools")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        if info.data.get("type") == info.field_name and value is None:
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def tool_choice(self) -> ToolChoice:
        if self.type == "function" and self.function is not None:
            return ToolChoice(mode=ToolMode.NAMED, name=self.function.name)
        if self.type == "allowed_tools" and self.allowed_tools is not None:
            return ToolChoice(mode=ToolMode(self.allowed_tools.mode))
        return ToolChoice(mode=ToolMode(self.type))

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """The names of the functions that may be called; None: all of them."""
        if self.type != "allowed_tools" or self.allowed_tools is None:
            return None
        return tuple(tool.name for tool in self.allowed_tools.tools)


_WORDS = {"none": "none", "auto": "auto", "required": "required", "any": "required"}
"""Mistral and Anthropic say "any" for a call that must be made."""


def _understand_choice(value: dict[str, object]) -> dict[str, object]:
    """Rewrite a choice in the form of OpenAI's chat completions."""
    type_ = value.get("type")
    choice = dict(value)
    if isinstance(type_, str) and type_ in _WORDS:
        return {**choice, "type": _WORDS[type_]}
    if type_ in (None, "function", "tool") and "function" not in value and "name" in value:
        # The Responses API and Anthropic name it without a wrapper, as `function_call` does.
        return {**choice, "type": "function", "function": {"name": choice.pop("name")}}
    if type_ is None and "function" in value:
        return {**choice, "type": "function"}
    if type_ == "allowed_tools":
        allowed = choice.get("allowed_tools")
        if allowed is None and "tools" in choice:
            allowed = {name: choice.pop(name) for name in ("mode", "tools") if name in choice}
        if isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
            tools = [_without_wrapper(tool) for tool in allowed["tools"]]
            allowed = {**allowed, "tools": tools}
        return choice if allowed is None else {**choice, "allowed_tools": allowed}
    return choice


def _without_wrapper(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    return tool if function is None else function
