"""The request of `/v1/chat/completions`, as OpenAI's official clients send it."""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from localllm.engine.messages import (
    GenerateRequest,
    Grammar,
    GrammarKind,
    Overflow,
    Tool,
    ToolChoice,
    ToolMode,
)
from localllm.server.dialects.openai.chat_message import ChatMessages
from localllm.server.dialects.openai.fields import MaxTokens, OpenAiFields, TopLogprobs
from localllm.server.dialects.openai.reasoning import ReasoningFields
from localllm.server.dialects.openai.tools import (
    FunctionParams,
    ToolChoiceOption,
    ToolParams,
)
from localllm.server.generation.history import link_results
from localllm.server.generation.request import json_schema_grammar, new_request_id
from localllm.server.generation.tools import check_tool_choice
from localllm.server.schema import (
    RequestModel,
    also_named,
    field_error,
    minus_one_is,
    unsupported,
)


class JsonSchema(RequestModel):
    """A `strict` schema is followed whole or refused; of any other, what no grammar can enforce is
    checked on the finished answer. The names change nothing."""

    name: object = None
    description: object = None
    strict: bool | None = None
    schema_: Annotated[dict[str, object], Field(alias="schema")]


class ResponseFormat(RequestModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @classmethod
    def understand(cls, value: object) -> object:
        """Understand a schema without its wrapper, as llama.cpp's server and Together take it."""
        if not isinstance(value, dict) or not isinstance(value.get("schema"), dict):
            return value
        if "json_schema" in value or value.get("type") not in ("json_object", "json_schema"):
            return value
        wrapped = {name: value[name] for name in ("schema", "strict", "name") if name in value}
        return {"type": "json_schema", "json_schema": wrapped}

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
            return json_schema_grammar(
                self.json_schema.schema_, strict=bool(self.json_schema.strict)
            )
        return Grammar(kind=GrammarKind.JSON_OBJECT) if self.type == "json_object" else None


class ChatCompletionRequest(OpenAiFields, ReasoningFields):
    """The body of `/v1/chat/completions`; null is the same as nothing."""

    messages: ChatMessages
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    context_overflow: Literal["error", "roll"] | None = None
    response_format: ResponseFormat | None = None
    tools: ToolParams | None = None
    functions: FunctionParams | None = None
    tool_choice: Annotated[ToolChoiceOption | None, Field(validate_default=True)] = None
    function_call: Annotated[ToolChoiceOption | None, Field(validate_default=True)] = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    max_completion_tokens: Annotated[
        Annotated[MaxTokens, Field(ge=1)] | None, minus_one_is(None)
    ] = None
    max_tokens: Annotated[
        Annotated[MaxTokens, Field(ge=1)] | None,
        minus_one_is(None),
        also_named("max_tokens", "max_new_tokens", "n_predict"),
    ] = None

    # Of OpenAI's API, and not done here: the answer would be another one.
    modalities: Annotated[object, unsupported(["text"], [])] = None
    audio: Annotated[object, unsupported()] = None
    moderation: Annotated[object, unsupported()] = None
    web_search_options: Annotated[object, unsupported()] = None
    chat_template: Annotated[object, unsupported("")] = None

    @field_validator("max_tokens")
    @classmethod
    def _one_maximum(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_completion_tokens")
        if value is not None and other is not None and value != other:
            raise field_error("invalid_value", "is not what `max_completion_tokens` is")
        return value

    @field_validator("add_generation_prompt")
    @classmethod
    def _begins_or_continues(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        continues = info.data.get("continue_final_message")
        if continues is not None and value is continues:
            raise field_error("invalid_value", "must not be what `continue_final_message` is")
        return value

    @field_validator("continue_final_message")
    @classmethod
    def _has_a_final_message(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        messages: ChatMessages = info.data.get("messages") or []
        if value and messages and messages[-1].role != "assistant":
            raise field_error("invalid_value", "needs an assistant's message at the end")
        return value

    @property
    def _continues(self) -> bool | None:
        """Whether the answer goes on with the last message; None: if it is an assistant's."""
        if self.continue_final_message is None and self.add_generation_prompt:
            return False
        return self.continue_final_message

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise field_error("invalid_value", "has a meaning only with `logprobs`: true")
        return value

    @field_validator("tool_choice", "function_call")
    @classmethod
    def _obeyable(
        cls, value: ToolChoiceOption | None, info: ValidationInfo
    ) -> ToolChoiceOption | None:
        tools, functions = info.data.get("tools") or [], info.data.get("functions") or []
        if info.field_name == "tool_choice":
            names = [tool.function.name for tool in tools]
        else:
            names = [] if tools else [function.name for function in functions]
        if info.field_name == "function_call" and not names:
            return None  # it speaks of `functions`, and there are none
        check_tool_choice(value.tool_choice if value is not None else ToolChoice(), names)
        if value is not None and not set(value.allowed or ()) <= set(names):
            raise field_error("invalid_value", "allows a function that is not among the `tools`")
        return value

    @property
    def old_style(self) -> bool:
        """True for `functions`, which `tools` came after: the answer's call is a
        `function_call`. Where a request has both, its `tools` count."""
        return bool(self.functions) and not self.tools

    def _offered(self) -> tuple[tuple[Tool, ...], ToolChoice]:
        """Return the tools that the model may call, and the rule of its calls."""
        if self.old_style:
            tools = tuple(function.tool() for function in self.functions or ())
            option = self.function_call
        else:
            tools = tuple(tool.function.tool() for tool in self.tools or ())
            option = self.tool_choice
        if option is None or not tools:
            return tools, ToolChoice()
        if option.allowed is not None:
            tools = tuple(tool for tool in tools if tool.name in option.allowed)
            if not tools:
                return (), ToolChoice(mode=ToolMode.NONE)
        return tools, option.tool_choice

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        tools, choice = self._offered()
        one_call = self.old_style or self.parallel_tool_calls is False
        return replace(
            self.base_request(new_request_id("chatcmpl")),
            messages=link_results(tuple(message.message() for message in self.messages)),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=self.response_format.grammar if self.response_format else None,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=not (one_call and tools),
            overflow=Overflow(self.context_overflow or "error"),
            thinking=self.wished_thinking,
            template_options=self.template_options,
            continue_final_message=self._continues,
        )
