"""A conversation of `run`: in memory, or in the file that `--session` names.

The file holds what was said and is the user's. What the model has computed of it lies in the cache
(`library/files/session_cache.py`) and may go at any time: then the conversation is read again,
which takes longer and is all.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec

from localllm.cli.answer import Answer
from localllm.core.text import truncation_notice
from localllm.core.units import format_bytes
from localllm.engine.messages import Message, RestoreState, Role, SaveState
from localllm.errors import EngineError, NotFound, StoreError, UsageError
from localllm.library.files import paths, settings
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.names import printable
from localllm.library.files.session_cache import SessionCache
from localllm.runtime.runtime import ResidentModel, Runtime

MAX_FILE_BYTES = 64 * 2**20
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What was said. The model is not told the first `left_out` messages any more: the context
    has no room for them."""

    system: str | None = None
    messages: tuple[Message, ...] = ()
    left_out: int = 0

    def told(self, *more: Message) -> tuple[Message, ...]:
        """The conversation for the model, without the system message."""
        return (*self.messages[self.left_out :], *more)

    def with_turn(self, question: Message, answer: Answer) -> "Talk":
        """What it is after an answer. A question that got none is not part of it: the templates
        that insist on taking turns refuse two in a row."""
        dropped = answer.finished.dropped_messages if answer.finished is not None else 0
        talk = replace(self, left_out=min(self.left_out + dropped, len(self.messages)))
        if not answer.text:
            return talk
        said = Message(role=Role.ASSISTANT, content=answer.text, reasoning=answer.reasoning or None)
        return replace(talk, messages=(*talk.messages, question, said))


class Session:
    """The conversation of this invocation."""

    def __init__(self, talk: Talk, *, path: Path | None = None, states: SessionCache | None = None):
        self.talk = talk
        self.path = path
        self._states = states
        self._written = talk
        self.restored_tokens: int | None = None

    def greet(self) -> None:
        """Say on stderr what is gone on with."""
        if self.path is not None and (messages := len(self.talk.messages)):
            click.echo(f"Going on with {printable(self.path)}: {messages} messages.", err=True)

    def document(self, answer: Answer) -> dict[str, object]:
        """What `run --json` prints of a session that is kept."""
        if self.path is None:
            return {}
        done = answer.finished
        return {
            "session": {
                "restored_tokens": self.restored_tokens,
                "dropped_messages": done.dropped_messages if done is not None else None,
            }
        }

    def answered(self, question: Message, answer: Answer) -> None:
        """Take up a turn, and say what was left out to make it. Raises StoreError."""
        before = self.talk.left_out
        self.talk = self.talk.with_turn(question, answer)
        gone = self.talk.messages[before : self.talk.left_out]
        if turns := sum(message.role is Role.USER for message in gone):
            click.echo(truncation_notice(turns), err=True)
        self.write()

    def start_over(self) -> None:
        self.talk = Talk(system=self.talk.system)
        self.write()

    def write(self) -> None:
        """Put what was said in the file, if there is one and it changed. Raises StoreError."""
        if self.path is None or self.talk == self._written:
            return
        try:
            write_atomically(self.path, _encoded(self.talk), private=True)
        except OSError as error:
            raise StoreError(
                f"{printable(self.path)} cannot be written: {error.strerror}."
            ) from error
        self._written = self.talk

    async def restore(self, runtime: Runtime, resident: ResidentModel) -> str:
        """Bring back what the model has computed of it; says what came of that."""
        if self.path is None or not self.talk.messages:
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

    async def keep(self, runtime: Runtime, resident: ResidentModel) -> str:
        """Keep what the model has computed of it; says what came of that."""
        if self.path is None or self._states is None or not self.talk.messages:
            return ""
        system = (Message(role=Role.SYSTEM, content=self.talk.system),) if self.talk.system else ()
        try:
            file = self._states.file(self.path, resident.model.path)
            request = SaveState(
                path=str(file),
                messages=(*system, *self.talk.told()),
                key=self._states.key(),
                max_bytes=self._states.limit_bytes,
            )
            saved = await runtime.save_state(resident.model.name, request)
        except (EngineError, NotFound, StoreError) as error:
            return f"nothing kept: {error}"
        self._states.touch(file)
        return f"kept {saved.tokens:,} tokens in {format_bytes(saved.size_bytes)}"


@contextlib.contextmanager
def opened(path: Path | None, *, system: str | None, cached: bool) -> Iterator[Session]:
    """The session in this file, which may not exist yet; None: one that is not kept.

    `system` replaces the file's own. Raises UsageError for a file that is no session, StoreError
    for one that cannot be read or is open elsewhere.
    """
    if path is None:
        yield Session(Talk(system=system))
        return
    path = paths.absolute(path)
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {printable(path.parent)} for --session.")
    limit = settings.load().session_cache_bytes if cached else 0
    states = SessionCache.default(limit) if limit else None
    with states.locked(path) if states is not None else contextlib.nullcontext():
        talk = _read(path)
        session = Session(talk, path=path, states=states)
        session.talk = replace(talk, system=system or talk.system)
        yield session


class _Said(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    role: Role
    content: str
    reasoning: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    localllm_session: int
    messages: list[_Said]
    system: str | None = None
    left_out: int = 0


def _encoded(talk: Talk) -> bytes:
    said = [
        _Said(role=message.role, content=message.content, reasoning=message.reasoning)
        for message in talk.messages
    ]
    file = _File(
        localllm_session=_VERSION, messages=said, system=talk.system, left_out=talk.left_out
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def _read(path: Path) -> Talk:
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1) or b""
    except FileNotFoundError:
        return Talk()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{printable(path)} cannot be read: {reason}.") from error
    try:
        found = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"{printable(path)} is not a session of localllm, and stays as it is: {error}."
        ) from error
    if found.localllm_session != _VERSION or not 0 <= found.left_out <= len(found.messages):
        raise UsageError(
            f"{printable(path)} is a session of another version, or was changed by hand: its"
            f" version is {found.localllm_session}, and {found.left_out} of its"
            f" {len(found.messages)} messages are left out."
        )
    messages = tuple(
        Message(role=said.role, content=said.content, reasoning=said.reasoning)
        for said in found.messages
    )
    return Talk(system=found.system, messages=messages, left_out=found.left_out)
