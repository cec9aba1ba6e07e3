"""Passages as the sources of an answer: what the model reads of them, and how an answer refers to
them."""

import re
from collections.abc import Sequence

from localllm.chat.attachments.fitting import Tokenize, count_text
from localllm.chat.conversation import Citation
from localllm.chat.documents.collection import PassageHit

MAX_SOURCES = 6
MAX_SOURCE_TOKENS = 1600
"""Of all together: a laptop reads some 60 to 600 tokens a second before it answers."""
_MIN_TOKENS = 40
"""A shorter end of a passage says nothing."""
_LINE_TOKENS = 24
"""The most that the line above a passage takes."""

_REFERENCE = re.compile(r"\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]")


async def chosen_sources(
    hits: Sequence[PassageHit], tokenize: Tokenize, *, room: int
) -> tuple[Citation, ...]:
    """Take the best passages that fit into `room` tokens, and number them from 1. The last one may
    be cut at its end."""
    left = min(room, MAX_SOURCE_TOKENS)
    sources: list[Citation] = []
    for hit in hits[:MAX_SOURCES]:
        limit = left - _LINE_TOKENS
        if limit < _MIN_TOKENS:
            break
        counted = await count_text(hit.passage.text, tokenize, limit=limit)
        left -= counted.tokens + _LINE_TOKENS
        sources.append(
            Citation(
                number=len(sources) + 1,
                collection=hit.collection,
                path=hit.path,
                line=hit.passage.line,
                page=hit.passage.page,
                text=counted.text,
            )
        )
    return tuple(sources)


def cited_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that an answer refers to, `[1]` or `[1, 3]`, each once, in its order."""
    found = (int(number) for match in _REFERENCE.finditer(text) for number in match[1].split(","))
    return tuple(dict.fromkeys(found))


def cited_sources(text: str, sources: Sequence[Citation]) -> tuple[Citation, ...]:
    """Return the sources that an answer refers to, in the order of their numbers."""
    numbers = set(cited_numbers(text))
    return tuple(each for each in sources if each.number in numbers)
