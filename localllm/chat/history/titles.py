"""The title of a conversation: what the person called it, or else how the first question begins."""

import re

from localllm.chat.conversation import Conversation
from localllm.core.text import single_line
from localllm.engine.messages import Role
from localllm.translation import _

MAX_TITLE = 60
"""Characters of a title that is made of a question."""

_MAX_READ = 1000
_MARKS = re.compile(r"^(?:[#>*+\-`~=_\s]|\d+[.)]\s)+")


def title_of(conversation: Conversation) -> str:
    """Return the title that is shown, on one line and safe for a terminal."""
    if title := single_line(conversation.title):
        return title
    for message in conversation.messages:
        if message.role is Role.USER:
            names = (single_line(each.name) for each in message.attachments)
            return title_from(message.text) or next(filter(None, names), _("Untitled"))
    return title_from(conversation.draft) or _("Untitled")


def title_from(question: str) -> str:
    """Make a title of a question: its first line with words, cut between two of them."""
    for line in question[:_MAX_READ].splitlines():
        text = _MARKS.sub("", single_line(line)).strip("`*_ ")
        if any(each.isalnum() for each in text):
            return shortened(text, MAX_TITLE)
    return shortened(single_line(question[:_MAX_READ]), MAX_TITLE)


def shortened(text: str, length: int) -> str:
    """Cut a line to so many characters, between two words where there are some."""
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    head, blank, _rest = cut.rpartition(" ")
    return (head if blank and len(head) > length // 2 else cut).rstrip(" ,;:.-") + "…"
