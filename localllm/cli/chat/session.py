"""The conversation of an invocation: in memory, or in the file that `--session` names.

The KV cache of a conversation with a file lies in a file of the cache
(`library/files/session_cache.py`) and may go at any time: then the prompt is computed again, which
takes longer and is all.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from localllm.chat.conversation import Conversation
from localllm.chat.history.store import ConversationStore
from localllm.chat.request import engine_messages
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.session_file import left_out_of, read_session, write_session
from localllm.cli.output import info
from localllm.core.units import format_bytes
from localllm.engine.messages import RestoreState, SaveState
from localllm.errors import EngineError, NotFound, StoreError, UsageError
from localllm.library.files import paths, settings
from localllm.library.files.names import printable
from localllm.library.files.session_cache import SessionCache
from localllm.policy.active import active_policy, require
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import _


class ChatSession:
    """The conversation of this invocation, and where it is saved: in the file `path`, or in
    `store`; nowhere where both are None."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        path: Path | None = None,
        states: SessionCache | None = None,
        store: ConversationStore | None = None,
    ) -> None:
        self.conversation = conversation
        self.path = path
        self.store = store
        self._states = states
        self._saved = conversation
        self.restored_tokens: int | None = None

    def announce(self) -> None:
        """Say on stderr which conversation goes on."""
        if self.path is not None and (messages := len(self.conversation.path())):
            text = _("Going on with {path}: {count} messages.")
            info(text.format(path=printable(self.path), count=messages))

    def clear(self) -> None:
        """Start over with the same settings. Raises StoreError."""
        self.conversation = Conversation(settings=self.conversation.settings)
        self.save()

    def save(self) -> None:
        """Save the conversation, if it changed and there is a place for it. Raises StoreError."""
        self.save_to_store()
        if self.path is None or self.conversation == self._saved:
            return
        write_session(self.path, self.conversation)
        self._saved = self.conversation

    def save_to_store(self) -> None:
        """Hand the conversation to the store, if it is not kept in a file; returns at once."""
        if self.path is None and self.store is not None:
            self.store.save(self.conversation)

    async def restore_state(self, runtime: Runtime, resident: ResidentModel) -> str:
        """Load the KV cache of the conversation; the result says in words what came of that."""
        if self.path is None or not self.conversation.messages:
            return ""
        if self._states is None:
            return _("nothing restored: the session cache is off")
        try:
            file = self._states.file(self.path, resident.model.path)
            request = RestoreState(path=str(file), key=self._states.key())
            restored = await runtime.restore_state(resident.model.name, request)
        except (EngineError, NotFound, StoreError) as error:
            return _("nothing restored: {reason}").format(reason=error)
        self._states.touch(file)
        self.restored_tokens = restored.tokens
        return _("restored {count} tokens").format(count=f"{restored.tokens:,}")

    async def save_state(self, runtime: Runtime, resident: ResidentModel) -> str:
        """Save the KV cache of the conversation; the result says in words what came of that."""
        if self.path is None or self._states is None or not self.conversation.messages:
            return ""
        try:
            file = self._states.file(self.path, resident.model.path)
            request = SaveState(
                path=str(file),
                messages=engine_messages(
                    self.conversation, left_out=left_out_of(self.conversation)
                ),
                key=self._states.key(),
                thinking=self.conversation.settings.thinking,
                max_bytes=self._states.limit_bytes,
            )
            saved = await runtime.save_state(resident.model.name, request)
        except (EngineError, NotFound, StoreError) as error:
            return _("nothing kept: {reason}").format(reason=error)
        self._states.touch(file)
        return _("kept {count} tokens in {size}").format(
            count=f"{saved.tokens:,}", size=format_bytes(saved.size_bytes)
        )


@contextlib.contextmanager
def open_session(
    path: Path | None, *, settings_given: ChatSettings, cached: bool
) -> Iterator[ChatSession]:
    """Open the session in this file, which may not exist yet; None: one that is not saved.

    `settings_given` are those of the command line; without a system prompt among them the file's
    own holds. `cached`: its KV cache is saved too, if the settings allow it.
    Raises UsageError for a file that is no session, StoreError
    for one that cannot be read or is open elsewhere, PolicyRefused where nothing is kept.
    """
    if path is None:
        yield ChatSession(Conversation(settings=settings_given))
        return
    require(active_policy().allows_keeping("disk"))
    path = paths.absolute(path)
    if not path.parent.is_dir():
        message = _("There is no directory {path} for --session.")
        raise UsageError(message.format(path=printable(path.parent)))
    limit = settings.load().session_cache_bytes if cached else 0
    states = SessionCache.default(limit) if limit else None
    with states.locked(path) if states is not None else contextlib.nullcontext():
        stored = read_session(path)
        session = ChatSession(stored, path=path, states=states)
        system = settings_given.system or stored.settings.system
        session.conversation = replace(stored, settings=replace(settings_given, system=system))
        yield session
