"""Tools in Anthropic's form: a client's own, those that Anthropic defines, and the choice.

A tool that a client runs is offered to the model, also one of Anthropic's definition (`bash`,
`text_editor`, `memory`, `computer`), whose schema the client does not send. A tool that Anthropic's
servers run cannot be run here: it is left out with a warning, since agents send such tools with
every request; only a choice that forces one is an error.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from localllm.engine.messages import Tool, ToolChoice, ToolMode
from localllm.engine.messages.limits import MAX_TOOLS
from localllm.server.dialects.anthropic.client_tools import client_tool
from localllm.server.generation.tools import (
    ToolName,
    ToolParameters,
    check_tool_choice,
    check_unique,
    make_tool,
)
from localllm.server.schema import RequestModel, field_error


class ToolParam(RequestModel):
    """A tool. One with an `input_schema` is the client's own, whatever its type.

    `defer_loading` changes nothing: every tool is shown to the model at once.
    """

    type: str = "custom"
    input_schema: ToolParameters = None
    name: Annotated[ToolName | None, Field(validate_default=True)] = None
    description: str | None = None
    strict: object = None
    defer_loading: object = None
    eager_input_streaming: object = None
    allowed_callers: object = None
    display_width_px: object = None
    display_height_px: object = None
    display_number: object = None
    enable_zoom: object = None
    max_characters: object = None

    @classmethod
    def understand(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        kind = value.get("type", "custom")
        if not isinstance(kind, str) or kind == "custom" or "input_schema" in value:
            return value
        if CLIENT_TOOL.fullmatch(kind):
            return value
        # The options of a tool that is left out mean nothing.
        return {name: value[name] for name in ("type", "name") if isinstance(value.get(name), str)}

    @field_validator("name")
    @classmethod
    def _named(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == "custom":
            raise field_error("missing_required_parameter", "is required")
        return value

    def tool(self) -> Tool | None:
        """Make the engine's tool; None for one that cannot be called here."""
        if self.type == "custom" or self.input_schema is not None:
            return make_tool(
                self.name or "", self.description, self.input_schema, strict=self.strict is True
            )
        if CLIENT_TOOL.fullmatch(self.type):
            size = (self.display_width_px, self.display_height_px)
            return client_tool(self.type, self.name, size)
        return None


CLIENT_TOOL = re.compile(r"(bash|text_editor|memory|computer)_[0-9]{8}")
"""The types of tools of Anthropic's definition that a client runs."""

ToolParams = Annotated[list[ToolParam], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ToolChoiceParam(RequestModel):
    """The rule of an answer's calls."""

    type: Literal["auto", "any", "tool", "none"]
    name: Annotated[str | None, Field(validate_default=True)] = None
    disable_parallel_tool_use: bool | None = None

    @classmethod
    def understand(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _of_a_tool(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == "tool":
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def tool_choice(self) -> ToolChoice:
        if self.type == "tool":
            return ToolChoice(mode=ToolMode.NAMED, name=self.name)
        return ToolChoice(mode=_MODES[self.type])


_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "none": ToolMode.NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTools:
    """The tools that the model may call, and the names of those that were left out."""

    tools: tuple[Tool, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool.name for tool in self.tools)

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        named = ", ".join(self.left_out[:8])
        return (f"Tools that Anthropic's servers run were left out: {named}.",)


def offered_tools(params: Iterable[ToolParam]) -> OfferedTools:
    """Divide the tools of a request. Raises a field error when two have one name."""
    tools, left_out = [], []
    for param in params:
        tool = param.tool()
        if tool is None:
            left_out.append(param.name or param.type[:64])
        else:
            tools.append(tool)
    check_unique([tool.name for tool in tools])
    return OfferedTools(tools=tuple(tools), left_out=tuple(left_out))


def check_choice(choice: ToolChoiceParam, offered: OfferedTools) -> None:
    """Raise a field error when a choice cannot be obeyed."""
    forced = choice.type == "tool" and choice.name in offered.left_out
    if forced or (choice.type == "any" and offered.left_out and not offered.tools):
        raise field_error(
            "unsupported_parameter",
            "asks for a tool that Anthropic's servers run: this server cannot",
        )
    check_tool_choice(choice.tool_choice, offered.names)
