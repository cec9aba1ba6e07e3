"""The file of `run --session`: a conversation as JSON, which is the user's own.

Version 1 is a list of messages; it is written for every conversation that is one, so that an older
localllm reads it too. Version 2 holds what that list cannot: versions of questions and answers,
attached files, a title. Both are read. Of the settings only the system prompt is kept: the others
belong to the invocation.
"""

import os
from dataclasses import replace
from pathlib import Path

import msgspec

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.settings import ChatSettings
from localllm.core.units import format_bytes
from localllm.engine.messages import Role
from localllm.errors import StoreError, UsageError
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.names import printable
from localllm.translation import _

MAX_FILE_BYTES = 64 * 2**20
_LIST, _TREE = 1, 2


class _StoredMessage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    role: Role
    content: str
    reasoning: str | None = None


class _StoredList(msgspec.Struct, forbid_unknown_fields=True):
    localllm_session: int
    messages: list[_StoredMessage]
    system: str | None = None
    left_out: int = 0


class _StoredTree(msgspec.Struct, forbid_unknown_fields=True):
    localllm_session: int
    conversation: Conversation


class _Header(msgspec.Struct):
    localllm_session: int


def left_out_of(conversation: Conversation) -> int:
    """Count the questions that are not sent any more: the last answer had no room for them."""
    answers = (each for each in reversed(conversation.path()) if each.role is Role.ASSISTANT)
    return next((each.left_out for each in answers), 0)


def write_session(path: Path, conversation: Conversation) -> None:
    """Write the file. Raises StoreError."""
    content = encode_session(conversation)
    if len(content) > MAX_FILE_BYTES:
        raise StoreError(
            _(
                "The conversation has {size} with its files; {path} may have {limit}. It is kept "
                "as it was before."
            ).format(
                size=format_bytes(len(content)),
                path=printable(path),
                limit=format_bytes(MAX_FILE_BYTES),
            )
        )
    try:
        write_atomically(path, content, private=True)
    except OSError as error:
        message = _("{path} cannot be written: {reason}.")
        raise StoreError(message.format(path=printable(path), reason=error.strerror)) from error


def encode_session(conversation: Conversation) -> bytes:
    """Write a conversation as version 1 where that holds all of it, else as version 2."""
    plain = ChatSettings(system=conversation.settings.system)
    document = _as_list(conversation) or _StoredTree(
        localllm_session=_TREE, conversation=replace(conversation, settings=plain)
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _as_list(conversation: Conversation) -> _StoredList | None:
    """Return the conversation as version 1; None where it has more than messages one after
    another. A question that got no answer is not part of it."""
    path = _answered(conversation.path())
    rest = {each.id for each in conversation.messages} - {each.id for each in path}
    unanswered = {
        each.id
        for each in conversation.messages
        if each.role is Role.USER and not conversation.children(each.id)
    }
    more = conversation.title or conversation.folder or conversation.pinned
    if more or not rest <= unanswered or not all(map(_is_plain, path)):
        return None
    left_out = left_out_of(conversation)
    starts = [index for index, each in enumerate(path) if each.role is Role.USER]
    return _StoredList(
        localllm_session=_LIST,
        messages=[
            _StoredMessage(role=each.role, content=each.text, reasoning=each.reasoning or None)
            for each in path
        ],
        system=conversation.settings.system or None,
        left_out=starts[left_out] if left_out < len(starts) else len(path),
    )


def _answered(path: tuple[ChatMessage, ...]) -> list[ChatMessage]:
    """Drop the questions that are followed by no answer."""
    followed = {each.parent for each in path if each.role is not Role.USER}
    return [each for each in path if each.role is not Role.USER or each.id in followed]


def _is_plain(message: ChatMessage) -> bool:
    if message.role is Role.TOOL or message.tool_calls:
        return False
    return not (message.attachments or message.citations)


def read_session(path: Path) -> Conversation:
    """Read the file; an empty conversation where there is none.

    Raises StoreError for one that cannot be read, UsageError for one that is no session.
    """
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1) or b""
    except FileNotFoundError:
        return Conversation()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = _("{path} cannot be read: {reason}.")
        raise StoreError(message.format(path=printable(path), reason=reason)) from error
    try:
        version = msgspec.json.decode(content, type=_Header).localllm_session
        if version == _TREE:
            stored = msgspec.json.decode(content, type=_StoredTree).conversation
            if _is_whole(stored):
                return replace(stored, settings=ChatSettings(system=stored.settings.system))
        elif version == _LIST:
            document = msgspec.json.decode(content, type=_StoredList)
            if 0 <= document.left_out <= len(document.messages):
                return _from_list(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            _("{path} is not a session of localllm, and stays as it is: {reason}.").format(
                path=printable(path), reason=error
            )
        ) from error
    raise UsageError(
        _(
            "{path} is a session of another version (its version is {version}), or was changed by "
            "hand so that its messages do not belong together. It stays as it is."
        ).format(path=printable(path), version=version)
    )


def _from_list(stored: _StoredList) -> Conversation:
    conversation = Conversation(settings=ChatSettings(system=stored.system or ""))
    for each in stored.messages:
        message = ChatMessage(role=each.role, text=each.content, reasoning=each.reasoning or "")
        conversation = conversation.with_message(message, after=conversation.leaf)
    answers = [each for each in conversation.messages if each.role is Role.ASSISTANT]
    if stored.left_out and answers:
        gone = sum(each.role is Role.USER for each in stored.messages[: stored.left_out])
        conversation = conversation.with_changed(replace(answers[-1], left_out=gone))
    return conversation


def _is_whole(conversation: Conversation) -> bool:
    """Return True when every message follows one that stands before it, and the end is there."""
    known: set[str | None] = {None}
    for message in conversation.messages:
        if message.parent not in known or message.id in known:
            return False
        known.add(message.id)
    return conversation.leaf in known
