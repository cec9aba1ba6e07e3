"""The encrypted files of conversations: one log each, with a key of its own.

    chats/ID.log    the records of a conversation        chats/index    what the list shows
    chats/lock      is locked while a file is changed

Two windows may write to one conversation. Each append happens under the lock and behind what the
other has appended. Erasing a conversation erases its key first: from then on nobody can read the
file, wherever a copy of it may be.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localllm.chat.conversation import Conversation
from localllm.chat.history import records
from localllm.errors import DamagedData, EncryptionError, NotFound
from localllm.library.encryption.cipher import Cipher, place
from localllm.library.encryption.key_store import KeyStore, overwrite_and_delete
from localllm.library.encryption.record_log import LogState, append, is_at, new_log, read_log
from localllm.library.files.file_lock import locked
from localllm.translation import _

KEY_PREFIX = "chat/"
INDEX_KEY = "chats"
_ID = re.compile(r"[0-9a-f]{32}")
_SUFFIX = ".log"
_MANY_RECORDS = 64
"""A log is written anew when it has more records than this, and three times as many as messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptConversation:
    """A conversation as its file has it. `lost` counts damaged records, `is_torn`: the last one was
    not written to its end."""

    conversation: Conversation
    state: LogState
    lost: int = 0
    is_torn: bool = False


@dataclass(slots=True, kw_only=True)
class ConversationFiles:
    """The files in `directory`. All methods raise EncryptionError, and NotFound for a conversation
    that is not there (any more). To be called by one thread at a time."""

    directory: Path
    keys: KeyStore
    _kept: dict[str, KeptConversation] = field(default_factory=dict)
    _own: dict[str, Conversation] = field(default_factory=dict)

    def file(self, conversation_id: str) -> Path:
        """Return the file of a conversation. Raises NotFound for what is no id."""
        if not _ID.fullmatch(conversation_id):
            raise NotFound(_("There is no such conversation."))
        return self.directory / f"{conversation_id}{_SUFFIX}"

    def listed(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the ids and the status of all files."""
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    name = entry.name.removesuffix(_SUFFIX)
                    if entry.name.endswith(_SUFFIX) and _ID.fullmatch(name):
                        with contextlib.suppress(FileNotFoundError):
                            yield name, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise EncryptionError(
                _("{path} cannot be read: {reason}.").format(
                    path=self.directory, reason=error.strerror or error
                )
            ) from error

    def read(self, conversation_id: str) -> KeptConversation:
        """Read a conversation."""
        path = self.file(conversation_id)
        content = read_log(path, self._cipher(conversation_id), _place(conversation_id))
        read: list[records.Record] = []
        lost = content.lost
        for data in content.records:
            try:
                read.append(records.decode(data))
            except DamagedData:
                lost += 1
        return KeptConversation(
            conversation=records.apply(Conversation(id=conversation_id), read),
            state=content.state,
            lost=lost,
            is_torn=content.is_torn,
        )

    def open(self, conversation_id: str) -> Conversation:
        """Read a conversation that is then gone on with."""
        kept = self.read(conversation_id)
        self._kept[conversation_id] = kept
        self._own[conversation_id] = kept.conversation
        return kept.conversation

    def write(self, conversation: Conversation) -> None:
        """Keep what was changed since the last time. NotFound: another window has erased it."""
        with self._locked():
            kept = self._current(conversation.id)
            if kept is None:
                self._create([conversation])
                return
            before = self._own.get(conversation.id, Conversation(id=conversation.id))
            changed = list(records.changes(before, conversation, kept.conversation))
            if changed:
                self._kept[conversation.id] = self._append(kept, changed)
            self._own[conversation.id] = conversation

    def write_new(self, conversations: Iterable[Conversation]) -> None:
        """Keep many new conversations; their keys are written at once."""
        with self._locked():
            self._create(list(conversations))

    def forget(self, conversation_id: str) -> None:
        """Take a conversation out of the memory; it stays on the disk."""
        self._kept.pop(conversation_id, None)
        self._own.pop(conversation_id, None)

    def erase(self, ids: Iterable[str]) -> None:
        """Erase conversations, their keys first. Those that are not there are erased."""
        paths = {each: self.file(each) for each in ids}
        with self._locked():
            self.keys.erase_keys([*(KEY_PREFIX + each for each in paths), INDEX_KEY])
            self.keys.create_keys([INDEX_KEY])
            for conversation_id, path in paths.items():
                self.forget(conversation_id)
                _delete(path)

    def erase_all(self) -> None:
        """Erase all conversations and the index, also while the keys are locked: then the files
        alone, and the keys that are left over when they are unlocked next (`tidy`)."""
        with self._locked():
            paths = [self.file(each) for each, _status in self.listed()]
            if self.keys.is_unlocked:
                names = [name for name in self.keys.names() if name.startswith(KEY_PREFIX)]
                self.keys.erase_keys([*names, INDEX_KEY])
            for path in (*paths, self.index_file):
                _delete(path)
            self._kept.clear()
            self._own.clear()

    def tidy(self) -> None:
        """Erase keys of conversations that have no file, and make the key of the index."""
        with self._locked():
            there = {KEY_PREFIX + each for each, _status in self.listed()}
            names = {name for name in self.keys.names() if name.startswith(KEY_PREFIX)}
            self.keys.erase_keys(names - there)
            self.keys.create_keys([INDEX_KEY])

    @property
    def index_file(self) -> Path:
        return self.directory / "index"

    def index_cipher(self) -> Cipher:
        return self.keys.cipher(INDEX_KEY)

    # --- inside ---

    def _current(self, conversation_id: str) -> KeptConversation | None:
        """Return what the file holds; None when there is none yet. Called under the lock."""
        kept = self._kept.get(conversation_id)
        path = self.file(conversation_id)
        if kept is not None and is_at(path, kept.state):
            return kept
        if not path.exists():
            if kept is not None:
                self.forget(conversation_id)
                raise NotFound(_("It was erased in another window."))
            return None
        return self.read(conversation_id)

    def _create(self, conversations: list[Conversation]) -> None:
        self.keys.create_keys(KEY_PREFIX + each.id for each in conversations)
        for each in conversations:
            whole = [records.encode(record) for record in records.all_records(each)]
            path = self.file(each.id)
            state = new_log(path, whole, self._cipher(each.id), _place(each.id))
            self._kept[each.id] = KeptConversation(conversation=each, state=state)
            self._own[each.id] = each

    def _append(self, kept: KeptConversation, changed: list[records.Record]) -> KeptConversation:
        conversation = records.apply(kept.conversation, changed)
        cipher, at = self._cipher(conversation.id), _place(conversation.id)
        path = self.file(conversation.id)
        removes = any(isinstance(each, records.RemovalRecord) for each in changed)
        many = max(_MANY_RECORDS, 3 * len(conversation.messages))
        if removes or kept.state.next_number + len(changed) > many:
            whole = (records.encode(record) for record in records.all_records(conversation))
            state = new_log(path, whole, cipher, at)
        else:
            state = append(path, map(records.encode, changed), cipher, at, kept.state)
        return KeptConversation(conversation=conversation, state=state)

    def _cipher(self, conversation_id: str) -> Cipher:
        return self.keys.cipher(KEY_PREFIX + conversation_id)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.directory / "lock"):
                yield
        except EncryptionError:
            raise
        except OSError as error:  # another window that has it for long, too
            raise EncryptionError(
                _("Conversations cannot be kept in {path}: {reason}.").format(
                    path=self.directory, reason=error
                )
            ) from error


def _place(conversation_id: str) -> bytes:
    return place("conversation", conversation_id)


def _delete(path: Path) -> None:
    try:
        overwrite_and_delete(path)
    except OSError as error:
        reason = error.strerror or error
        message = _("{path} cannot be deleted: {reason}.").format(path=path, reason=reason)
        raise EncryptionError(message) from error
