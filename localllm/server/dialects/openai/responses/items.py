"""The input of `/v1/responses`: items, which become the engine's conversation.

A turn of the assistant is several items there (its reasoning, its text, each of its calls) and one
message here. A history can always be sent back: items of tools that run at OpenAI are left out,
with a warning.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Message, Role, ToolCall
from localllm.server.dialects.openai.content_parts import (
    ContentPart,
    Items,
    read_parts,
    text_or_none,
    texts_in,
)
from localllm.server.dialects.openai.responses.tools import ResponseTools, ToolTable
from localllm.server.generation.history import MAX_ITEMS, MAX_PARTS, link_results
from localllm.server.generation.request import join_content
from localllm.server.generation.tools import CallArguments
from localllm.server.schema import RequestModel, field_error

T = TypeVar("T")

UNDERSTOOD = frozenset(
    {
        "message", "function_call", "function_call_output", "custom_tool_call",
        "custom_tool_call_output", "reasoning", "additional_tools", "item_reference",
    }
)  # fmt: skip
LEFT_OUT = frozenset(
    {
        "file_search_call", "computer_call", "computer_call_output", "web_search_call",
        "tool_search_call", "tool_search_output", "compaction", "compaction_summary",
        "compaction_trigger", "image_generation_call", "code_interpreter_call", "local_shell_call",
        "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call",
        "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request",
        "mcp_approval_response", "mcp_call", "program", "program_output", "ghost_snapshot",
    }
)  # fmt: skip
"""Items of tools and features that only OpenAI has, in a history of theirs."""

ENCODED_REASONING = "localllm:"
"""The beginning of our `encrypted_content`: the text of the reasoning follows. It never leaves this
machine, so that there is nothing to encrypt it against."""

_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def _check_type(value: str) -> str:
    if value == "item_reference":
        raise field_error("invalid_value", "refers to an item that this server does not have")
    if value == "configuration_update":  # left out, the answer would have another form
        raise field_error(
            "unsupported_parameter",
            "is not supported: send `reasoning` and `text` with each request",
        )
    if value not in UNDERSTOOD and value not in LEFT_OUT:
        raise field_error("invalid_value", "is no item that this server knows")
    return value


class ResponseItem(RequestModel):
    """One item, by its `type`; the fields of another type are not read.

    A message without a type is one. `reasoning` holds all that an item of that type says.
    """

    type: Annotated[str, AfterValidator(_check_type)]
    role: Annotated[
        Literal["system", "developer", "user", "assistant"] | None, Field(validate_default=True)
    ] = None
    content: Annotated[
        Annotated[list[ContentPart], Items] | None,
        BeforeValidator(read_parts, json_schema_input_type=str | list[ContentPart]),
        Field(validate_default=True),
    ] = None
    name: Annotated[str | None, Field(validate_default=True)] = None
    arguments: CallArguments = "{}"
    input: str | None = None
    call_id: Annotated[object, Field(validate_default=True)] = None
    output: Annotated[
        Annotated[list[ContentPart], Items] | None,
        BeforeValidator(read_parts, json_schema_input_type=str | list[ContentPart]),
        Field(validate_default=True),
    ] = None
    namespace: str | None = None
    tools: ResponseTools | None = None
    reasoning: object = None
    # Of what was: how an earlier answer ended, and who called.
    status: object = None
    phase: object = None
    caller: object = None
    execution: object = None
    async_: Annotated[object, Field(validation_alias="async")] = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, str):
            return {"type": "message", "role": "user", "content": value}
        if not isinstance(value, dict):
            return value
        type_ = value.get("type")
        if type_ is None:
            type_ = "item_reference" if value.keys() == {"id"} else "message"
        if isinstance(type_, str) and type_ in LEFT_OUT:
            return {"type": type_}
        if type_ == "reasoning":
            return {"type": type_, "reasoning": value}
        return {**value, "type": type_}

    @field_validator("role", "content", "name", "call_id", "output")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        type_, name = info.data.get("type"), info.field_name
        needed = (
            (type_ == "message" and name in ("role", "content"))
            or (type_ in ("function_call", "custom_tool_call") and name == "name")
            or (type_ in _OUTPUTS and name in ("call_id", "output"))
        )
        if needed and value is None:
            raise field_error("missing_required_parameter", "is required")
        if name == "content" and info.data.get("role") != "user" and _has_image(value):
            raise field_error("invalid_value", "has an image, which belongs to a user's message")
        return value

    @property
    def thought(self) -> str:
        """The reasoning of an item: its own text, else its summary."""
        fields = self.reasoning if isinstance(self.reasoning, dict) else {}
        encoded = fields.get("encrypted_content")
        if isinstance(encoded, str) and encoded.startswith(ENCODED_REASONING):
            return encoded.removeprefix(ENCODED_REASONING)
        spellings = (fields.get("content"), fields.get("summary"))
        return next((text for each in spellings if (text := "".join(texts_in(each)))), "")

    def call(self, table: ToolTable) -> ToolCall:
        arguments = self.arguments
        if self.type == "custom_tool_call":
            arguments = json.dumps({"input": self.input or ""}, ensure_ascii=False)
        return ToolCall(
            id=text_or_none(self.call_id) or "",
            name=table.engine_name(self.name or "", self.namespace),
            arguments=arguments,
        )


def _has_image(value: object) -> bool:
    return isinstance(value, list) and any(
        isinstance(part, ContentPart) and part.image_url is not None for part in value
    )


def _items(value: object) -> object:
    """Take a text as the message that it is; refuse what would take seconds to check."""
    if isinstance(value, str | dict):
        value = [value]
    parts = 0
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            lists = (item.get(name) for name in ("content", "output", "summary"))
            parts += sum(len(each) for each in lists if isinstance(each, list))
    if parts > MAX_PARTS:
        raise field_error("invalid_value", "holds more than {most} parts", most=MAX_PARTS)
    return value


ResponseItems = Annotated[
    list[ResponseItem],
    Field(max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_items, json_schema_input_type=str | list[ResponseItem]),
]


def left_out(items: Sequence[ResponseItem]) -> Iterator[str]:
    """Yield a warning for each type of items that the model does not see."""
    for type_ in sorted({item.type for item in items if item.type in LEFT_OUT}):
        yield f"Items of the type {type_} are left out: this server does not have what made them."


def messages_of(
    items: Sequence[ResponseItem], instructions: str | None, table: ToolTable
) -> tuple[Message, ...]:
    """Make the engine's conversation of all items, the instructions before them."""
    messages: list[Message] = []
    if instructions:
        messages.append(Message(role=Role.SYSTEM, content=instructions))
    turn: Message | None = None  # the assistant's, as far as its items have come
    for item in items:
        if item.type in LEFT_OUT or item.type == "additional_tools":
            continue
        message = _message(item)
        if turn is not None and (message is not None or not _continues(turn, item)):
            messages.append(turn)
            turn = None
        if message is not None:
            messages.append(message)
        else:
            turn = _grown(turn, item, table)
    if turn is not None:
        messages.append(turn)
    return link_results(messages)


def _continues(turn: Message, item: ResponseItem) -> bool:
    """Tell whether an item belongs to the assistant's turn before it: a text follows nothing but
    reasoning, reasoning that says something begins a turn, and calls follow anything."""
    match item.type:
        case "reasoning":
            return not item.thought
        case "message":
            return not turn.content and not turn.tool_calls
        case _:
            return True


def _grown(turn: Message | None, item: ResponseItem, table: ToolTable) -> Message | None:
    """Return the assistant's turn with an item of it."""
    base = turn or _EMPTY_TURN
    match item.type:
        case "reasoning":
            return replace(base, reasoning=item.thought) if item.thought else turn
        case "message":
            text, thought = _text_and_thought(item)
            return replace(base, content=text, reasoning=thought or base.reasoning)
        case _:
            return replace(base, tool_calls=(*base.tool_calls, item.call(table)))


_EMPTY_TURN = Message(role=Role.ASSISTANT, content="")


def _text_and_thought(item: ResponseItem) -> tuple[str, str]:
    parts = item.content or []
    text, _ = join_content(part.content for part in parts if part.type != "thinking")
    return text, "".join(each for part in parts for each in texts_in(part.thinking))


def _message(item: ResponseItem) -> Message | None:
    """Make the message of an item; None: it is the assistant's, who may have more of them."""
    if item.type in _OUTPUTS:
        text, images = join_content(part.content for part in item.output or ())
        call_id = text_or_none(item.call_id)
        return Message(role=Role.TOOL, content=text, images=images, tool_call_id=call_id)
    if item.type != "message" or item.role == "assistant":
        return None
    text, images = join_content(part.content for part in item.content or ())
    role = Role.USER if item.role == "user" else Role.SYSTEM
    return Message(role=role, content=text, images=images)
