"""What the OpenAI dialect is asked: `/v1/chat/completions`, as its official clients speak it."""

import json
import secrets
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
from localllm.engine.messages.limits import MAX_TOP_LOGPROBS
from localllm.server.dialects.openai.content import Part, said
from localllm.server.dialects.openai.generation import Generation, Label, NativeInt
from localllm.server.dialects.openai.tools import Called, Choice, ChoiceOfTools, OfferedTool, Tools
from localllm.server.lora import loras
from localllm.server.schema import Shape, neutral, refusal

MAX_ITEMS = 16384
"""Messages of a request, parts of a message. The 230,000 that fit a body would take seconds."""

MAX_CALLS = 256
"""Of one message."""

# Of a list that is wrong everywhere only the first error is kept: there could be millions.
Items = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)

T = TypeVar("T")


def _parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if value is not None and not isinstance(value, list):
        raise refusal("invalid_type", "must be a string or an array of parts")
    return value


class ChatMessage(Shape):
    """One turn. Only an assistant's with `tool_calls` may have no content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[Called], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Label | None = None
    content: Annotated[
        Annotated[list[Part], Items] | None,
        BeforeValidator(_parts),
        Field(validate_default=True),
    ] = None
    name: Label | None = None
    reasoning_content: str | None = None
    refusal: Annotated[object, neutral()] = None
    audio: Annotated[object, neutral()] = None
    function_call: Annotated[object, neutral()] = None
    annotations: Annotated[object, neutral([])] = None

    @field_validator("tool_calls", "reasoning_content")
    @classmethod
    def _of_an_assistant(cls, value: T | None, info: ValidationInfo) -> T | None:
        if value and info.data.get("role") != "assistant":
            raise refusal("invalid_value", "belongs to an assistant's message")
        return value or None

    @field_validator("tool_call_id", "name")
    @classmethod
    def _of_a_tool(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("role") != "tool":
            raise refusal("invalid_value", "belongs to a tool's message")
        return value

    @field_validator("content")
    @classmethod
    def _said(cls, value: list[Part] | None, info: ValidationInfo) -> list[Part] | None:
        if value is None and not info.data.get("tool_calls"):
            raise refusal("missing_required_parameter", "is required")
        if info.data.get("role") != "user" and any(part.image_url for part in value or ()):
            raise refusal("invalid_value", "has an image, which belongs to a user's message")
        return value

    def message(self) -> Message:
        """Say the same to the engine."""
        role = Role.SYSTEM if self.role == "developer" else Role(self.role)
        text, images = said(self.content or [])
        return Message(
            role=role,
            content=text,
            images=images,
            tool_calls=tuple(called.tool_call() for called in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
            reasoning=self.reasoning_content or None,
        )


class JsonSchema(Shape):
    """`strict` and the names change nothing: every answer follows the schema."""

    name: Label | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, object], Field(alias="schema")]


class ResponseFormat(Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refusal("invalid_value", "has a `json_schema` if its type is that, and only then")
        return self

    @property
    def grammar(self) -> Grammar | None:
        if self.json_schema is not None:
            text = json.dumps(self.json_schema.schema_)
            return Grammar(kind=GrammarKind.JSON_SCHEMA, text=text)
        return Grammar(kind=GrammarKind.JSON_OBJECT) if self.type == "json_object" else None


class ChatRequest(Generation):
    """The body of `/v1/chat/completions`; null is the same as nothing."""

    messages: Annotated[list[ChatMessage], Items]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    context_overflow: Literal["error", "roll"] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Annotated[ChoiceOfTools | None, Field(validate_default=True)] = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Annotated[NativeInt, Field(ge=1)] | None = None
    max_tokens: Annotated[NativeInt, Field(ge=1)] | None = None

    # Names that a client gives its request; no value of theirs changes the answer.
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    # What clients send on their own and this server does not do.
    store: Annotated[object, neutral(False)] = None
    metadata: Annotated[object, neutral({})] = None
    functions: Annotated[object, neutral([])] = None
    function_call: Annotated[object, neutral("none", "auto")] = None
    modalities: Annotated[object, neutral(["text"])] = None
    service_tier: Annotated[object, neutral("auto", "default")] = None
    audio: Annotated[object, neutral()] = None
    prediction: Annotated[object, neutral()] = None
    reasoning_effort: Annotated[object, neutral()] = None
    verbosity: Annotated[object, neutral()] = None
    web_search_options: Annotated[object, neutral()] = None

    @field_validator("max_tokens")
    @classmethod
    def _agree(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_completion_tokens")
        if value is not None and other is not None and value != other:
            raise refusal("invalid_value", "is not what `max_completion_tokens` is")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _asked_for(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise refusal("invalid_value", "has a meaning only with `logprobs`: true")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _there(cls, value: Choice | None, info: ValidationInfo) -> Choice | None:
        tools: list[OfferedTool] = info.data.get("tools") or []
        if value is not None and value.function is not None:
            if all(tool.function.name != value.function.name for tool in tools):
                raise refusal("invalid_value", "asks for a function that is not among the `tools`")
        elif value is not None and value.type == "required" and not tools:
            raise refusal("invalid_value", "is required, but there are no `tools`")
        formatted = info.data.get("response_format")
        free = formatted is None or formatted.grammar is None
        if tools and not free and (value is None or value.type != "none"):
            raise refusal("invalid_value", "must be 'none' with a `response_format`")
        return value

    def generate_request(self) -> GenerateRequest:
        """Say the same to the engine, under a new name."""
        choice = self.tool_choice
        return GenerateRequest(
            request_id=f"chatcmpl-{secrets.token_hex(12)}",
            messages=tuple(message.message() for message in self.messages),
            sampling=self.sampling,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            min_tokens=self.min_tokens or 0,
            n=self.n or 1,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=self.response_format.grammar if self.response_format else None,
            loras=loras(self.lora),
            tools=tuple(tool.tool() for tool in self.tools or ()),
            tool_choice=choice.tool_choice if choice and self.tools else ToolChoice(),
            parallel_tool_calls=self.parallel_tool_calls is not False or not self.tools,
            overflow=Overflow(self.context_overflow or "error"),
        )
