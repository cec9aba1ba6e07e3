"""What all readers of other programs' conversations share: careful looks into values that may be
anything, and a tree of messages made of nodes that may be connected in any way."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.chat.history.records import connected
from localllm.chat.history.titles import MAX_TITLE, shortened
from localllm.core.text import single_line
from localllm.engine.messages import Role

MAX_MESSAGES = 20_000
"""Of one conversation; more are left out."""
MAX_TEXT = 2**22
"""Characters of one message; more are cut off."""

_ROLES = {
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
}
_MILLISECONDS_FROM = 1e11
"""A larger number is no time in seconds: it would be in the year 5138."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A message as another program has it; `message` None: one that is not taken over, but others
    follow it."""

    id: str
    parent: str | None
    message: ChatMessage | None


def mapping(value: object) -> Mapping[str, object]:
    """Return an object of JSON, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """Return a list of JSON, an empty one for anything else."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """Return a text, "" for anything else, cut where it is too long."""
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def time_s(value: object) -> float:
    """Return a time as Unix time: seconds, milliseconds, or a date with time (ISO 8601). 0.0 for
    anything else."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        try:
            return max(0.0, when.timestamp())
        except (OverflowError, ValueError):
            return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        seconds = float(value)
    except OverflowError:
        return 0.0
    if not math.isfinite(seconds) or seconds < 0:
        return 0.0
    return seconds / 1000 if seconds > _MILLISECONDS_FROM else seconds


def message(  # the parts of a message
    *,
    key: str,
    role: object,
    body: str,
    created: object = None,
    model: object = None,
    reasoning: str = "",
    attachments: Iterable[Attachment] = (),
) -> ChatMessage | None:
    """Make a message; None for one of another role, or without anything in it."""
    known = _ROLES.get(role) if isinstance(role, str) else None
    files = tuple(attachments)
    if known is None or not (body.strip() or files):
        return None
    return ChatMessage(
        id=made_id(key),
        role=known,
        text=body[:MAX_TEXT],
        created_s=time_s(created),
        model=single_line(text(model))[:200] if known is Role.ASSISTANT else "",
        reasoning=reasoning[:MAX_TEXT],
        attachments=files,
    )


def joined(parts: Iterable[str]) -> str:
    """Join the texts of a message's parts."""
    return "\n\n".join(part for part in parts if part.strip())[:MAX_TEXT]


def chain(messages: Iterable[ChatMessage | None]) -> tuple[Node, ...]:
    """Return the nodes of messages of which each follows the one before it."""
    nodes: list[Node] = []
    for each in messages:
        if each is not None:
            parent = nodes[-1].id if nodes else None
            nodes.append(Node(id=each.id, parent=parent, message=each))
    return tuple(nodes)


def conversation(
    *,
    key: str,
    title: object,
    nodes: Sequence[Node],
    leaf: str | None = None,
    created: object = None,
    updated: object = None,
    pinned: object = False,
) -> Conversation | None:
    """Make a conversation of nodes, whatever their order and parents; None without messages. It has
    the same id each time that it is made of the same `key`."""
    messages, ids = _in_order(nodes)
    if not messages:
        return None
    last = ids.get(leaf) if leaf is not None else None
    made = connected(messages, last or messages[-1].id)
    model = next((each.model for each in reversed(messages) if each.model), "")
    times = [each.created_s for each in messages if each.created_s]
    created_s = time_s(created) or (min(times) if times else 0.0)
    return replace(
        made,
        id=made_id(key),
        title=shortened(single_line(text(title)[:1000]), 2 * MAX_TITLE),
        pinned=pinned is True,
        created_s=created_s,
        updated_s=time_s(updated) or (max(times) if times else created_s),
        model=model,
    )


def made_id(key: str) -> str:
    """Make an id of our form of what names a thing elsewhere."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]


def _in_order(nodes: Sequence[Node]) -> tuple[tuple[ChatMessage, ...], dict[str, str | None]]:
    """Return the messages, parents first, each with the nearest message before it as its parent;
    and for each node the id of the message at it or before it."""
    by_id = {node.id: node for node in nodes}
    children: dict[str | None, list[Node]] = {}
    for node in by_id.values():
        parent = node.parent if node.parent in by_id and node.parent != node.id else None
        children.setdefault(parent, []).append(node)
    found: list[ChatMessage] = []
    ids: dict[str, str | None] = {}
    waiting: list[tuple[Node, str | None]] = [(n, None) for n in reversed(children.get(None, []))]
    while waiting and len(found) < MAX_MESSAGES:
        node, before = waiting.pop()
        if node.message is not None:
            found.append(replace(node.message, parent=before))
            before = node.message.id
        ids[node.id] = before
        waiting.extend((child, before) for child in reversed(children.get(node.id, [])))
    return tuple(found), ids
