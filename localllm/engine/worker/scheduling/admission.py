"""Who gets the next slot: pure functions of the request queue."""

from collections.abc import Sequence

MAX_OVERTAKEN = 4
"""Requests of the same priority that came later and may get a slot before a request does."""

MIN_GAIN_TOKENS = 64
"""Tokens that a prompt has to have more in the cache to go before one that came earlier."""

MAX_COMPARED = 32
"""Waiting prompts that are compared with the cache when a slot is free."""


def choose(overtaken: Sequence[int], cached: Sequence[int]) -> int:
    """Choose one of equals, which are in the order of their arrival: the first, or one that has
    clearly more of its prompt in the cache, which may be gone when it is its turn. Nobody is
    overtaken more than `MAX_OVERTAKEN` times.

    `overtaken`: how often each was; `cached`: tokens of each prompt that the cache has.
    """
    best = 0
    for index, tokens in enumerate(cached):
        if tokens >= cached[0] + MIN_GAIN_TOKENS and tokens > cached[best]:
            best = index
        if overtaken[index] >= MAX_OVERTAKEN:  # nobody behind it
            break
    return best
