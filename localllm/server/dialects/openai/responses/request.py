"""The request of `/v1/responses`, as OpenAI's official clients and Codex CLI send it."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from localllm.engine.messages import (
    GenerateRequest,
    Overflow,
    ToolChoice,
    ToolMode,
)
from localllm.server.dialects.openai.chat_request import ResponseFormat
from localllm.server.dialects.openai.fields import MaxTokens, OpenAiFields, TopLogprobs
from localllm.server.dialects.openai.reasoning import ReasoningFields
from localllm.server.dialects.openai.responses.items import (
    ResponseItems,
    left_out,
    messages_of,
)
from localllm.server.dialects.openai.responses.tools import (
    ResponseTool,
    ResponseToolChoice,
    ResponseTools,
    ToolTable,
    tool_table,
)
from localllm.server.generation.tools import check_tool_choice
from localllm.server.schema import RequestModel, field_error, minus_one_is, unsupported

_SEND_INPUT = "is not supported: send the items in `input`, or `previous_response_id`"


class TextOptions(RequestModel):
    """The form of the answer's text."""

    format: ResponseFormat | None = None


class ResponseRequest(OpenAiFields, ReasoningFields):
    """The body of `/v1/responses`; null is the same as nothing."""

    input: ResponseItems | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str | None, Field(max_length=128)] = None
    tools: ResponseTools | None = None
    tool_choice: Annotated[ResponseToolChoice | None, Field(validate_default=True)] = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    max_output_tokens: Annotated[Annotated[MaxTokens, Field(ge=1)] | None, minus_one_is(None)] = (
        None
    )
    top_logprobs: TopLogprobs | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    store: bool | None = None
    metadata: dict[str, object] | None = None
    max_tool_calls: object = None  # of tools that run at OpenAI, and there are none
    background_options: object = None  # of `background`, which is refused
    access_programs: object = None  # what a model of OpenAI's may be asked
    prompt_cache_options: object = None

    # Of OpenAI's API, and not done here: the answer would be another one.
    background: Annotated[object, unsupported(False)] = None
    conversation: Annotated[object, unsupported(reason=_SEND_INPUT)] = None
    context_management: Annotated[object, unsupported([])] = None
    moderation: Annotated[object, unsupported()] = None
    prompt: Annotated[object, unsupported(reason=_SEND_INPUT)] = None
    messages: Annotated[
        object, unsupported([], reason="belongs to /v1/chat/completions: here is an `input`")
    ] = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise field_error("unsupported_parameter", "must be 1: a response is one answer")
        return value

    @field_validator("prompt_cache_options")
    @classmethod
    def _answers(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("prewarm") not in (None, False):
            raise field_error(
                "unsupported_parameter", "has a `prewarm`: a response is not made without an answer"
            )
        return value

    @field_validator("tools")
    @classmethod
    def _unique(cls, value: list[ResponseTool] | None) -> list[ResponseTool] | None:
        tool_table(value or ())
        return value

    @field_validator("tool_choice")
    @classmethod
    def _obeyable(
        cls, value: ResponseToolChoice | None, info: ValidationInfo
    ) -> ResponseToolChoice | None:
        table = tool_table(_tools(info.data.get("tools"), info.data.get("input")))
        choice = value.tool_choice if value is not None else ToolChoice()
        check_tool_choice(choice, list(table.offered))
        if value is not None and not set(value.allowed or ()) <= set(table.offered):
            raise field_error("invalid_value", "allows a function that is not among the `tools`")
        return value

    @property
    def table(self) -> ToolTable:
        """The tools of the request, those that items add included."""
        return tool_table(_tools(self.tools, self.input))

    @property
    def encodes_reasoning(self) -> bool:
        """True when the client keeps reasoning itself, as `encrypted_content`."""
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def summarizes(self) -> bool:
        """True when reasoning goes where OpenAI has its summary."""
        wished = self.reasoning
        return wished is not None and bool(wished.summary or wished.generate_summary)

    def warnings(self) -> list[str]:
        """Return what is known before the answer begins of what the model does not get."""
        return [*self.table.warnings, *left_out(self.input or ())]

    def generate_request(self, request_id: str) -> GenerateRequest:
        """Make the engine's request."""
        table = self.table
        tools, choice = table.tools, ToolChoice()
        if self.tool_choice is not None and tools:
            choice = self.tool_choice.tool_choice
            if self.tool_choice.allowed is not None:
                tools = tuple(tool for tool in tools if tool.name in self.tool_choice.allowed)
                choice = choice if tools else ToolChoice(mode=ToolMode.NONE)
        format_ = self.text.format if self.text is not None else None
        logprobs = self.top_logprobs or "message.output_text.logprobs" in (self.include or ())
        return replace(
            self.base_request(request_id),
            messages=messages_of(self.input or (), self.instructions, table),
            max_tokens=self.max_output_tokens,
            top_logprobs=(self.top_logprobs or 0) if logprobs else None,
            grammar=format_.grammar if format_ is not None else None,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=not (self.parallel_tool_calls is False and tools),
            overflow=Overflow.ROLL if self.truncation == "auto" else Overflow.ERROR,
            thinking=self.wished_thinking,
            template_options=self.template_options,
        )


def _tools(tools: list[ResponseTool] | None, items: ResponseItems | None) -> list[ResponseTool]:
    """Return the tools of a request and of its items."""
    added = [tool for item in items or () for tool in item.tools or ()]
    return [*(tools or ()), *added]
