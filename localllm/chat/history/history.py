"""The conversations of the app, kept as the person chose: not at all, until the app ends, or on the
disk, encrypted.

Before somebody was asked, and while the disk is locked, they are in memory, and move to the disk
when that is possible. Everything but `save` may wait for a disk, the system's keyring or scrypt:
call it in a thread.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from localllm.chat.conversation import Conversation, Ending
from localllm.chat.history.conversation_files import ConversationFiles
from localllm.chat.history.disk_store import DiskStore
from localllm.chat.history.memory_store import MemoryStore
from localllm.chat.history.store import ConversationStore, ConversationSummary, SearchHit, in_order
from localllm.engine.messages import Role
from localllm.errors import KeyUnavailable
from localllm.library.encryption.key_store import KeyStore, Protection
from localllm.library.encryption.locked_memory import forbid_core_dumps
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.policy.active import active_policy, require
from localllm.translation import _


class HistoryChoice(StrEnum):
    """How conversations are kept."""

    OFF = "off"
    MEMORY = "memory"
    DISK = "disk"


class History(ConversationStore):
    """The conversations, wherever they are.

    `choice` None: nobody was asked yet. `days`: how long conversations on the disk are kept when
    they are not used, 0 for ever. `clock` is Unix time. `on_problem` is called from any thread with
    why conversations cannot be kept now, and with None when they can again; `on_first_answer` once,
    from `save`, when there is an answer and nobody was asked yet how to keep it.
    """

    def __init__(
        self,
        directory: Path,
        keys: KeyStore,
        *,
        choice: HistoryChoice | None = None,
        days: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = keys
        bounded = active_policy().bounded("history", choice)
        self.choice = None if bounded is None else HistoryChoice(str(bounded))
        self.on_problem: Callable[[str | None], object] = lambda _problem: None
        self.on_first_answer: Callable[[], object] = lambda: None
        self._is_to_ask = self.choice is None
        self._days = days
        self._clock = clock
        self._files = ConversationFiles(directory=directory, keys=keys)
        self._memory = MemoryStore()
        self._disk: DiskStore | None = None
        self._changed: dict[str, dict[str, str | bool]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of_this_user(cls, settings: Settings) -> "History":
        """Return the conversations of this user. Nothing is read before `start`."""
        return cls(
            paths.conversations_dir(),
            KeyStore(paths.encryption_keys_file()),
            choice=None if settings.history is None else HistoryChoice(settings.history),
            days=settings.history_days,
        )

    @classmethod
    def in_memory(cls) -> "History":
        """Return one that is kept until the app ends."""
        return cls.of_this_user(Settings(history=HistoryChoice.MEMORY.value))

    # --- how they are kept ---

    @property
    def is_on_disk(self) -> bool:
        """Tell whether conversations are kept on the disk now."""
        return self._disk is not None

    @property
    def is_locked(self) -> bool:
        """Tell whether conversations on the disk wait for their key."""
        return self.choice is HistoryChoice.DISK and self._disk is None

    @property
    def needs_passphrase(self) -> bool:
        """Tell whether a passphrase opens what is on the disk. Raises EncryptionError."""
        return self.keys.protection() is Protection.PASSPHRASE

    def start(self) -> None:
        """Open what is on the disk, where that is chosen and no passphrase is needed. Raises
        EncryptionError when it cannot be opened: conversations are in memory then."""
        if self.is_locked and not self.needs_passphrase:
            self._open_disk(None)

    def unlock(self, passphrase: str) -> None:
        """Open what is on the disk. Raises WrongPassphrase, EncryptionError."""
        if self.is_locked:
            self._open_disk(passphrase)

    def choose(self, choice: HistoryChoice, passphrase: str | None = None) -> None:
        """Keep conversations in this way from now on, those of this session too. What is on the
        disk stays there: `erase_all` erases it.

        DISK: `passphrase` opens the keys from now on, or those there are; None: the system's
        keyring. Raises UsageError, EncryptionError, PolicyRefused, and then nothing has changed.
        """
        require(active_policy().allows_keeping(choice.value))
        if choice is HistoryChoice.DISK:
            was_open = self._disk is not None
            if not was_open:
                self._open_disk(passphrase)
            if passphrase is not None:
                if was_open or not self.needs_passphrase:
                    self.keys.change_protection(passphrase)
            elif was_open and self.needs_passphrase:
                self.keys.change_protection(None)
            self.choice = choice
            return
        with self._lock:
            disk, self._disk, self.choice = self._disk, None, choice
            if choice is HistoryChoice.OFF:
                self._memory = MemoryStore()
        if disk is not None:
            disk.close()
            self.keys.lock()

    def close(self) -> bool:
        """Write what is left; false when something could not be written."""
        with self._lock:
            disk, self._disk = self._disk, None
        done = True if disk is None else disk.close()
        self.keys.lock()
        return done

    # --- the store ---

    def list(self) -> tuple[ConversationSummary, ...]:
        disk = self._disk
        kept = () if disk is None else disk.list()
        return in_order([*self._memory.list(), *kept])

    def open(self, conversation_id: str) -> Conversation:
        return self._store_of(conversation_id).open(conversation_id)

    def save(self, conversation: Conversation) -> None:
        with self._lock:
            if self.choice is HistoryChoice.OFF:
                return
            if (changed := self._changed.get(conversation.id)) is not None:
                conversation = replace(conversation, **changed)  # type: ignore[arg-type]
            (self._disk or self._memory).save(conversation)
            asks = self._is_to_ask and self.choice is None and _is_answered(conversation)
            self._is_to_ask = self._is_to_ask and not asks
        if asks:
            self.on_first_answer()

    def ask_later(self) -> None:
        """Call `on_first_answer` with the next answer again."""
        self._is_to_ask = True

    def erase(self, conversation_id: str) -> None:
        self.erase_many([conversation_id])

    def search(self, text: str) -> Iterator[SearchHit]:
        yield from self._memory.search(text)
        if (disk := self._disk) is not None:
            yield from disk.search(text)

    # --- more of it ---

    def change(
        self,
        conversation_id: str,
        *,
        title: str | None = None,
        folder: str | None = None,
        pinned: bool | None = None,
    ) -> None:
        """Rename, put into a folder ("": none), pin. What is saved of the conversation afterwards
        keeps that. Raises NotFound, EncryptionError."""
        given = {"title": title, "folder": folder, "pinned": pinned}
        conversation = self.open(conversation_id)
        with self._lock:
            changed = self._changed.setdefault(conversation_id, {})
            changed |= {name: value for name, value in given.items() if value is not None}
        self.save(conversation)

    def keep_draft(self, conversation: Conversation, draft: str) -> None:
        """Keep what is typed in a conversation and not sent ("": nothing), where conversations are
        kept on the disk. Raises EncryptionError."""
        if (disk := self._disk) is None:
            return
        with self._lock:
            self._changed.setdefault(conversation.id, {})["draft"] = draft
        if conversation.messages or draft:
            self.save(conversation)
        else:
            disk.discard(conversation.id)

    def folders(self) -> tuple[str, ...]:
        """Return the names of all folders."""
        return tuple(sorted({each.folder for each in self.list()} - {""}, key=str.casefold))

    def erase_many(self, ids: Iterable[str]) -> None:
        """Erase conversations for good. Raises EncryptionError."""
        gone = tuple(ids)
        for each in gone:
            self._memory.erase(each)
        if (disk := self._disk) is not None:
            disk.erase_many(gone)

    def erase_all(self) -> None:
        """Erase every conversation, also those on a disk that is locked. Raises EncryptionError."""
        for summary in self._memory.list():
            self._memory.erase(summary.id)
        if (disk := self._disk) is not None:
            disk.erase_all()
        else:
            self._files.erase_all()

    def destroy(self) -> None:
        """Erase every conversation, and the keys of everything that is kept encrypted. Needs no
        passphrase. Raises EncryptionError."""
        with self._lock:
            disk, self._disk = self._disk, None
            self._memory = MemoryStore()
        if disk is not None:
            disk.erase_all()
            disk.close()
        else:
            self._files.erase_all()
        self.keys.destroy()

    def add(self, conversations: Iterable[Conversation]) -> int:
        """Keep many conversations from elsewhere, but for those that are there already, and return
        how many are new. Raises EncryptionError."""
        known = {each.id for each in self.list()}
        new = [each for each in conversations if each.id not in known]
        if (disk := self._disk) is not None:
            disk.save_new(new)
        else:
            for each in new:
                self.save(each)
        return len(new)

    def flush(self) -> bool:
        """Wait until everything is written; false when it cannot be."""
        disk = self._disk
        return True if disk is None else disk.flush()

    def problems(self) -> tuple[tuple[str, str], ...]:
        """Return the ids of conversations that are damaged, and what is wrong with each."""
        disk = self._disk
        return () if disk is None else disk.problems()

    def size_bytes(self) -> int:
        """Return what the conversations take on the disk. Raises EncryptionError."""
        return sum(status.st_size for _name, status in self._files.listed())

    def count_in_memory(self) -> int:
        """Return how many conversations end with the app."""
        return len(self._memory.all())

    def count_on_disk(self) -> int:
        """Return how many conversations lie on the disk, open or locked. Raises EncryptionError."""
        return sum(1 for _ in self._files.listed())

    # --- inside ---

    def _open_disk(self, passphrase: str | None) -> None:
        require(active_policy().allows_keeping(HistoryChoice.DISK.value))
        if self.keys.exists():
            if not self.keys.is_unlocked:
                self.keys.unlock(passphrase)
        elif self.count_on_disk():
            raise KeyUnavailable(
                _(
                    "The keys of the conversations on this disk are gone: nobody can read them. "
                    "Erase them all to begin again."
                )
            )
        else:
            self.keys.create(passphrase)
        forbid_core_dumps()
        disk = DiskStore(self._files, clock=self._clock, on_problem=self._report_problem)
        with self._lock:
            memory, self._memory = self._memory, MemoryStore()
            self._disk = disk
            for each in memory.all():
                disk.save(each)
        if self._days:
            disk.erase_expired(self._days)

    def _report_problem(self, problem: str | None) -> None:
        self.on_problem(problem)

    def _store_of(self, conversation_id: str) -> ConversationStore:
        disk = self._disk
        in_memory = any(each.id == conversation_id for each in self._memory.list())
        return self._memory if in_memory or disk is None else disk


def _is_answered(conversation: Conversation) -> bool:
    """Tell whether an answer stands at the end, and is not being written any more."""
    path = conversation.path()
    last = path[-1] if path else None
    return last is not None and last.role is Role.ASSISTANT and last.ending is not Ending.BROKEN
