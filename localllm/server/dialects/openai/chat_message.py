"""The messages of `/v1/chat/completions`: what clients send, and what they send back.

A history can always be sent back, also one that another server wrote or that was cut: earlier
answers are taken as they are, in the spellings of OpenAI's two APIs, Anthropic, Ollama, OpenRouter,
LiteLLM and vLLM.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Message, Role, ToolCall
from localllm.server.dialects.openai.content_parts import (
    ContentPart,
    Items,
    read_parts,
    text_or_none,
    texts_in,
)
from localllm.server.dialects.openai.tools import FunctionCallParam, ToolCallParam
from localllm.server.generation.history import MAX_PARTS
from localllm.server.generation.request import join_content
from localllm.server.schema import RequestModel, field_error

MAX_CALLS = 256
"""Of one message."""

T = TypeVar("T")


class ChatMessage(RequestModel):
    """One turn.

    An assistant's and the result of a call may have no content. `name` is a function's where the
    role says so; other names are not shown to the model. An earlier thought is taken from the first
    of its spellings that has one. What belongs to another role is not read.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    tool_calls: (
        Annotated[list[ToolCallParam], Field(max_length=MAX_CALLS, fail_fast=True)] | None
    ) = None
    function_call: FunctionCallParam | None = None
    tool_call_id: object = None
    content: Annotated[
        Annotated[list[ContentPart], Items] | None,
        BeforeValidator(read_parts, json_schema_input_type=str | list[ContentPart]),
        Field(validate_default=True),
    ] = None
    name: object = None
    reasoning_content: object = None
    reasoning: object = None
    thinking: object = None
    thinking_blocks: object = None
    reasoning_details: object = None
    refusal: object = None

    @field_validator("tool_calls", "function_call")
    @classmethod
    def _of_an_assistant(cls, value: T | None, info: ValidationInfo) -> T | None:
        if value and info.data.get("role") != "assistant":
            raise field_error("invalid_value", "belongs to an assistant's message")
        return value or None

    @field_validator("content")
    @classmethod
    def _of_its_role(
        cls, value: list[ContentPart] | None, info: ValidationInfo
    ) -> list[ContentPart] | None:
        role = info.data.get("role")
        if value is None and role in ("system", "developer", "user"):
            raise field_error("missing_required_parameter", "is required")
        if role not in _WITH_IMAGES and any(part.image_url for part in value or ()):
            raise field_error(
                "invalid_value", "has an image, which belongs to a user's message or a tool's"
            )
        return value

    def message(self) -> Message:
        """Make the engine's message; a developer is a system, as older models know it."""
        text, images = join_content(
            part.content for part in self.content or () if part.type != "thinking"
        )
        result = self.role in ("tool", "function")
        return Message(
            role=_ROLES.get(self.role) or Role(self.role),
            content=text or (self.refusal if isinstance(self.refusal, str) else ""),
            images=images,
            tool_calls=self._calls(),
            tool_call_id=text_or_none(self.tool_call_id) if result else None,
            name=text_or_none(self.name) if result else None,
            reasoning=self._thought() if self.role == "assistant" else None,
        )

    def _calls(self) -> tuple[ToolCall, ...]:
        calls = tuple(call.tool_call() for call in self.tool_calls or ())
        if self.function_call is not None and not calls:  # one that had both had them twice
            function = self.function_call
            return (ToolCall(id="", name=function.name, arguments=function.arguments),)
        return calls

    def _thought(self) -> str | None:
        parts = [text for part in self.content or () for text in texts_in(part.thinking)]
        spellings = (
            self.reasoning_content,
            self.reasoning,
            self.thinking,
            parts,
            self.thinking_blocks,
            self.reasoning_details,
        )
        return next((text for each in spellings if (text := "".join(texts_in(each)))), None)


_WITH_IMAGES = ("user", "tool", "function")

_ROLES = {"developer": Role.SYSTEM, "function": Role.TOOL}


def _not_too_many(value: object) -> object:
    """Refuse messages whose parts would take seconds to check, before any is looked at."""
    parts = 0
    for message in value if isinstance(value, list) else ():
        if isinstance(message, dict):
            lists = (message.get("content"), message.get("tool_calls"))
            parts += sum(len(each) for each in lists if isinstance(each, list))
    if parts > MAX_PARTS:
        raise field_error(
            "invalid_value", "hold more than {most} parts and calls together", most=MAX_PARTS
        )
    return value


ChatMessages = Annotated[list[ChatMessage], Items, BeforeValidator(_not_too_many)]
