"""The tools of a request to `/v1/responses`: functions, custom tools, and those of OpenAI itself.

A custom tool takes a text; the model calls it like a function of one argument, `input`. Tools in a
namespace keep their names where these are unique. A tool that runs at OpenAI is refused; those that
coding agents offer with every request are left out, with a warning, as long as nothing forces them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from localllm.engine.messages import Tool
from localllm.engine.messages.limits import MAX_TOOL_NAME, MAX_TOOLS
from localllm.server.dialects.openai.tools import ToolChoiceOption
from localllm.server.generation.tools import ToolName, ToolParameters, check_unique, make_tool
from localllm.server.schema import RequestModel, field_error

OFFERED = frozenset({"function", "custom"})

LEFT_OUT = frozenset(
    {
        "web_search", "web_search_2025_08_26", "web_search_preview",
        "web_search_preview_2025_03_11", "image_generation", "tool_search", "local_shell", "shell",
        "apply_patch",
    }
)  # fmt: skip
"""Types of tools that coding agents offer habitually (Codex CLI: `tools/src/tool_spec.rs`,
2026-11), and do without."""

_REFUSED = (
    "is a tool that runs at OpenAI, which this server does not have: it has functions and custom "
    "tools, which the client runs"
)
_CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input of the tool."}},
    "required": ["input"],
    "additionalProperties": False,
}


class ResponseTool(RequestModel):
    """A tool by its `type`. What says where or when it is called from changes nothing: it is
    offered from the beginning, and the model calls it itself."""

    type: str
    name: Annotated[ToolName | None, Field(validate_default=True)] = None
    description: str | None = None
    parameters: ToolParameters = None
    strict: object = None
    format: dict[str, object] | None = None
    tools: Annotated[
        Annotated[list["ResponseTool"], Field(max_length=MAX_TOOLS, fail_fast=True)] | None,
        Field(validate_default=True),
    ] = None
    allowed_callers: object = None
    defer_loading: object = None
    output_schema: object = None
    async_: Annotated[object, Field(validation_alias="async")] = None  # a result may come late

    @classmethod
    def understand(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if value.get("type") == "function" and isinstance(value.get("function"), dict):
            return {"type": "function", **value["function"]}  # as in chat completions
        if _is_left_out(value):
            return {"type": value["type"]}
        return value

    @field_validator("type")
    @classmethod
    def _possible(cls, value: str) -> str:
        if value not in OFFERED and value not in LEFT_OUT and value != "namespace":
            raise field_error("unsupported_parameter", _REFUSED)
        return value

    @field_validator("name", "tools")
    @classmethod
    def _complete(cls, value: object, info: ValidationInfo) -> object:
        type_ = info.data.get("type")
        needed = type_ == "namespace" or (type_ in OFFERED and info.field_name == "name")
        if needed and value is None:
            raise field_error("missing_required_parameter", "is required")
        return value

    @model_validator(mode="after")
    def _flat(self) -> Self:
        if any(tool.type == "namespace" for tool in self.tools or ()):
            raise field_error("invalid_value", "is a namespace within another one")
        return self

    @property
    def _grammar(self) -> str:
        """The grammar of a custom tool's input; empty: any text."""
        definition = (self.format or {}).get("definition")
        return definition if isinstance(definition, str) else ""

    def tool(self, name: str) -> Tool:
        """Make the engine's tool, called `name`."""
        if self.type != "custom":
            return make_tool(name, self.description, self.parameters, strict=self.strict is True)
        description = self.description or ""
        if self._grammar:
            description += f"\n\nThe input follows this grammar:\n{self._grammar}"
        return make_tool(name, description.strip(), _CUSTOM_PARAMETERS)

    def warnings(self) -> Iterator[str]:
        if self.type in LEFT_OUT:
            yield f"The tool {self.type} is not offered: this server does not have it."
        if self.type == "custom" and self._grammar:
            yield f"The model sees the grammar of the custom tool {self.name}; nothing enforces it."


ResponseTools = Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool as the client knows it."""

    name: str
    custom: bool
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTable:
    """The tools of a request: as the engine has them, and by its names as the client has them."""

    tools: tuple[Tool, ...] = ()
    offered: Mapping[str, OfferedTool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def engine_name(self, name: str, namespace: str | None) -> str:
        """Return the engine's name of a tool that an earlier call names, offered now or not."""
        known = (
            ours
            for ours, tool in self.offered.items()
            if tool.name == name and namespace in (None, tool.namespace)
        )
        return next(known, name)

    def called(self, name: str) -> OfferedTool:
        """Return what the client calls the tool of a call."""
        return self.offered.get(name) or OfferedTool(name=name, custom=False)


def tool_table(tools: Sequence[ResponseTool]) -> ToolTable:
    """Lay out the tools of a request. Raises a field error when two have one name."""
    flat: list[tuple[str | None, ResponseTool]] = []
    for tool in tools:
        inner = [(tool.name, each) for each in tool.tools or ()]
        flat += inner if tool.type == "namespace" else [(None, tool)]
    callable_ = [(space, tool) for space, tool in flat if tool.type in OFFERED]
    counts = Counter(tool.name for _, tool in callable_)
    names = [
        tool.name or "" if counts[tool.name] == 1 or not space else f"{space}.{tool.name}"
        for space, tool in callable_
    ]
    check_unique(names)
    if any(len(name) > MAX_TOOL_NAME for name in names):
        raise field_error(
            "invalid_value",
            "has namespaces with one tool's name whose names are longer than {most} together",
            most=MAX_TOOL_NAME,
        )
    return ToolTable(
        tools=tuple(tool.tool(name) for name, (_, tool) in zip(names, callable_, strict=True)),
        offered={
            name: OfferedTool(name=tool.name or "", custom=tool.type == "custom", namespace=space)
            for name, (space, tool) in zip(names, callable_, strict=True)
        },
        warnings=tuple(dict.fromkeys(text for _, tool in flat for text in tool.warnings())),
    )


def _understand_choice(value: object) -> object:
    """Rewrite a choice among custom tools and those that are left out as one among functions."""
    if not isinstance(value, dict):
        return value
    type_ = value.get("type")
    if type_ == "custom":
        return {"type": "function", "name": value.get("name")}
    if type_ == "allowed_tools" and isinstance(value.get("tools"), list):
        tools = [tool for tool in value["tools"] if not _is_left_out(tool)]
        return {**value, "tools": [_named(tool) for tool in tools]}
    if isinstance(type_, str) and "name" not in value and type_ not in _CHOICES:
        raise field_error("unsupported_parameter", _FORCED)
    return value


_CHOICES = ("function", "allowed_tools", "none", "auto", "required", "any", "tool")
_FORCED = "forces a tool that runs at OpenAI, which this server does not have"


def _is_left_out(tool: object) -> bool:
    type_ = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(type_, str) and type_ in LEFT_OUT


def _named(tool: object) -> object:
    return {"name": tool["name"]} if isinstance(tool, dict) and "name" in tool else tool


ResponseToolChoice = Annotated[ToolChoiceOption, BeforeValidator(_understand_choice)]


def custom_input(arguments: str) -> str:
    """Return the text in the arguments of a custom tool's call: as they are, when the model wrote
    something else or was cut."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
