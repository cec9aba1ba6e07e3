"""The prompts that were answered last, so that a new one that is not found in the cache can be
compared with that which it is most like."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.worker.kv_cache.radix_tree import common
from localllm.engine.worker.prompt.outline import PromptOutline
from localllm.engine.worker.scheduling.cache_miss import KnownPrompt

MOST_PROMPTS = 32
MOST_TOKENS = 2**19
"""Of all prompts together, at eight bytes each: 4 MiB."""

_MARK_SPACING = 8
_MARK_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    known: KnownPrompt
    marks: frozenset[int]


class PromptHistory:
    """Remembers prompts, the one answered last at the end."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._tokens = 0

    def remember(self, known: KnownPrompt) -> None:
        """Add a prompt, in place of the earlier turns of its conversation."""
        if len(known.tokens) > MOST_TOKENS:
            return
        for entry in [e for e in self._entries if _continues(known, e.known)]:
            self._drop(entry)
        self._entries.append(_Entry(known=known, marks=_marks(known.tokens)))
        self._tokens += len(known.tokens)
        while len(self._entries) > MOST_PROMPTS or self._tokens > MOST_TOKENS:
            self._drop(self._entries[0])

    def most_like(self, tokens: "array[int]", lora_key: object) -> tuple[KnownPrompt, int] | None:
        """Find the prompt that has most in common with this one, and how many tokens of their
        beginnings are the same; of equal ones that of the same adapters, then the newest. None:
        none has anything. In a short prompt chance decides what is seen of a part that has moved;
        whether it is worth a word is another question."""
        marks = _marks(tokens)
        best: tuple[tuple[int, bool], KnownPrompt, int] | None = None
        for entry in reversed(self._entries):
            beginning = common(tokens, entry.known.tokens)
            score = beginning + _MARK_SPACING * len(marks & entry.marks)
            rank = (score, entry.known.lora_key == lora_key)
            if score and (best is None or rank > best[0]):
                best = rank, entry.known, beginning
        return None if best is None else best[1:]

    def _drop(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._tokens -= len(entry.known.tokens)


def _marks(tokens: Sequence[int]) -> frozenset[int]:
    """Return digests of short runs, which begin where a token says so and not at fixed positions:
    a text that has moved has the same ones."""
    return frozenset(
        hash(tuple(tokens[i : i + _MARK_TOKENS]))
        for i, token in enumerate(tokens)
        if token % _MARK_SPACING == 0
    )


def _continues(later: KnownPrompt, earlier: KnownPrompt) -> bool:
    """Tell whether a prompt is a later turn of another one, or the same again."""
    if later.lora_key != earlier.lora_key:
        return False
    old, new = earlier.outline, later.outline
    if old is None or new is None:
        return old is new and common(later.tokens, earlier.tokens) >= earlier.prompt_tokens
    return _parts(old) == _parts(new) and new.messages[: len(old.messages)] == old.messages


def _parts(outline: PromptOutline) -> tuple[int, tuple[int, ...], int]:
    return outline.system, outline.tools, outline.options
