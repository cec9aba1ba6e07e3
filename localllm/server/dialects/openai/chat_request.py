"""The request of `/v1/chat/completions`, as OpenAI's official clients send it."""

import re
from dataclasses import replace
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from localllm.engine.messages import (
    GenerateRequest,
    Grammar,
    GrammarKind,
    Message,
    Overflow,
    Role,
    ToolChoice,
)
from localllm.server.dialects.openai.fields import (
    ClientString,
    MaxTokens,
    OpenAiFields,
    TopLogprobs,
)
from localllm.server.dialects.openai.tools import (
    ToolCallParam,
    ToolChoiceOption,
    ToolChoiceParam,
    ToolParam,
    ToolParams,
)
from localllm.server.generation.request import (
    decode_image,
    join_content,
    json_schema_grammar,
    new_request_id,
)
from localllm.server.generation.tools import check_tool_choice
from localllm.server.schema import ApiModel, field_error, unsupported

MAX_ITEMS = 16384
"""Messages of a request, parts of a message. The 230,000 that fit a body would take seconds."""

MAX_CALLS = 256
"""Of one message."""

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


class ImageUrl(ApiModel):
    """`detail` changes nothing: an image is scaled to what the model's encoder takes."""

    url: Annotated[bytes, BeforeValidator(_decode_data_url)]
    detail: Annotated[object, unsupported("auto", "high")] = None


class ContentPart(ApiModel):
    """A text or an image, by its `type`."""

    type: Literal["text", "image_url"]
    text: Annotated[str | None, Field(validate_default=True)] = None
    image_url: Annotated[ImageUrl | None, Field(validate_default=True)] = None

    @field_validator("text", "image_url")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        part_type = info.data.get("type")
        if part_type == info.field_name and value is None:
            raise field_error("missing_required_parameter", "is required")
        if part_type is not None and part_type != info.field_name and value is not None:
            raise field_error("unknown_parameter", "is no field of a part of this type")
        return value

    @property
    def content(self) -> str | bytes:
        return self.image_url.url if self.image_url is not None else self.text or ""


def _content_parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if value is not None and not isinstance(value, list):
        raise field_error("invalid_type", "must be a string or an array of parts")
    return value


class ChatMessage(ApiModel):
    """One turn. Only an assistant's with `tool_calls` may have no content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCallParam], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: ClientString | None = None
    content: Annotated[
        Annotated[list[ContentPart], Items] | None,
        BeforeValidator(_content_parts),
        Field(validate_default=True),
    ] = None
    name: ClientString | None = None
    reasoning_content: str | None = None
    refusal: Annotated[object, unsupported()] = None
    audio: Annotated[object, unsupported()] = None
    function_call: Annotated[object, unsupported()] = None
    annotations: Annotated[object, unsupported([])] = None

    @field_validator("tool_calls", "reasoning_content")
    @classmethod
    def _of_an_assistant(cls, value: T | None, info: ValidationInfo) -> T | None:
        if value and info.data.get("role") != "assistant":
            raise field_error("invalid_value", "belongs to an assistant's message")
        return value or None

    @field_validator("tool_call_id", "name")
    @classmethod
    def _of_a_tool(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("role") != "tool":
            raise field_error("invalid_value", "belongs to a tool's message")
        return value

    @field_validator("content")
    @classmethod
    def _of_its_role(
        cls, value: list[ContentPart] | None, info: ValidationInfo
    ) -> list[ContentPart] | None:
        if value is None and not info.data.get("tool_calls"):
            raise field_error("missing_required_parameter", "is required")
        if info.data.get("role") != "user" and any(part.image_url for part in value or ()):
            raise field_error("invalid_value", "has an image, which belongs to a user's message")
        return value

    def message(self) -> Message:
        """Make the engine's message; a developer is a system, as older models know it."""
        role = Role.SYSTEM if self.role == "developer" else Role(self.role)
        text, images = join_content(part.content for part in self.content or ())
        return Message(
            role=role,
            content=text,
            images=images,
            tool_calls=tuple(call.tool_call() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
            reasoning=self.reasoning_content or None,
        )


class JsonSchema(ApiModel):
    """`strict` and the names change nothing: every answer follows the schema."""

    name: ClientString | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, object], Field(alias="schema")]


class ResponseFormat(ApiModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise field_error(
                "invalid_value", "has a `json_schema` if its type is that, and only then"
            )
        return self

    @property
    def grammar(self) -> Grammar | None:
        if self.json_schema is not None:
            return json_schema_grammar(self.json_schema.schema_)
        return Grammar(kind=GrammarKind.JSON_OBJECT) if self.type == "json_object" else None


class ChatCompletionRequest(OpenAiFields):
    """The body of `/v1/chat/completions`; null is the same as nothing."""

    messages: Annotated[list[ChatMessage], Items]
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    context_overflow: Literal["error", "roll"] | None = None
    response_format: ResponseFormat | None = None
    tools: ToolParams | None = None
    tool_choice: Annotated[ToolChoiceParam | None, Field(validate_default=True)] = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Annotated[MaxTokens, Field(ge=1)] | None = None
    max_tokens: Annotated[MaxTokens, Field(ge=1)] | None = None

    # Names that a client gives its request; no value of theirs changes the answer.
    safety_identifier: ClientString | None = None
    prompt_cache_key: ClientString | None = None

    # What clients send on their own and this server does not do.
    store: Annotated[object, unsupported(False)] = None
    metadata: Annotated[object, unsupported({})] = None
    functions: Annotated[object, unsupported([])] = None
    function_call: Annotated[object, unsupported("none", "auto")] = None
    modalities: Annotated[object, unsupported(["text"])] = None
    service_tier: Annotated[object, unsupported("auto", "default")] = None
    audio: Annotated[object, unsupported()] = None
    prediction: Annotated[object, unsupported()] = None
    reasoning_effort: Annotated[object, unsupported()] = None
    verbosity: Annotated[object, unsupported()] = None
    web_search_options: Annotated[object, unsupported()] = None

    @field_validator("max_tokens")
    @classmethod
    def _one_maximum(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_completion_tokens")
        if value is not None and other is not None and value != other:
            raise field_error("invalid_value", "is not what `max_completion_tokens` is")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise field_error("invalid_value", "has a meaning only with `logprobs`: true")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _obeyable(
        cls, value: ToolChoiceOption | None, info: ValidationInfo
    ) -> ToolChoiceOption | None:
        tools: list[ToolParam] = info.data.get("tools") or []
        response_format: ResponseFormat | None = info.data.get("response_format")
        check_tool_choice(
            value.tool_choice if value is not None else ToolChoice(),
            [tool.function.name for tool in tools],
            constrained=response_format is not None and response_format.grammar is not None,
        )
        return value

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        choice = self.tool_choice
        return replace(
            self.base_request(new_request_id("chatcmpl")),
            messages=tuple(message.message() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=self.response_format.grammar if self.response_format else None,
            tools=tuple(tool.tool() for tool in self.tools or ()),
            tool_choice=choice.tool_choice if choice and self.tools else ToolChoice(),
            parallel_tool_calls=self.parallel_tool_calls is not False or not self.tools,
            overflow=Overflow(self.context_overflow or "error"),
        )
