"""The answers of `/v1/responses`: a response, its items, and the events of a stream.

The classes have the names of OpenAI's official client, where it has one.
"""

from typing import Annotated, Literal

from pydantic import Field

from localllm.engine.messages import Timings
from localllm.server.dialects.openai.chat_response import ChatTokenLogprob
from localllm.server.generation.choices import Usage
from localllm.server.schema import OMIT_IF_NONE, ApiModel

Status = Literal["in_progress", "completed", "incomplete", "failed"]

Json = object
JsonObject = dict[str, object]


class OutputText(ApiModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[str, ...] = ()
    logprobs: list[ChatTokenLogprob] = Field(default_factory=list)


class ReasoningText(ApiModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(ApiModel):
    type: Literal["summary_text"] = "summary_text"
    text: str


class OutputMessage(ApiModel):
    id: str
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningItem(ApiModel):
    id: str
    type: Literal["reasoning"] = "reasoning"
    status: Status
    summary: list[SummaryText]
    content: Annotated[list[ReasoningText] | None, OMIT_IF_NONE] = None
    encrypted_content: Annotated[str | None, OMIT_IF_NONE] = None


class FunctionCallItem(ApiModel):
    id: str
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    namespace: Annotated[str | None, OMIT_IF_NONE] = None
    arguments: str


class CustomCallItem(ApiModel):
    id: str
    type: Literal["custom_tool_call"] = "custom_tool_call"
    status: Status
    call_id: str
    name: str
    namespace: Annotated[str | None, OMIT_IF_NONE] = None
    input: str


OutputItem = OutputMessage | ReasoningItem | FunctionCallItem | CustomCallItem


class InputTokensDetails(ApiModel):
    """What was not cached is now: every prompt is kept as long as there is room."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(ApiModel):
    reasoning_tokens: int


class ResponseUsage(ApiModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=usage.cached_tokens,
                cache_write_tokens=usage.prompt_tokens - usage.cached_tokens,
            ),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        )


class IncompleteDetails(ApiModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(ApiModel):
    code: str
    message: str


class Response(ApiModel):
    """A whole response. The fields of the request stand in it as they came, or as they are when
    they did not come."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: JsonObject
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: JsonObject
    tool_choice: Json
    tools: list[Json]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    metadata: JsonObject
    timings: Annotated[Timings | None, OMIT_IF_NONE] = None
    dropped_messages: Annotated[int | None, OMIT_IF_NONE] = None
    warnings: Annotated[list[str] | None, OMIT_IF_NONE] = None


class StreamEvent(ApiModel):
    """An event of a stream. Its fields are those of OpenAI's class for its type; `sequence_number`
    counts the events of a stream from 0."""

    type: str
    sequence_number: int
    response: Annotated[Response | None, OMIT_IF_NONE] = None
    output_index: Annotated[int | None, OMIT_IF_NONE] = None
    item_id: Annotated[str | None, OMIT_IF_NONE] = None
    content_index: Annotated[int | None, OMIT_IF_NONE] = None
    summary_index: Annotated[int | None, OMIT_IF_NONE] = None
    item: Annotated[OutputItem | None, OMIT_IF_NONE] = None
    part: Annotated[OutputText | ReasoningText | SummaryText | None, OMIT_IF_NONE] = None
    delta: Annotated[str | None, OMIT_IF_NONE] = None
    text: Annotated[str | None, OMIT_IF_NONE] = None
    logprobs: Annotated[list[ChatTokenLogprob] | None, OMIT_IF_NONE] = None
    name: Annotated[str | None, OMIT_IF_NONE] = None
    arguments: Annotated[str | None, OMIT_IF_NONE] = None
    input: Annotated[str | None, OMIT_IF_NONE] = None
    code: Annotated[str | None, OMIT_IF_NONE] = None
    message: Annotated[str | None, OMIT_IF_NONE] = None
    param: Annotated[str | None, OMIT_IF_NONE] = None


class ResponseDeleted(ApiModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemList(ApiModel):
    object: Literal["list"] = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(ApiModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
