"""What the app knows of a store of conversations, whether it is in memory or on a disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from localllm.chat.conversation import Conversation
from localllm.chat.history.titles import title_of
from localllm.engine.messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSummary:
    """What a list shows of a conversation. Times are Unix time.

    `title` is safe for a terminal. `questions` counts those on the branch that is shown, `branches`
    the ends of all branches: more than 1 says that something was asked again or edited.
    """

    id: str
    title: str
    folder: str
    pinned: bool
    created_s: float
    updated_s: float
    model: str
    questions: int
    branches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A conversation that has all words of a search. `message_id` is where the first of them
    stands, with the text around it (`excerpt`, one line); None: they are in the title."""

    summary: ConversationSummary
    message_id: str | None = None
    excerpt: str = ""


class ConversationStore(Protocol):
    """Where conversations are kept.

    `save` returns at once and may be called for every piece of a growing answer; all others read
    and may take a while: call them in a thread. All can be called from several threads.
    """

    def list(self) -> tuple[ConversationSummary, ...]:
        """Return all conversations, the pinned first, then those that were used last. Raises
        EncryptionError while they cannot be read."""

    def open(self, conversation_id: str) -> Conversation:
        """Return a conversation. Raises NotFound, or EncryptionError."""

    def save(self, conversation: Conversation) -> None:
        """Keep a conversation as it is now. One without messages is not kept, nor one that was
        erased."""

    def erase(self, conversation_id: str) -> None:
        """Erase a conversation for good. Raises EncryptionError when it is still there."""

    def search(self, text: str) -> Iterator[SearchHit]:
        """Yield the conversations that have all words of the text, as they are found, in the order
        of `list`. Raises EncryptionError."""


def summary_of(conversation: Conversation) -> ConversationSummary:
    """Return what a list shows of a conversation."""
    parents = {message.parent for message in conversation.messages}
    return ConversationSummary(
        id=conversation.id,
        title=title_of(conversation),
        folder=conversation.folder,
        pinned=conversation.pinned,
        created_s=conversation.created_s,
        updated_s=conversation.updated_s,
        model=conversation.model,
        questions=sum(message.role is Role.USER for message in conversation.path()),
        branches=sum(message.id not in parents for message in conversation.messages),
    )


def in_order(summaries: list[ConversationSummary]) -> tuple[ConversationSummary, ...]:
    """Sort as `ConversationStore.list` returns them."""
    return tuple(sorted(summaries, key=lambda each: (not each.pinned, -each.updated_s, each.id)))
