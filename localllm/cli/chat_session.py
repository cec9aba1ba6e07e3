"""A conversation of `run`: in memory, or in the file that `--session` names.

The file holds the messages and is the user's. The KV cache of them lies in a file of the cache
(`library/files/session_cache.py`) and may go at any time: then the prompt is computed again, which
takes longer and is all.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from localllm.cli.answer import Answer
from localllm.cli.output import info
from localllm.core.text import truncation_notice
from localllm.core.units import format_bytes
from localllm.engine.messages import Message, RestoreState, Role, SaveState, Thinking
from localllm.errors import EngineError, NotFound, StoreError, UsageError
from localllm.library.files import paths, settings
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.names import printable
from localllm.library.files.session_cache import SessionCache
from localllm.runtime.runtime import ResidentModel, Runtime

MAX_FILE_BYTES = 64 * 2**20
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The messages so far. The first `left_out` are not sent any more: the context has no room."""

    system: str | None = None
    messages: tuple[Message, ...] = ()
    left_out: int = 0

    def sent_messages(self, *more: Message) -> tuple[Message, ...]:
        """Return what the model is sent, without the system message."""
        return (*self.messages[self.left_out :], *more)

    def with_turn(self, question: Message, answer: Answer) -> "Conversation":
        """Add a turn. A question that got no answer is not part of it: the templates that insist
        on taking turns refuse two in a row."""
        dropped = answer.finished.dropped_messages if answer.finished is not None else 0
        shortened = replace(self, left_out=min(self.left_out + dropped, len(self.messages)))
        if not answer.text:
            return shortened
        reply = Message(
            role=Role.ASSISTANT, content=answer.text, reasoning=answer.reasoning or None
        )
        return replace(shortened, messages=(*shortened.messages, question, reply))


class ChatSession:
    """The conversation of this invocation, and where it is saved; `path` None: nowhere."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        path: Path | None = None,
        states: SessionCache | None = None,
    ) -> None:
        self.conversation = conversation
        self.path = path
        self._states = states
        self._saved = conversation
        self._warned: set[str] = set()
        self.restored_tokens: int | None = None

    def announce(self) -> None:
        """Say on stderr which conversation goes on."""
        if self.path is not None and (messages := len(self.conversation.messages)):
            info(f"Going on with {printable(self.path)}: {messages} messages.")

    def document(self, answer: Answer) -> dict[str, object]:
        """Return what `run --json` prints of a session that has a file."""
        if self.path is None:
            return {}
        done = answer.finished
        return {
            "session": {
                "restored_tokens": self.restored_tokens,
                "dropped_messages": done.dropped_messages if done is not None else None,
            }
        }

    def add_turn(self, question: Message, answer: Answer) -> None:
        """Add a turn, say what was done to the conversation to make it, and save. Raises
        StoreError."""
        for warning in answer.finished.warnings if answer.finished is not None else ():
            if warning not in self._warned:  # the next turn has it again
                info(warning)
                self._warned.add(warning)
        before = self.conversation.left_out
        self.conversation = self.conversation.with_turn(question, answer)
        dropped = self.conversation.messages[before : self.conversation.left_out]
        if turns := sum(message.role is Role.USER for message in dropped):
            info(truncation_notice(turns))
        self.save()

    def clear(self) -> None:
        """Start over with the same system message. Raises StoreError."""
        self.conversation = Conversation(system=self.conversation.system)
        self.save()

    def save(self) -> None:
        """Write the file, if there is one and the conversation changed. Raises StoreError."""
        if self.path is None or self.conversation == self._saved:
            return
        try:
            write_atomically(self.path, _encoded(self.conversation), private=True)
        except OSError as error:
            raise StoreError(
                f"{printable(self.path)} cannot be written: {error.strerror}."
            ) from error
        self._saved = self.conversation

    async def restore_state(self, runtime: Runtime, resident: ResidentModel) -> str:
        """Load the KV cache of the conversation; the result says in words what came of that."""
        if self.path is None or not self.conversation.messages:
            return ""
        if self._states is None:
            return "nothing restored: the session cache is off"
        try:
            file = self._states.file(self.path, resident.model.path)
            request = RestoreState(path=str(file), key=self._states.key())
            restored = await runtime.restore_state(resident.model.name, request)
        except (EngineError, NotFound, StoreError) as error:
            return f"nothing restored: {error}"
        self._states.touch(file)
        self.restored_tokens = restored.tokens
        return f"restored {restored.tokens:,} tokens"

    async def save_state(
        self, runtime: Runtime, resident: ResidentModel, thinking: Thinking
    ) -> str:
        """Save the KV cache of the conversation; the result says in words what came of that."""
        if self.path is None or self._states is None or not self.conversation.messages:
            return ""
        prompt = self.conversation.sent_messages()
        if self.conversation.system:
            prompt = (Message(role=Role.SYSTEM, content=self.conversation.system), *prompt)
        try:
            file = self._states.file(self.path, resident.model.path)
            request = SaveState(
                path=str(file),
                messages=prompt,
                key=self._states.key(),
                thinking=thinking,
                max_bytes=self._states.limit_bytes,
            )
            saved = await runtime.save_state(resident.model.name, request)
        except (EngineError, NotFound, StoreError) as error:
            return f"nothing kept: {error}"
        self._states.touch(file)
        return f"kept {saved.tokens:,} tokens in {format_bytes(saved.size_bytes)}"


@contextlib.contextmanager
def open_session(path: Path | None, *, system: str | None, cached: bool) -> Iterator[ChatSession]:
    """Open the session in this file, which may not exist yet; None: one that is not saved.

    `system` replaces the file's own; `cached`: its KV cache is saved too, if the settings allow it.
    Raises UsageError for a file that is no session, StoreError
    for one that cannot be read or is open elsewhere.
    """
    if path is None:
        yield ChatSession(Conversation(system=system))
        return
    path = paths.absolute(path)
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {printable(path.parent)} for --session.")
    limit = settings.load().session_cache_bytes if cached else 0
    states = SessionCache.default(limit) if limit else None
    with states.locked(path) if states is not None else contextlib.nullcontext():
        stored = _read(path)
        session = ChatSession(stored, path=path, states=states)
        session.conversation = replace(stored, system=system or stored.system)
        yield session


class _StoredMessage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    role: Role
    content: str
    reasoning: str | None = None


class _StoredSession(msgspec.Struct, forbid_unknown_fields=True):
    localllm_session: int
    messages: list[_StoredMessage]
    system: str | None = None
    left_out: int = 0


def _encoded(conversation: Conversation) -> bytes:
    file = _StoredSession(
        localllm_session=_VERSION,
        messages=[
            _StoredMessage(role=each.role, content=each.content, reasoning=each.reasoning)
            for each in conversation.messages
        ],
        system=conversation.system,
        left_out=conversation.left_out,
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def _read(path: Path) -> Conversation:
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1) or b""
    except FileNotFoundError:
        return Conversation()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{printable(path)} cannot be read: {reason}.") from error
    try:
        stored = msgspec.json.decode(content, type=_StoredSession)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"{printable(path)} is not a session of localllm, and stays as it is: {error}."
        ) from error
    if stored.localllm_session != _VERSION or not 0 <= stored.left_out <= len(stored.messages):
        raise UsageError(
            f"{printable(path)} is a session of another version, or was changed by hand: its"
            f" version is {stored.localllm_session}, and {stored.left_out} of its"
            f" {len(stored.messages)} messages are left out."
        )
    messages = tuple(
        Message(role=each.role, content=each.content, reasoning=each.reasoning)
        for each in stored.messages
    )
    return Conversation(system=stored.system, messages=messages, left_out=stored.left_out)
