"""Conversations that are kept until the app ends: in memory, nothing is written."""

import threading
from collections.abc import Iterator

from localllm.chat.conversation import Conversation
from localllm.chat.history.search import Query, excerpt, searchable
from localllm.chat.history.store import (
    ConversationStore,
    ConversationSummary,
    SearchHit,
    in_order,
    summary_of,
)
from localllm.errors import NotFound
from localllm.translation import _


class MemoryStore(ConversationStore):
    """A store that ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conversations: dict[str, Conversation] = {}
        self._erased: set[str] = set()

    def list(self) -> tuple[ConversationSummary, ...]:
        return in_order([summary_of(each) for each in self.all()])

    def all(self) -> tuple[Conversation, ...]:
        """Return the conversations themselves."""
        with self._lock:
            return tuple(self._conversations.values())

    def open(self, conversation_id: str) -> Conversation:
        with self._lock:
            try:
                return self._conversations[conversation_id]
            except KeyError:
                raise NotFound(_("This conversation is not kept any more.")) from None

    def save(self, conversation: Conversation) -> None:
        with self._lock:
            if conversation.messages and conversation.id not in self._erased:
                self._conversations[conversation.id] = conversation

    def erase(self, conversation_id: str) -> None:
        with self._lock:
            self._erased.add(conversation_id)
            self._conversations.pop(conversation_id, None)

    def search(self, text: str) -> Iterator[SearchHit]:
        query = Query.of(text)
        for summary in self.list():
            conversation = self._conversations.get(summary.id)
            if conversation is not None and query.matches(searchable(conversation)):
                message_id, found = excerpt(conversation, query)
                yield SearchHit(summary=summary, message_id=message_id, excerpt=found)
