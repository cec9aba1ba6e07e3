"""Conversations on the disk, encrypted.

`save` only notes what is to be kept; a thread writes it, at most once a second for one
conversation, so a crash costs at most the last second.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from localllm.chat.conversation import Conversation
from localllm.chat.history.conversation_files import ConversationFiles
from localllm.chat.history.index import IndexEntry, read_index, was_cut, write_index
from localllm.chat.history.search import Query, excerpt, searchable
from localllm.chat.history.store import (
    ConversationStore,
    ConversationSummary,
    SearchHit,
    in_order,
    summary_of,
)
from localllm.errors import EncryptionError, NotFound
from localllm.translation import _

WRITE_EVERY_S = 1.0
RETRY_S = 5.0
INDEX_EVERY_S = 60.0
DAY_S = 86_400.0
_MAX_SEARCHABLE_BYTES = 2**28


class DiskStore(ConversationStore):
    """The conversations of `files`, whose keys are unlocked.

    `on_problem` is called from another thread with why something cannot be kept now, and with None
    when it could be after all. `clock` is Unix time. Call `close` at the end.
    """

    def __init__(
        self,
        files: ConversationFiles,
        *,
        clock: Callable[[], float] = time.time,
        on_problem: Callable[[str | None], None] = lambda _problem: None,
    ) -> None:
        self._files = files
        self._clock = clock
        self._on_problem = on_problem
        self._disk = threading.RLock()  # the files and the entries
        self._changed = threading.Condition()  # what waits for the thread
        self._pending: dict[str, Conversation] = {}
        self._not_before: dict[str, float] = {}
        self._erased: set[str] = set()
        self._problem: str | None = None
        self._closing = False
        self._texts: dict[str, tuple[tuple[int, int], bytes]] = {}
        files.tidy()
        self._entries = read_index(files.index_file, files.index_cipher())
        self._index_changed_s: float | None = None
        self._thread = threading.Thread(target=self._write_changes, name="history", daemon=True)
        self._thread.start()

    # --- the store ---

    def list(self) -> tuple[ConversationSummary, ...]:
        with self._disk:
            self._scan()
            found = {name: each.summary for name, each in self._entries.items() if each.summary}
        with self._changed:
            found |= {name: summary_of(each) for name, each in self._pending.items()}
        return in_order([*found.values()])

    def open(self, conversation_id: str) -> Conversation:
        with self._disk:
            with self._changed:
                if (pending := self._pending.get(conversation_id)) is not None:
                    return pending
            return self._files.open(conversation_id)

    def save(self, conversation: Conversation) -> None:
        with self._changed:
            kept = bool(conversation.messages or conversation.draft)
            if kept and conversation.id not in self._erased:
                self._pending[conversation.id] = conversation
                self._changed.notify_all()

    def erase(self, conversation_id: str) -> None:
        self.erase_many([conversation_id])

    def search(self, text: str) -> Iterator[SearchHit]:
        query = Query.of(text)
        for summary in self.list():
            try:
                if query.matches(self._searchable(summary.id)):
                    message_id, found = excerpt(self._conversation(summary.id), query)
                    yield SearchHit(summary=summary, message_id=message_id, excerpt=found)
            except (NotFound, EncryptionError):
                continue  # erased meanwhile, or damaged: `problems` says so

    # --- more of it ---

    def problems(self) -> tuple[tuple[str, str], ...]:
        """Return the ids of conversations that are damaged, and what is wrong with each."""
        with self._disk:
            self._scan()
            return tuple(
                (name, each.problem) for name, each in self._entries.items() if each.problem
            )

    def size_bytes(self) -> int:
        """Return what the conversations take on the disk."""
        with self._disk:
            return sum(status.st_size for _name, status in self._files.listed())

    def erase_many(self, ids: Iterable[str]) -> None:
        """Erase conversations at once. Raises EncryptionError."""
        gone = set(ids)
        with self._disk:
            with self._changed:
                self._erased |= gone
                for each in gone:
                    self._pending.pop(each, None)
            self._files.erase(gone)
            for each in gone:
                self._entries.pop(each, None)
                self._texts.pop(each, None)
            self._write_index()

    def discard(self, conversation_id: str) -> None:
        """Erase a conversation that has become empty; it may be saved again. Raises
        EncryptionError."""
        with self._disk:
            with self._changed:
                self._pending.pop(conversation_id, None)
            if self._files.file(conversation_id).exists():
                self._files.erase({conversation_id})
                self._entries.pop(conversation_id, None)
                self._texts.pop(conversation_id, None)
                self._write_index()

    def erase_all(self) -> None:
        """Erase everything. Raises EncryptionError."""
        with self._disk:
            with self._changed:
                self._erased |= {*self._entries, *self._pending}
                self._pending.clear()
            self._files.erase_all()
            self._entries.clear()
            self._texts.clear()
            self._files.tidy()

    def save_new(self, conversations: Iterable[Conversation]) -> None:
        """Keep many conversations that are new, and wait for it. Raises EncryptionError."""
        with self._disk:
            new = [each for each in conversations if each.messages]
            self._files.write_new(new)
            for each in new:
                self._files.forget(each.id)
            self._index_changed_s = self._index_changed_s or time.monotonic()

    def erase_expired(self, days: int) -> int:
        """Erase what was not used for so many days, but for what is pinned, and return how many.

        What is found expired for the first time is erased a day later: a clock that is wrong for
        one start must not cost a conversation. Raises EncryptionError.
        """
        now = self._clock()
        with self._disk:
            self._scan()
            gone = []
            for name, entry in self._entries.items():
                summary = entry.summary
                if summary is None:
                    continue
                expired = not summary.pinned and summary.updated_s < now - days * DAY_S
                if expired and entry.expired_s is not None and now - entry.expired_s >= DAY_S:
                    gone.append(name)
                since = entry.expired_s if expired and entry.expired_s is not None else None
                first = now if expired and (since is None or since > now) else since
                self._note(name, entry, expired_s=first)
            if gone:
                self.erase_many(gone)
            return len(gone)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything is written; false when it is not."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._not_before.clear()
            self._changed.notify_all()
            while self._pending:
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Write what is left and end; false when something could not be written."""
        done = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._disk:
            if self._index_changed_s is not None:
                self._try_to_write_index()
        self._texts.clear()
        return done

    # --- the thread ---

    def _write_changes(self) -> None:
        while True:
            with self._changed:
                due = self._due()
                while not due and not self._closing:
                    self._changed.wait(self._wait_s())
                    due = self._due()
                if self._closing and not due:
                    return
            for conversation in due:
                self._write(conversation)
            if self._problem is None:
                self._write_index_sometimes()

    def _due(self) -> tuple[Conversation, ...]:
        now, start = time.monotonic(), self._not_before
        return tuple(each for each in self._pending.values() if start.get(each.id, 0.0) <= now)

    def _wait_s(self) -> float | None:
        if not self._pending:
            return None
        first = min(self._not_before.get(each, 0.0) for each in self._pending)
        return max(0.0, first - time.monotonic())

    def _write(self, conversation: Conversation) -> None:
        problem, wait_s = None, WRITE_EVERY_S
        with self._disk:
            if conversation.id in self._erased:
                return
            try:
                self._files.write(conversation)
                self._index_changed_s = self._index_changed_s or time.monotonic()
            except NotFound:
                problem = _("This chat was erased in another window. It is not kept any more.")
                self._erased.add(conversation.id)
            except EncryptionError as error:
                problem, wait_s = str(error), RETRY_S
        with self._changed:
            stays = problem is not None and conversation.id not in self._erased
            if not stays and self._pending.get(conversation.id) is conversation:
                del self._pending[conversation.id]
            if conversation.id in self._erased:
                self._pending.pop(conversation.id, None)
            self._not_before[conversation.id] = time.monotonic() + wait_s
            self._changed.notify_all()
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)

    # --- the list ---

    def _scan(self) -> None:
        """Bring the entries up to date with the files: of this window and of others."""
        there: set[str] = set()
        for name, status in self._files.listed():
            there.add(name)
            known = self._entries.get(name)
            stamp = (status.st_size, status.st_mtime_ns)
            if known is None or (known.size_bytes, known.changed_ns) != stamp:
                self._entries[name] = self._entry(name, known, *stamp)
                self._index_changed_s = self._index_changed_s or time.monotonic()
        for name in [each for each in self._entries if each not in there]:
            del self._entries[name]

    def _entry(
        self, name: str, known: IndexEntry | None, size_bytes: int, changed_ns: int
    ) -> IndexEntry:
        try:
            kept = self._files.read(name)
        except (NotFound, EncryptionError) as error:
            return IndexEntry(size_bytes=size_bytes, changed_ns=changed_ns, problem=str(error))
        problem = ""
        if kept.lost:
            problem = _("{count} of its changes are damaged").format(count=kept.lost)
        elif was_cut(known, kept.state.log_id, kept.state.next_number):
            problem = _("its end is missing: the file was cut")
        return IndexEntry(
            size_bytes=size_bytes,
            changed_ns=changed_ns,
            summary=summary_of(kept.conversation),
            log_id=kept.state.log_id,
            records=kept.state.next_number,
            problem=problem,
        )

    def _note(self, name: str, entry: IndexEntry, *, expired_s: float | None) -> None:
        if entry.expired_s != expired_s:
            self._entries[name] = msgspec.structs.replace(entry, expired_s=expired_s)
            self._index_changed_s = self._index_changed_s or time.monotonic()

    def _write_index_sometimes(self) -> None:
        with self._disk:
            changed_s = self._index_changed_s
            if changed_s is not None and time.monotonic() - changed_s >= INDEX_EVERY_S:
                self._try_to_write_index()

    def _try_to_write_index(self) -> None:
        try:
            self._scan()
            self._write_index()
        except (NotFound, EncryptionError):
            self._index_changed_s = None  # it is a cache: the next start reads the files instead

    def _write_index(self) -> None:
        write_index(self._files.index_file, self._files.index_cipher(), self._entries)
        self._index_changed_s = None

    # --- the search ---

    def _conversation(self, name: str) -> Conversation:
        with self._changed:
            if (pending := self._pending.get(name)) is not None:
                return pending
        with self._disk:
            return self._files.read(name).conversation

    def _searchable(self, name: str) -> bytes:
        """Return the folded text of a conversation, which is held for the next search."""
        with self._changed:
            pending = self._pending.get(name)
        if pending is not None:
            return searchable(pending)
        with self._disk:
            if (entry := self._entries.get(name)) is None:
                raise NotFound(_("It was erased meanwhile."))
            stamp = (entry.size_bytes, entry.changed_ns)
            held = self._texts.get(name)
            if held is not None and held[0] == stamp:
                return held[1]
            text = searchable(self._files.read(name).conversation)
            others = sum(len(each) for key, (_stamp, each) in self._texts.items() if key != name)
            if others + len(text) <= _MAX_SEARCHABLE_BYTES:
                self._texts[name] = (stamp, text)
            else:
                self._texts.pop(name, None)
            return text
