"""What the chat place has open: the conversation, the questions that wait, and what was typed in
each conversation and not sent. No widgets: the screen shows it."""

from dataclasses import dataclass, field, replace

from localllm.chat.conversation import Attachment, ChatMessage, Conversation, Ending
from localllm.engine.messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is typed and not sent. `edits` is the question that it is a new version of, `aside` what
    was typed before that, to be returned to."""

    text: str = ""
    attachments: tuple[Attachment, ...] = ()
    edits: str | None = None
    aside: "Draft | None" = None

    def __bool__(self) -> bool:
        return bool(self.text.strip() or self.attachments)

    def then(self, other: "Draft") -> "Draft":
        """Return both, one below the other."""
        texts = [each for each in (self.text, other.text) if each.strip()]
        attachments = (*self.attachments, *other.attachments)
        return Draft(text="\n".join(texts), attachments=attachments)


@dataclass(slots=True)
class ChatSession:
    """The open conversation and what belongs to it. `latest` has the last conversation of each
    model, to go on with."""

    conversation: Conversation = field(default_factory=Conversation)
    queue: list[Draft] = field(default_factory=list)
    drafts: dict[str, Draft] = field(default_factory=dict)
    latest: dict[str, Conversation] = field(default_factory=dict)
    editing: str | None = None
    aside: Draft | None = None

    def open(self, conversation: Conversation, draft: Draft) -> Draft:
        """Open another conversation, keeping what is typed in this one, and what waits there to be
        asked; returns what was typed in that one."""
        waiting = Draft()
        for each in self.queue:
            waiting = waiting.then(each)
        self.keep_draft(waiting.then(draft) if waiting else draft)
        if self.conversation.model and self.conversation.messages:
            self.latest[self.conversation.model] = self.conversation
        self.conversation = replace(conversation, draft="")  # it is in the prompt now
        self.queue.clear()
        kept = self.drafts.pop(conversation.id, Draft(text=conversation.draft))
        self.editing, self.aside = kept.edits, kept.aside
        return kept

    def unsent(self, draft: Draft) -> int:
        """Count the texts that were typed and not sent: here, in the queue, in other
        conversations."""
        others = (each for key, each in self.drafts.items() if key != self.conversation.id)
        texts = (draft, self.aside, *self.queue, *others)
        return sum(1 for each in texts if each)

    def keep_draft(self, draft: Draft) -> None:
        """Keep what is typed in this conversation and not sent."""
        if draft:
            kept = replace(draft, edits=self.editing, aside=self.aside)
            self.drafts[self.conversation.id] = kept
        else:
            self.drafts.pop(self.conversation.id, None)

    def forget(self, erased: frozenset[str]) -> None:
        """Hold nothing of conversations that were erased, nor what was typed in them."""
        for model in [name for name, each in self.latest.items() if each.id in erased]:
            del self.latest[model]
        for each in erased:
            self.drafts.pop(each, None)

    def with_question(self, question: ChatMessage) -> Conversation:
        """Return the conversation with a question: at its end, or as a version of the one that is
        edited. A question that got no answer at all is replaced."""
        conversation = without_unanswered(self.conversation)
        if self.editing is not None and _has(conversation, self.editing):
            parent = conversation.message(self.editing).parent
            return conversation.with_message(question, after=parent)
        return conversation.with_message(question, after=conversation.leaf)


def _has(conversation: Conversation, message_id: str) -> bool:
    return any(message.id == message_id for message in conversation.messages)


def without_unanswered(conversation: Conversation) -> Conversation:
    """Remove a question at the end that broke off without an answer: it is asked again, or not."""
    path = conversation.path()
    if len(path) >= 2 and path[-1].role is Role.ASSISTANT and path[-2].role is Role.USER:
        question, answer = path[-2:]
        alone = len(conversation.versions(answer.id)) == 1
        if answer.ending is Ending.BROKEN and not (answer.text or answer.reasoning) and alone:
            shorter = conversation.without(question.id)
            return shorter.ending_at(question.parent)
    return conversation


def question_of(conversation: Conversation, message_id: str) -> ChatMessage | None:
    """Return the question that a message belongs to: itself, or the one before it."""
    at: str | None = message_id
    while at is not None:
        message = conversation.message(at)
        if message.role is Role.USER:
            return message
        at = message.parent
    return None


def last_question(conversation: Conversation) -> ChatMessage | None:
    """Return the last question on the branch that is shown."""
    if conversation.leaf is None:
        return None
    return question_of(conversation, conversation.leaf)


def last_answer(conversation: Conversation) -> ChatMessage | None:
    """Return the last answer on the branch that is shown."""
    for message in reversed(conversation.path()):
        if message.role is Role.ASSISTANT:
            return message
    return None


def neighbour(conversation: Conversation, message_id: str, by: int) -> Conversation:
    """Show the version before (-1) or behind (1) a message; the same where there is none."""
    versions = conversation.versions(message_id)
    ids = [each.id for each in versions]
    at = ids.index(message_id) + by
    return conversation.showing(ids[at]) if 0 <= at < len(ids) else conversation
