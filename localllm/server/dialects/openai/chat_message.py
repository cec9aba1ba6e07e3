"""The messages of `/v1/chat/completions`: what clients send, and what they send back.

A history can always be sent back, also one that another server wrote or that was cut: earlier
answers are taken as they are, in the spellings of OpenAI's two APIs, Anthropic, Ollama, OpenRouter,
LiteLLM and vLLM.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Message, Role, ToolCall
from localllm.server.dialects.openai.tools import FunctionCallParam, ToolCallParam
from localllm.server.generation.request import decode_image, join_content
from localllm.server.schema import RequestModel, field_error

MAX_ITEMS = 16384
"""Messages of a request, parts of a message. The 230,000 that fit a body would take seconds."""

MAX_CALLS = 256
"""Of one message."""

MAX_PARTS = 32_768
"""Parts and calls of all messages together: each is checked by itself, in microseconds."""

# Of a list that is wrong everywhere only the first error is kept: there could be millions.
Items = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)

T = TypeVar("T")

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


def _decode_data_url(value: object) -> object:
    """Decode a data: URL. Nothing is fetched for a client, from nowhere: an address that this
    machine reaches may be one that the client does not."""
    if not isinstance(value, str):
        raise field_error("invalid_type", "must be a string")
    head = _DATA_URL.match(value)
    if head is None:
        raise field_error(
            "unsupported_url",
            "must be data:image/...;base64,... with the image itself: this server fetches nothing",
        )
    return decode_image(value[head.end() :], invalid="is not valid base64 after its comma")


class ImageUrl(RequestModel):
    """`detail` changes nothing: an image is scaled to what the model's encoder takes."""

    url: Annotated[bytes, BeforeValidator(_decode_data_url)]
    detail: object = None

    @classmethod
    def understand(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


PartType = Literal["text", "image_url", "thinking"]

_TYPES: dict[object, PartType] = {
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    "reasoning": "thinking",
    "redacted_thinking": "thinking",
    "input_image": "image_url",
}
"""Names that OpenAI's Responses API, Anthropic's and the AI SDK have for types of parts."""


_OWN_FIELDS = ("text", "image_url", "thinking")


class ContentPart(RequestModel):
    """A text, an image or an earlier thought, by its `type`; the fields of another type are not
    read."""

    type: PartType
    text: Annotated[str | None, Field(validate_default=True)] = None
    image_url: Annotated[ImageUrl | None, Field(validate_default=True)] = None
    thinking: object = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        if not isinstance(value, dict):
            return value
        theirs = value.get("type", "text" if "text" in value else None)
        ours = _TYPES.get(theirs, theirs) if isinstance(theirs, str) else theirs
        part = {name: each for name, each in value.items() if name not in _OWN_FIELDS}
        if ours is not None:
            part["type"] = ours
        if theirs == "refusal":
            own = part.pop("refusal", None)
        elif ours == "thinking":
            own = value.get("thinking", part.pop("reasoning", value.get("text")))
        else:
            own = value.get(ours) if isinstance(ours, str) else None
        if own is not None and isinstance(ours, str):
            part[ours] = own
        return part

    @field_validator("text", "image_url")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        if info.data.get("type") == info.field_name and value is None:
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def content(self) -> str | bytes:
        return self.image_url.url if self.image_url is not None else self.text or ""


def _content_parts(value: object) -> object:
    if isinstance(value, str) or (not value and isinstance(value, list)):
        # An answer that only called tools, or that was cut before its first word, has none.
        return [{"type": "text", "text": value or ""}]
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [{"type": "text", "text": "\n".join(value)}]  # as `join_content` joins them
    if value is not None and not isinstance(value, list):
        raise field_error("invalid_type", "must be a string or an array of parts")
    return value


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a thought: it is one, or a list of blocks that hold some."""
    for block in value if isinstance(value, list) else [value]:
        if isinstance(block, str):
            yield block
        elif isinstance(block, dict):
            fields = (block.get(name) for name in ("thinking", "text", "reasoning", "summary"))
            yield next((text for text in fields if isinstance(text, str)), "")


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
        BeforeValidator(_content_parts),
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
        if role != "user" and any(part.image_url for part in value or ()):
            raise field_error("invalid_value", "has an image, which belongs to a user's message")
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
            tool_call_id=_text_or_none(self.tool_call_id) if result else None,
            name=_text_or_none(self.name) if result else None,
            reasoning=self._thought() if self.role == "assistant" else None,
        )

    def _calls(self) -> tuple[ToolCall, ...]:
        calls = tuple(call.tool_call() for call in self.tool_calls or ())
        if self.function_call is not None and not calls:  # one that had both had them twice
            function = self.function_call
            return (ToolCall(id="", name=function.name, arguments=function.arguments),)
        return calls

    def _thought(self) -> str | None:
        parts = [text for part in self.content or () for text in _texts(part.thinking)]
        spellings = (
            self.reasoning_content,
            self.reasoning,
            self.thinking,
            parts,
            self.thinking_blocks,
            self.reasoning_details,
        )
        return next((text for each in spellings if (text := "".join(_texts(each)))), None)


_ROLES = {"developer": Role.SYSTEM, "function": Role.TOOL}


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


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
