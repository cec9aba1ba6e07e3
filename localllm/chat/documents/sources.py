"""The passages that go with a question, within what the context has room for."""

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
