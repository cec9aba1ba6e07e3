"""How an answer refers to the passages that it was given: by their numbers, like [1] or [1, 3]."""

import re
from collections.abc import Sequence

from localllm.chat.conversation import Citation
from localllm.core.text import single_line
from localllm.translation import _

_REFERENCE = re.compile(r"\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]")


def cited_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that an answer refers to, each once, in its order."""
    found = (int(number) for match in _REFERENCE.finditer(text) for number in match[1].split(","))
    return tuple(dict.fromkeys(found))


def answer_sources(text: str, sources: Sequence[Citation]) -> tuple[Citation, ...]:
    """Return the sources of an answer: those that it refers to, or all where it refers to none, so
    that a person can look what it was made of."""
    numbers = set(cited_numbers(text))
    cited = tuple(each for each in sources if each.number in numbers)
    return cited or tuple(sources)


def source_line(source: Citation) -> str:
    """Write where a source stands, on one line."""
    place = (
        f":{source.line}"
        if source.page is None
        else ", " + _("page {page}").format(page=source.page)
    )
    return f"[{source.number}] {single_line(source.path)}{place}"
