"""Search in conversations: all words of a search, anywhere in a conversation, in any order.

There is no index of words. What is kept encrypted is read once and then held as folded text (no
case, no accents, as bytes); looking through 100 MB of that takes a tenth of a second, finds parts
of words and languages without blanks, and leaves nothing on a disk.
"""

import unicodedata
from dataclasses import dataclass

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.history.titles import title_of
from localllm.core.text import single_line

EXCERPT_CHARACTERS = 160
_BEFORE = 40
_MAX_WORDS = 16


def folded(text: str) -> str:
    """Return the text without case and accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in decomposed if not unicodedata.combining(each))


@dataclass(frozen=True, slots=True)
class Query:
    """The words of a search, folded, as UTF-8."""

    words: tuple[bytes, ...]

    @classmethod
    def of(cls, text: str) -> "Query":
        words = folded(text).split()[:_MAX_WORDS]
        return cls(tuple(dict.fromkeys(encoded(word) for word in words)))

    def matches(self, text: bytes) -> bool:
        """Tell whether all words are in a folded text."""
        return all(word in text for word in self.words)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def searchable(conversation: Conversation) -> bytes:
    """Return the folded text of a conversation: title, questions, answers, attached files."""
    parts = [title_of(conversation)]
    for message in conversation.messages:
        parts.extend(_texts(message))
    return encoded(folded("\n".join(parts)))


def _texts(message: ChatMessage) -> list[str]:
    files = [text for each in message.attachments for text in (each.name, each.text)]
    return [message.text, *files]


def excerpt(conversation: Conversation, query: Query) -> tuple[str | None, str]:
    """Return the first message with the first word that is in any, and the text around it on one
    line; None and "" when only the title has one."""
    for word in query.words:
        needle = word.decode("utf-8", "replace")
        for message in conversation.messages:
            for text in _texts(message):
                if (at := _position(text, needle)) is not None:
                    return message.id, around(text, at)
    return None, ""


def around(text: str, at: int) -> str:
    """Return the piece of a text around a position, on one line, with … where it was cut."""
    start = max(0, at - _BEFORE)
    if start:  # not in the middle of a word
        blank = text.find(" ", start, at)
        start = blank + 1 if blank >= 0 else start
    piece = single_line(text[start : start + 2 * EXCERPT_CHARACTERS])
    cut = len(piece) > EXCERPT_CHARACTERS or start + 2 * EXCERPT_CHARACTERS < len(text)
    return ("… " if start else "") + piece[:EXCERPT_CHARACTERS] + (" …" if cut else "")


def _position(text: str, needle: str) -> int | None:
    """Return where a folded needle begins in a text that is not folded."""
    found = folded(text).find(needle)
    if found < 0:
        return None
    if text.isascii():
        return found
    length = 0
    for at, character in enumerate(text):  # folding changes lengths: ß is two, an accent none
        length += len(folded(character))
        if length > found:
            return at
    return None
