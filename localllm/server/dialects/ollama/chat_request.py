"""The request of `/api/chat`."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import GenerateRequest, Message, Role, Tool, ToolCall
from localllm.engine.messages.limits import MAX_TOOLS
from localllm.server.dialects.ollama.fields import AnswerFields, ArgumentsText, Images
from localllm.server.generation.history import link_results
from localllm.server.generation.request import join_content
from localllm.server.generation.tools import ToolName, ToolParameters, check_unique, make_tool
from localllm.server.schema import RequestModel, also_named, field_error

MAX_MESSAGES = 16_384
"""Those that fit a body would take seconds."""

MAX_CALLS = 256
"""Of one message."""

T = TypeVar("T")


class CalledFunction(RequestModel):
    """`index` is the call's place in its answer."""

    name: str
    arguments: ArgumentsText = "{}"
    index: object = None


class CallParam(RequestModel):
    """A call in an assistant's earlier turn; without an `id` its result is found by its name."""

    id: object = None
    type: object = None
    function: CalledFunction

    def tool_call(self) -> ToolCall:
        id_ = self.id if isinstance(self.id, str) else ""
        return ToolCall(id=id_, name=self.function.name, arguments=self.function.arguments)


class ChatMessage(RequestModel):
    """One turn. Where a result has no `tool_call_id`, `tool_name` says whose it is."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[CallParam] | None, Field(max_length=MAX_CALLS, fail_fast=True)] = (
        None
    )
    tool_name: Annotated[str | None, also_named("tool_name", "name")] = None
    tool_call_id: str | None = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("role"), str):
            return {**value, "role": value["role"].lower()}
        return value

    @field_validator("images", "tool_calls")
    @classmethod
    def _of_its_role(cls, value: list[T] | None, info: ValidationInfo) -> list[T] | None:
        role = info.data.get("role")
        if value and info.field_name == "images" and role not in ("user", "tool"):
            raise field_error("invalid_value", "belongs to a user's message or a tool's")
        if value and info.field_name == "tool_calls" and role != "assistant":
            raise field_error("invalid_value", "belongs to an assistant's message")
        return value or None

    def message(self) -> Message:
        """Make the engine's message; images stand before the text, as Ollama's templates do it."""
        text, images = join_content([*(self.images or ()), self.content or ""])
        result = self.role == "tool"
        return Message(
            role=Role(self.role),
            content=text,
            images=images,
            tool_calls=tuple(call.tool_call() for call in self.tool_calls or ()),
            tool_call_id=(self.tool_call_id or None) if result else None,
            name=(self.tool_name or None) if result else None,
            reasoning=(self.thinking or None) if self.role == "assistant" else None,
        )


class FunctionParam(RequestModel):
    name: ToolName
    description: str | None = None
    parameters: ToolParameters = None


class ToolParam(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionParam

    def tool(self) -> Tool:
        function = self.function
        return make_tool(function.name, function.description, function.parameters)


def _check_names(value: list[ToolParam]) -> list[ToolParam]:
    check_unique([tool.function.name for tool in value])
    return value


class ChatRequest(AnswerFields):
    """The body of `/api/chat`; without messages it loads the model, or unloads it."""

    messages: Annotated[
        list[ChatMessage] | None, Field(max_length=MAX_MESSAGES, fail_fast=True)
    ] = None
    tools: Annotated[
        Annotated[list[ToolParam], Field(max_length=MAX_TOOLS, fail_fast=True)] | None,
        AfterValidator(lambda value: value and _check_names(value)),
    ] = None

    prompt_field: ClassVar = "messages"

    @property
    def only_loads(self) -> bool:
        return not self.messages

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id."""
        return replace(
            self.base_request(),
            messages=link_results(tuple(each.message() for each in self.messages or ())),
            tools=tuple(tool.tool() for tool in self.tools or ()),
        )
