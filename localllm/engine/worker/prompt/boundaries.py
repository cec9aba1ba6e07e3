"""Where the messages of a conversation begin in its prompt, as positions of tokens. Pure.

A later turn may write a prompt anew from there on: another question, an answer whose reasoning is
left out. Templates do not tell where they put a message, so its text is looked for in what they
have written, in order, and the boundary is the control token before it: no text behind can change
the tokens up to there. What is not found (a text that the template has changed) has no boundary.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from localllm.engine.messages import Role


class Section(StrEnum):
    """What begins at a boundary: a message, or the answer with its reasoning."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The first token of a section of a prompt."""

    position: int
    section: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpan:
    """A section in a rendered prompt: the characters from `start` to `end` are its text."""

    start: int
    end: int
    section: Section


def find_sections(
    text: str, messages: Sequence[tuple[Role, str]], reasoning_tag: str | None
) -> list[TextSpan]:
    """Find these messages (role and text) in a rendered prompt, and where its answer begins: before
    the `reasoning_tag` that a template has written at the end.

    A short text that also stands in the header before it ("user") is found a few characters early.
    """
    spans: list[TextSpan] = []
    done = 0
    for role, content in messages:
        trimmed = content.strip()
        start = text.find(trimmed, done) if trimmed else -1
        if start >= 0:
            done = start + len(trimmed)
            spans.append(TextSpan(start=start, end=done, section=Section(role.value)))
    tag = reasoning_tag.strip() if reasoning_tag is not None else ""
    answer = text.rfind(tag, done) if tag else -1
    end = answer if answer >= 0 else len(text)
    return [*spans, TextSpan(start=end, end=end, section=Section.ANSWER)]


def place_boundaries(
    text: str,
    spans: Sequence[TextSpan],
    tokens: Sequence[int],
    written: Callable[[int], bytes],
    control_words: Collection[bytes],
) -> tuple[Boundary, ...]:
    """Give the sections of a text their positions among its tokens, in strictly rising order.

    `written` is the text of a token. Returns none when the tokens do not spell the text, which some
    tokenizers change. A section whose position another one has already gets none.
    """
    pieces = [written(token) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    lead = b"".join(pieces).find(text.encode())  # a BOS, the blank of SentencePiece
    if lead < 0:
        return ()
    boundaries: list[Boundary] = []
    at = offset = lowest = 0
    for span in spans:
        offset += len(text[at : span.start].encode())
        position = bisect_right(ends, lead + offset)
        position = _control_token_before(pieces, control_words, position, lowest)
        offset += len(text[span.start : span.end].encode())
        at = span.end
        lowest = bisect_left(ends, lead + offset) + 1
        if not boundaries or position > boundaries[-1].position:
            boundaries.append(Boundary(position=position, section=span.section))
    return tuple(boundaries)


def preamble_tokens(boundaries: Sequence[Boundary]) -> int:
    """Count the tokens before the first question, those of the system prompt; 0 when that is not
    known."""
    users = (each.position for each in boundaries if each.section is Section.USER)
    return next(users, 0)


def checkpoint_positions(boundaries: Sequence[Boundary], tokens: int) -> tuple[int, ...]:
    """Choose where the state of a prompt of so many tokens is worth keeping, in rising order: after
    the system prompt, before the last question, and before the answer, but never behind the last
    token, which is computed again in any case."""
    users = [each.position for each in boundaries if each.section is Section.USER]
    answers = [each.position for each in boundaries if each.section is Section.ANSWER]
    wanted = {*users[:1], *users[-1:], min([*answers, tokens - 1])}
    return tuple(sorted(each for each in wanted if 0 < each < tokens))


def _control_token_before(
    pieces: Sequence[bytes], control_words: Collection[bytes], position: int, lowest: int
) -> int:
    """Find the last control token before `position` and not before `lowest`; `position` itself
    when there is none."""
    for i in range(position - 1, lowest - 1, -1):
        if pieces[i] in control_words:
            return i
    return position
