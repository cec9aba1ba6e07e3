"""Which cells of the KV cache a new prompt can use again. Pure: lists of tokens in, a plan out.

Each slot's cache holds the tokens of the last sequence that ran there. A prompt may keep the
common beginning of an idle slot's cache, or share (`llama_memory_seq_cp`: no data is copied in a
unified cache) the beginning of any other slot's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_SHARED_TOKENS = 16
"""Sharing fewer tokens from another slot is not worth giving up what the idle slot holds."""


MIN_AWAITED_TOKENS = 32
"""Waiting for another sequence to compute fewer tokens is not worth the step it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Run in `slot`; its first `tokens` tokens come from `source`'s cache (maybe itself)."""

    slot: int
    source: int
    tokens: int


def common(cached: list[int], prompt: list[int]) -> int:
    """Length of the common beginning."""
    shortest = min(len(cached), len(prompt))
    if cached[:shortest] == prompt[:shortest]:
        return shortest
    low, high = 0, shortest  # cached[:low] matches, cached[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if cached[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle
    return low


def plan(
    prompt: list[int],
    cached: Mapping[int, list[int]],
    idle: list[int],
    *,
    continues: Callable[[int, int], bool],
    shares: bool = True,
) -> Reuse:
    """Choose a slot of `idle` (least recently used first, at least one) for `prompt`.

    `cached` maps every slot to the tokens its cells hold; `continues(slot, tokens)` says whether
    that slot's cells can be used up to there (a window may have moved on, a recurrent state is
    only that of its end). `shares`: whether one slot may use another's cells. At least the
    prompt's last token is always computed again: its logits are needed.
    """
    usable = prompt[:-1]

    def reusable(slot: int) -> int:
        tokens = common(cached[slot], usable)
        return tokens if tokens and continues(slot, tokens) else 0

    own = {slot: reusable(slot) for slot in idle}
    slot = max(idle, key=lambda candidate: own[candidate])
    forgets_most = shares and 2 * own[slot] < len(cached[slot])
    if own[slot] < MIN_SHARED_TOKENS or forgets_most:  # a system prompt is no conversation
        slot = idle[0]
    source, tokens = slot, own[slot]
    for other in cached if shares else ():
        shared = own[other] if other in own else reusable(other)
        if shared >= tokens + MIN_SHARED_TOKENS:
            source, tokens = other, shared
    return Reuse(slot=slot, source=source, tokens=tokens)


def longest(
    prompt: list[int], cached: Mapping[int, list[int]], *, continues: Callable[[int, int], bool]
) -> tuple[int, int]:
    """The slot of `cached` that holds most of `prompt`'s beginning, and how many tokens that is
    (0 when none can be used). The prompt's last token is not counted, as in `plan`."""
    usable = prompt[:-1]
    found = {slot: common(tokens, usable) for slot, tokens in cached.items()}
    for slot in sorted(found, key=lambda slot: found[slot], reverse=True):
        if found[slot] == 0 or continues(slot, found[slot]):
            return slot, found[slot]
    return next(iter(cached)), 0
