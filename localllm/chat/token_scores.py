"""How probable each token of an answer was, and what could have stood in its place.

An answer that is there is scored again: the conversation up to its end is a prompt that the engine
computes in full, and whose tokens it returns with their probabilities (`echo`). So answers are
generated without the cost of probabilities, and also those that another model wrote, that were
edited or that came from a file can be looked at. What is shown is what the loaded model thinks of
this very text.
"""

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.request import engine_messages, generate_request
from localllm.engine.messages import GenerateRequest, Overflow, Role, Token, TokenLogprob
from localllm.errors import UsageError
from localllm.translation import _

ALTERNATIVES = 8
UNLIKELY = 0.2
"""Tokens below this probability are what one looks for in an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that could have stood there. `raw` are its bytes: none of one that ends the
    answer."""

    token: int
    text: str
    raw: bytes
    probability: float

    @property
    def ends_answer(self) -> bool:
        return not self.raw


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token of an answer. `start` is the byte of the answer's UTF-8 text at which it begins.

    `alternatives` are the likeliest tokens at this place, best first; this one is usually among
    them. `probability` None: the engine gave none.
    """

    text: str
    raw: bytes
    start: int
    probability: float | None
    alternatives: tuple[Alternative, ...] = ()


def scoring_request(
    conversation: Conversation, answer: ChatMessage, *, request_id: str
) -> GenerateRequest:
    """Make the request that scores an answer. Raises UsageError for one without a text."""
    if answer.role is not Role.ASSISTANT or not answer.text:
        raise UsageError(_("There is no text whose tokens could be shown."))
    return GenerateRequest(
        request_id=request_id,
        messages=engine_messages(conversation.ending_at(answer.id)),
        thinking=conversation.settings.thinking,
        continue_final_message=True,
        echo=True,
        max_tokens=0,
        top_logprobs=ALTERNATIVES,
        overflow=Overflow.ROLL,
    )


def scored_tokens(answer: str, events: Sequence[Token]) -> tuple[ScoredToken, ...]:
    """Return the tokens of the answer among those of the prompt that ends with it.

    Raises UsageError when the chat template has changed the text, so that its tokens cannot be
    found.
    """
    echoed = [each for each in events if each.of_prompt and each.logprob is not None]
    pieces = [_raw(each) for each in echoed]
    prompt = b"".join(pieces)
    wanted, skipped = answer.encode("utf-8", "replace"), 0
    begin = prompt.rfind(wanted)
    if begin < 0:  # many templates strip what they are given
        skipped = len(answer[: len(answer) - len(answer.lstrip())].encode("utf-8", "replace"))
        wanted = answer.strip().encode("utf-8", "replace")
        begin = prompt.rfind(wanted)
    if begin < 0 or not wanted:
        raise UsageError(
            _("The chat template of this model changes the answer, so its tokens cannot be found.")
        )
    end, at = begin + len(wanted), 0
    found = []
    for event, raw in zip(echoed, pieces, strict=True):
        if raw and begin < at + len(raw) and at < end:
            found.append(_scored(event, raw, max(at - begin, 0) + skipped))
        at += len(raw)
    return tuple(found)


def _raw(event: Token) -> bytes:
    return b"" if event.logprob is None else bytes(event.logprob.raw)


def _scored(event: Token, raw: bytes, start: int) -> ScoredToken:
    own = event.logprob
    return ScoredToken(
        text=raw.decode("utf-8", "replace"),
        raw=raw,
        start=start,
        probability=None if own is None else _probability(own),
        alternatives=tuple(
            Alternative(
                token=each.token,
                text=each.text,
                raw=bytes(each.raw),
                probability=_probability(each),
            )
            for each in event.top_logprobs
        ),
    )


def _probability(logprob: TokenLogprob) -> float:
    return min(math.exp(logprob.logprob), 1.0)


def shown_texts(tokens: Sequence[ScoredToken]) -> tuple[str, ...]:
    """Return what each token shows: a character of several tokens stands whole at the last of them,
    and the others show nothing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(each.raw) for each in tokens]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return tuple(texts)


def branch_text(answer: str, token: ScoredToken, alternative: Alternative) -> str | None:
    """Return the answer up to a token and with another one in its place. None: a character of
    several tokens would be torn there."""
    before = answer.encode("utf-8", "replace")[: token.start]
    try:
        return (before + alternative.raw).decode("utf-8")
    except UnicodeDecodeError:
        return None


def continuing_request(
    conversation: Conversation, answer: ChatMessage, text: str, *, request_id: str
) -> GenerateRequest:
    """Make the request that goes on from `text`, the beginning of a version of `answer`.

    What is generated continues the text. The rest of the request is that of any answer.
    """
    started = conversation.with_message(
        ChatMessage(role=Role.ASSISTANT, text=text, reasoning=answer.reasoning),
        after=answer.parent,
    )
    request = generate_request(started, request_id=request_id)
    return replace(request, continue_final_message=True, grammar=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """What is said of all tokens together. `perplexity` None: there is no probability."""

    tokens: int
    unlikely: int
    not_first: int
    perplexity: float | None


def summarize(tokens: Sequence[ScoredToken]) -> ScoreSummary:
    """Count tokens, unlikely ones and those that were not the likeliest; the perplexity is
    exp(-mean ln p)."""
    known = [each.probability for each in tokens if each.probability is not None]
    mean = sum(math.log(max(p, 1e-30)) for p in known) / len(known) if known else None
    return ScoreSummary(
        tokens=len(tokens),
        unlikely=sum(p < UNLIKELY for p in known),
        not_first=sum(
            bool(each.alternatives) and each.alternatives[0].raw != each.raw for each in tokens
        ),
        perplexity=None if mean is None else math.exp(-mean),
    )
