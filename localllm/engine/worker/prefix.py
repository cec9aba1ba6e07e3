"""Which cells of the KV cache a new prompt can use again. Pure: lists of tokens in, a plan out.

Each slot's cache holds the tokens of the last sequence that ran there. A prompt may keep the
common beginning of an idle slot's cache, or share (`llama_memory_seq_cp`: no data is copied in a
unified cache) the beginning of any other slot's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MIN_SHARED_TOKENS = 16
"""Sharing fewer tokens from another slot is not worth giving up what the idle slot holds."""


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


def plan(prompt: list[int], cached: Mapping[int, list[int]], idle: list[int]) -> Reuse:
    """Choose a slot of `idle` (least recently used first, at least one) for `prompt`.

    `cached` maps every slot to the tokens its cells hold. At least the prompt's last token is
    always computed again: its logits are needed.
    """
    usable = prompt[:-1]
    own = {slot: common(cached[slot], usable) for slot in idle}
    slot = max(idle, key=lambda candidate: own[candidate])
    if own[slot] < MIN_SHARED_TOKENS:
        slot = idle[0]
    source, tokens = slot, own[slot]
    for other, held in cached.items():
        shared = common(held, usable)
        if shared >= tokens + MIN_SHARED_TOKENS:
            source, tokens = other, shared
    return Reuse(slot=slot, source=source, tokens=tokens)
