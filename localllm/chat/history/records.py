"""A conversation as records that are appended when it changes, and back.

A record says what changed and nothing else: a message that is new or another, text that an answer
has grown by, messages that were taken out, the title and what else there is one of. So a growing
answer costs its own length and not its square, and two windows can append to one conversation: its
messages have ids of their own, and the versions of both are kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import msgspec

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.settings import ChatSettings
from localllm.errors import DamagedData
from localllm.translation import _

T = TypeVar("T")

VERSION = 1


class HeadRecord(msgspec.Struct, frozen=True, kw_only=True, tag="head"):
    """What there is one of, but for the settings."""

    version: int = VERSION
    title: str = ""
    folder: str = ""
    pinned: bool = False
    created_s: float = 0.0
    updated_s: float = 0.0
    model: str = ""
    leaf: str | None = None
    draft: str = ""


class SettingsRecord(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    settings: ChatSettings


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """A new message, or another one of the same id."""

    message: ChatMessage


class GrowthRecord(msgspec.Struct, frozen=True, kw_only=True, tag="growth"):
    """Text that was added to a message whose text and reasoning had these lengths."""

    id: str
    text_length: int
    text: str
    reasoning_length: int = 0
    reasoning: str = ""


class RemovalRecord(msgspec.Struct, frozen=True, kw_only=True, tag="removal"):
    ids: tuple[str, ...]


Record = HeadRecord | SettingsRecord | MessageRecord | GrowthRecord | RemovalRecord

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """Return the bytes of a record. Half a surrogate pair, which no UTF-8 has, becomes U+FFFD."""
    try:
        return _ENCODER.encode(record)
    except UnicodeEncodeError:
        return _ENCODER.encode(_without_surrogates(record))


def decode(data: bytes) -> Record:
    """Return the record. Raises DamagedData for one of a version that is not known."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError):
        raise DamagedData(_("A record was written by another version of localllm.")) from None


def changes(before: Conversation, after: Conversation, kept: Conversation) -> Iterator[Record]:
    """Yield what has to be appended so that `after` is kept.

    `before` is what this window has kept last, and `kept` is what the file holds, which may have
    messages of another window too: those stay.
    """
    if removed := {each.id for each in before.messages} - {each.id for each in after.messages}:
        present = {each.id for each in kept.messages}
        if gone := tuple(sorted(removed & present)):
            yield RemovalRecord(ids=gone)
    known = {each.id: each for each in kept.messages}
    own = {each.id: each for each in before.messages}
    for message in after.messages:
        there = known.get(message.id)
        if message is there or message == there:
            continue
        if there is None and message.id in own and message == own[message.id]:
            continue  # another window has removed it
        yield _growth(there, message) or MessageRecord(message=message)
    if (settings := after.settings) != kept.settings and settings != before.settings:
        yield SettingsRecord(settings=settings)
    if (head := _merged(_head(before), _head(after), _head(kept))) != _head(kept):
        yield head


def all_records(conversation: Conversation) -> Iterator[Record]:
    """Yield the records of the whole conversation, without what was changed and removed."""
    yield SettingsRecord(settings=conversation.settings)
    for message in conversation.messages:
        yield MessageRecord(message=message)
    yield _head(conversation)


def apply(conversation: Conversation, records: Iterable[Record]) -> Conversation:
    """Return the conversation with the changes that records say."""
    messages = {each.id: each for each in conversation.messages}
    settings, head = conversation.settings, _head(conversation)
    for record in records:
        match record:
            case MessageRecord():
                messages[record.message.id] = record.message
            case GrowthRecord(id=message_id) if message_id in messages:
                messages[message_id] = _grown(messages[message_id], record)
            case RemovalRecord():
                for message_id in record.ids:
                    messages.pop(message_id, None)
            case SettingsRecord():
                settings = record.settings
            case HeadRecord():
                head = record
    return replace(
        connected(tuple(messages.values()), head.leaf),
        id=conversation.id,
        title=head.title,
        folder=head.folder,
        pinned=head.pinned,
        created_s=head.created_s,
        updated_s=head.updated_s,
        model=head.model,
        draft=head.draft,
        settings=settings,
    )


def connected(messages: tuple[ChatMessage, ...], leaf: str | None) -> Conversation:
    """Return a conversation of messages that may come from anywhere: one that follows a message
    that is not before it follows the one that is, and of equal ids the first one counts."""
    seen: dict[str, ChatMessage] = {}
    before: str | None = None
    for message in messages:
        if message.id in seen:
            continue
        parent = message.parent if message.parent is None or message.parent in seen else before
        seen[message.id] = message if parent == message.parent else replace(message, parent=parent)
        before = message.id
    if leaf is not None and leaf not in seen:
        leaf = before
    return Conversation(messages=tuple(seen.values()), leaf=leaf)


def _head(conversation: Conversation) -> HeadRecord:
    return HeadRecord(
        title=conversation.title,
        folder=conversation.folder,
        pinned=conversation.pinned,
        created_s=conversation.created_s,
        updated_s=conversation.updated_s,
        model=conversation.model,
        leaf=conversation.leaf,
        draft=conversation.draft,
    )


def _merged(before: HeadRecord, after: HeadRecord, kept: HeadRecord) -> HeadRecord:
    """Return what is kept with what this window has changed."""
    names = HeadRecord.__struct_fields__
    changed = {
        name: getattr(after, name)
        for name in names
        if getattr(after, name) != getattr(before, name)
    }
    return msgspec.structs.replace(kept, **changed)


def _growth(there: ChatMessage | None, message: ChatMessage) -> GrowthRecord | None:
    """Return what the text has grown by, when nothing else is different."""
    if there is None or not message.text.startswith(there.text):
        return None
    if not message.reasoning.startswith(there.reasoning):
        return None
    if replace(there, text=message.text, reasoning=message.reasoning) != message:
        return None
    return GrowthRecord(
        id=message.id,
        text_length=len(there.text),
        text=message.text[len(there.text) :],
        reasoning_length=len(there.reasoning),
        reasoning=message.reasoning[len(there.reasoning) :],
    )


def _grown(message: ChatMessage, record: GrowthRecord) -> ChatMessage:
    """Add text where it belongs; where a record before it is lost, what is there stays."""
    text, reasoning = message.text, message.reasoning
    if len(text) == record.text_length:
        text += record.text
    if len(reasoning) == record.reasoning_length:
        reasoning += record.reasoning
    return replace(message, text=text, reasoning=reasoning)


def _without_surrogates(value: T) -> T:
    """Replace half surrogate pairs in all texts of a record."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(map(_without_surrogates, value))  # type: ignore[return-value]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        return msgspec.structs.replace(
            value, **{name: _without_surrogates(getattr(value, name)) for name in names}
        )
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            each.name: _without_surrogates(getattr(value, each.name)) for each in fields(value)
        }
        return replace(value, **changed)
    return value
