"""A conversation as a tree of messages: what is asked again or edited becomes a version beside the
old one, and nothing is ever overwritten.

Theory of operation. `messages` holds every message of every version in the order in which they were
made. A message names the one that it follows (`parent`; None: it begins the conversation), and
messages of the same parent are versions of each other. `leaf` is the end of the branch that is
shown; `path()` is that branch. All values are immutable: a change returns a new conversation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import uuid4

from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Role, ToolCall


class Ending(StrEnum):
    """The end of an answer."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # by the person
    CUT = "cut"  # at the end of the context, or of `max_tokens`
    BROKEN = "broken"  # by an error or by the end of the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that goes with a question: its text, or the bytes of an image.

    `tokens` is what the model counts of it, None before it is counted. `cut_tokens` says how many
    more did not fit and were left out of `text`.
    """

    name: str
    media_type: str
    text: str = ""
    data: bytes = b""
    tokens: int | None = None
    cut_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A passage of a collection. `number` is how an answer refers to it. Of a question: what was
    found for it and is sent with it; of an answer: what it refers to. `page` is of a PDF, and
    `line` then counts on this page."""

    number: int
    collection: str
    path: str
    line: int
    text: str
    page: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStats:
    """What the engine measured of an answer. Rates in tokens per second, times in seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    decode_tps: float | None = None
    reasoning_s: float | None = None
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message. `created_s` is Unix time. `text` is unchanged, as it was typed or generated.

    Of an answer: `model` is who wrote it, `remark` says why it broke off, `left_out` counts the
    earlier questions that did not fit into the context with it, and `warnings` are sentences about
    what else was done to the conversation; of a question, about its passages. `tool_call_id`
    belongs to the role TOOL.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    parent: str | None = None
    role: Role
    text: str
    created_s: float = 0.0
    attachments: tuple[Attachment, ...] = ()
    model: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    tool_name: str | None = None
    citations: tuple[Citation, ...] = ()
    ending: Ending = Ending.COMPLETE
    remark: str = ""
    left_out: int = 0
    warnings: tuple[str, ...] = ()
    stats: AnswerStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All messages, and the branch that is shown. Times are Unix time. `draft` is text that was
    typed and not sent when the app ended."""

    id: str = field(default_factory=lambda: uuid4().hex)
    title: str = ""
    folder: str = ""
    pinned: bool = False
    created_s: float = 0.0
    updated_s: float = 0.0
    model: str = ""
    settings: ChatSettings = field(default_factory=ChatSettings)
    messages: tuple[ChatMessage, ...] = ()
    leaf: str | None = None
    draft: str = ""

    def message(self, message_id: str) -> ChatMessage:
        """Return one message. Raises KeyError."""
        for message in reversed(self.messages):
            if message.id == message_id:
                return message
        raise KeyError(message_id)

    def path(self) -> tuple[ChatMessage, ...]:
        """Return the branch that is shown, oldest first."""
        by_id = {message.id: message for message in self.messages}
        branch: list[ChatMessage] = []
        at = self.leaf
        while at is not None:
            branch.append(by_id[at])
            at = by_id[at].parent
        return tuple(reversed(branch))

    @property
    def sources(self) -> tuple[Citation, ...]:
        """The passages that go with the last question of the branch that is shown."""
        question = self._last_question()
        return () if question is None else question.citations

    @property
    def source_remarks(self) -> tuple[str, ...]:
        """Sentences about how these passages were found."""
        question = self._last_question()
        return () if question is None else question.warnings

    def _last_question(self) -> ChatMessage | None:
        path = reversed(self.path())
        return next((each for each in path if each.role is Role.USER), None)

    def versions(self, message_id: str) -> tuple[ChatMessage, ...]:
        """Return the message and its versions, in the order in which they were made."""
        parent = self.message(message_id).parent
        return tuple(each for each in self.messages if each.parent == parent)

    def children(self, message_id: str | None) -> tuple[ChatMessage, ...]:
        """Return the messages that follow one, or that begin the conversation (None)."""
        return tuple(each for each in self.messages if each.parent == message_id)

    def with_message(self, message: ChatMessage, *, after: str | None) -> "Conversation":
        """Add a message behind `after` (None: at the beginning) and show its branch.

        `after=self.leaf` goes on with the conversation; the parent of a message makes a version of
        it.
        """
        if after is not None:
            self.message(after)
        added = replace(message, parent=after)
        return replace(
            self,
            messages=(*self.messages, added),
            leaf=added.id,
            created_s=self.created_s or message.created_s,
            updated_s=max(self.updated_s, message.created_s),
        )

    def with_changed(self, message: ChatMessage) -> "Conversation":
        """Replace the message of the same id: an answer that grows. Raises KeyError."""
        place = self.message(message.id)
        changed = replace(message, parent=place.parent)
        return replace(
            self,
            messages=tuple(changed if each.id == message.id else each for each in self.messages),
        )

    def without(self, message_id: str) -> "Conversation":
        """Remove a message and everything behind it; what is shown then ends before it, or with
        its newest other version."""
        gone = {message_id, *self._behind(message_id)}
        parent = self.message(message_id).parent
        rest = replace(self, messages=tuple(each for each in self.messages if each.id not in gone))
        if self.leaf not in gone:
            return rest
        if remaining := rest.children(parent):
            return rest.showing(remaining[-1].id)
        return replace(rest, leaf=parent)

    def showing(self, message_id: str) -> "Conversation":
        """Show the branch of this message, down to the newest message behind it."""
        at = self.message(message_id)
        while children := self.children(at.id):
            at = children[-1]
        return replace(self, leaf=at.id)

    def ending_at(self, message_id: str | None) -> "Conversation":
        """Show the branch up to this message and no further: what is asked next is a new branch."""
        if message_id is not None:
            self.message(message_id)
        return replace(self, leaf=message_id)

    def _behind(self, message_id: str) -> Iterator[str]:
        for child in self.children(message_id):
            yield child.id
            yield from self._behind(child.id)
