"""Anthropic's turns as the engine's messages. Pure.

Anthropic joins turns of one role, has no role for the results of tools, which stand at the
beginning of a user's turn, and keeps the system prompt apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Message, Role, ToolCall
from localllm.server.dialects.anthropic.content import (
    Block,
    BlockItems,
    InnerBlock,
    LeafBlock,
    as_blocks,
)
from localllm.server.generation.history import MAX_ITEMS, MAX_PARTS, link_results
from localllm.server.generation.request import join_content
from localllm.server.schema import RequestModel, field_error

_BILLING = "x-anthropic-billing-header:"
"""What Claude Code 2.1 writes at the beginning of a system prompt for Anthropic's accounting. It is
another one in each request (`cch=`), so behind it nothing would be found in the cache."""

_MAX_NAMED = 8


class MessageParam(RequestModel):
    """One turn. A system message between turns is one of newer APIs."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BlockItems, BeforeValidator(as_blocks)]

    @field_validator("content")
    @classmethod
    def _of_its_role(cls, value: list[Block], info: ValidationInfo) -> list[Block]:
        if info.data.get("role") != "user" and any(block.has_image for block in value):
            raise field_error("invalid_value", "has an image, which belongs to a user's message")
        return value


def _only_texts(value: list[LeafBlock]) -> list[LeafBlock]:
    if any(block.type == "image" for block in value):
        raise field_error("invalid_value", "has an image, which belongs to a user's message")
    return value


def _not_too_many(value: object) -> object:
    """Refuse messages whose blocks would take seconds to check, before any is looked at."""
    blocks = 0
    for message in value if isinstance(value, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            inner = block.get("content") if isinstance(block, dict) else None
            blocks += 1 + (len(inner) if isinstance(inner, list) else 0)
    if blocks > MAX_PARTS:
        raise field_error("invalid_value", "hold more than {most} blocks together", most=MAX_PARTS)
    return value


MessageParams = Annotated[
    list[MessageParam],
    Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(_not_too_many),
]
SystemParam = Annotated[
    Annotated[list[LeafBlock], BlockItems, AfterValidator(_only_texts)],
    BeforeValidator(as_blocks),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The engine's messages, and sentences about what was left out."""

    messages: tuple[Message, ...]
    warnings: tuple[str, ...] = ()


def conversation(system: Sequence[LeafBlock], turns: Sequence[MessageParam]) -> Conversation:
    """Make the engine's messages of a system prompt and turns."""
    messages: list[Message] = []
    prompt = "\n".join(_system_texts(system))
    if prompt:
        messages.append(Message(role=Role.SYSTEM, content=prompt))
    for role, group in groupby(turns, key=lambda turn: turn.role):
        blocks = [block for turn in group for block in turn.content]
        match role:
            case "assistant":
                messages.append(_answer(blocks))
            case "system":
                text, _ = join_content(part for block in blocks for part in block.parts())
                messages.append(Message(role=Role.SYSTEM, content=text))
            case _:
                messages += _question(blocks)
    return Conversation(messages=link_results(messages), warnings=tuple(_warnings(system, turns)))


def _system_texts(blocks: Iterable[LeafBlock]) -> Iterator[str]:
    for block in blocks:
        text = block.text or ""
        if text.startswith(_BILLING):
            text = text.partition("\n")[2]
        if text:
            yield text


def _answer(blocks: Sequence[Block]) -> Message:
    text, _ = join_content(part for block in blocks for part in block.parts())
    thoughts = [block.thinking for block in blocks if isinstance(block.thinking, str)]
    calls = tuple(
        ToolCall(id=_text(block.id), name=block.name or "", arguments=block.input)
        for block in blocks
        if block.type == "tool_use"
    )
    return Message(
        role=Role.ASSISTANT,
        content=text,
        tool_calls=calls,
        reasoning="".join(thoughts) or None,
    )


def _question(blocks: Sequence[Block]) -> Iterator[Message]:
    """Yield the results of a user's turn, then the rest of it: a result follows its call."""
    results = [block for block in blocks if block.type == "tool_result"]
    for block in results:
        text, images = join_content(block.result())
        yield Message(
            role=Role.TOOL,
            content=text,
            images=images,
            tool_call_id=_text(block.tool_use_id) or None,
        )
    text, images = join_content(
        part for block in blocks if block.type != "tool_result" for part in block.parts()
    )
    if text or images or not results:
        yield Message(role=Role.USER, content=text, images=images)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _warnings(system: Sequence[LeafBlock], turns: Sequence[MessageParam]) -> Iterator[str]:
    blocks: list[LeafBlock] = [*system, *(block for turn in turns for block in turn.content)]
    for turn in turns:
        for block in turn.content:
            blocks += block.content or ()
    unknown = dict.fromkeys(block.type[:64] for block in blocks if not block.known)
    if unknown:
        named = ", ".join(list(unknown)[:_MAX_NAMED])
        yield f"Content blocks that have no meaning here were left out: {named}."
    if any(isinstance(block, InnerBlock) and block.wants_citations for block in blocks):
        yield "Answers have no citations here."
