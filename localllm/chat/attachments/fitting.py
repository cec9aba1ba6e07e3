"""How much of the attached files goes to the model: counted by its own tokenizer, and cut where
the context has no room, with a word to the person and to the model.

The room is shared so that small files stay whole: each file gets an equal part, and what a file
does not need of its part goes to the others.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.chat.request import generate_request
from localllm.engine.messages import Role, TokenizeRequest
from localllm.engine.messages.limits import MAX_TOKENIZE_CHARS
from localllm.runtime.runtime import Runtime
from localllm.translation import _, ngettext

FRAME_TOKENS = 16
"""The most that the lines around a file take: its fence, a short name, and the mark of a cut."""

_CHUNK_CHARS = min(65_536, MAX_TOKENIZE_CHARS)
"""Of one request to count: no running answer goes on meanwhile."""
_SAMPLE_CHARS = 2 * _CHUNK_CHARS
"""The end of a text that is far too long is not counted but estimated, by what was."""
_CUT_MARK = "\n[the rest of this file is left out: it does not fit]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedText:
    """The first tokens of a text: `text` is what they stand for. `tokens` counts them, and
    `left_out` those behind them (estimated in a very long text)."""

    text: str
    tokens: int
    left_out: int = 0


Tokenize = Callable[[str], Awaitable[tuple[bytes, ...]]]
"""Cut a text of at most _CHUNK_CHARS characters into the bytes of its tokens."""


def tokenizer_of(runtime: Runtime, name: str) -> Tokenize:
    """Return the tokenizer of the resident model `name`."""

    async def tokenize(text: str) -> tuple[bytes, ...]:
        request = TokenizeRequest(request_id=uuid.uuid4().hex, text=text)
        return (await runtime.tokenize(name, request)).pieces

    return tokenize


async def count_text(text: str, tokenize: Tokenize, *, limit: int | None = None) -> CountedText:
    """Count the tokens of a text, and keep at most `limit` of them (None: all)."""
    kept: list[str] = []
    tokens = left_out = at = 0
    while at < len(text):
        if left_out and at >= _SAMPLE_CHARS:
            left_out += round((len(text) - at) * (tokens + left_out) / at)
            break
        chunk = text[at : at + _CHUNK_CHARS]
        pieces = await tokenize(chunk)
        room = len(pieces) if limit is None else max(0, limit - tokens)
        if left_out or room < len(pieces):
            if not left_out:
                kept.append(b"".join(pieces[:room]).decode("utf-8", "ignore"))
                tokens += room
                left_out = len(pieces) - room
            else:
                left_out += len(pieces)
        else:
            kept.append(chunk)
            tokens += len(pieces)
        at += len(chunk)
    return CountedText(text="".join(kept) if left_out else text, tokens=tokens, left_out=left_out)


def shares(needs: Sequence[int], room: int) -> tuple[int, ...]:
    """Share `room` among files that need so many tokens each: nobody gets more than it needs, and
    those that get less get all the same."""
    given = [0] * len(needs)
    left = max(0, room)
    waiting = sorted(range(len(needs)), key=lambda index: needs[index])
    for place, index in enumerate(waiting):
        given[index] = min(needs[index], left // (len(waiting) - place))
        left -= given[index]
    return tuple(given)


async def count_attachment(attachment: Attachment, tokenize: Tokenize) -> Attachment:
    """Return the attachment with the tokens of its text; a picture is returned as it is."""
    if attachment.data:
        return attachment
    counted = await count_text(attachment.text, tokenize)
    return replace(attachment, tokens=counted.tokens)


async def fit_attachments(
    attachments: Sequence[Attachment], tokenize: Tokenize, *, room: int
) -> tuple[Attachment, ...]:
    """Return the attachments as they are sent: cut so that all texts together, with the lines
    around them, take at most `room` tokens. Pictures are returned as they are; their tokens are
    taken from the room first."""
    texts = [each for each in attachments if not each.data]
    room -= sum(each.tokens or 0 for each in attachments if each.data)
    counted = {id(each): await count_attachment(each, tokenize) for each in texts}
    needs = [(counted[id(each)].tokens or 0) + FRAME_TOKENS for each in texts]
    given = dict(zip(map(id, texts), shares(needs, room), strict=True))
    fitted: list[Attachment] = []
    for each in attachments:
        whole = counted.get(id(each))
        if whole is None:
            fitted.append(each)
            continue
        limit = max(0, given[id(each)] - FRAME_TOKENS)
        fitted.append(whole if (whole.tokens or 0) <= limit else await _cut(whole, tokenize, limit))
    return tuple(fitted)


async def _cut(attachment: Attachment, tokenize: Tokenize, limit: int) -> Attachment:
    part = await count_text(attachment.text, tokenize, limit=limit)
    return replace(
        attachment,
        text=part.text.rstrip() + _CUT_MARK if part.tokens else "",
        tokens=part.tokens,
        cut_tokens=(attachment.tokens or 0) - part.tokens,
    )


def attachment_room(
    *, context: int, used: int, question: int, max_tokens: int | None = None
) -> int:
    """Return the tokens that attached files may take together.

    `context` is that of one conversation, `used` counts the conversation so far with its system
    prompt, `question` what was typed. The answer keeps its reserve, as the engine has it
    (`prompt_limit` in engine/worker/prompt/context_window.py). Where the conversation leaves
    little, files get half of the rest all the same: the oldest turns are then left out.
    """
    reserve = context // 4 if max_tokens is None else min(max_tokens, context // 2)
    limit = context - reserve - question
    return max(0, limit - used, limit // 2)


async def count_conversation(runtime: Runtime, name: str, conversation: Conversation) -> int:
    """Count the tokens of everything that the conversation sends, as the model's template writes
    it. The branch that is shown ends with a question. Raises as `Runtime.count_tokens` does."""
    request = generate_request(conversation, request_id=uuid.uuid4().hex)
    return await runtime.count_tokens(name, request)


async def count_image(runtime: Runtime, name: str, image: Attachment) -> Attachment:
    """Return a picture with the tokens that the model `name` sees it as. Raises BadRequest, with
    the reason, for a model that sees none."""
    bare = ChatMessage(role=Role.USER, text="?")
    seen = replace(bare, attachments=(image,))
    counts = [
        await count_conversation(runtime, name, Conversation().with_message(message, after=None))
        for message in (seen, bare)
    ]
    return replace(image, tokens=max(0, counts[0] - counts[1]))


def token_label(attachment: Attachment) -> str:
    """Say how many tokens go of an attachment, and what is left out."""
    if attachment.tokens is None:
        return _("not counted yet")
    sent = ngettext("{count} token", "{count} tokens", attachment.tokens).format(
        count=f"{attachment.tokens:,}"
    )
    if not attachment.cut_tokens:
        return sent
    return _("{tokens}, the last {cut} do not fit and are left out").format(
        tokens=sent, cut=f"{attachment.cut_tokens:,}"
    )
