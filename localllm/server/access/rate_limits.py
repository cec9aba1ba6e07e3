"""The limits of a key: requests at the same time, and tokens in any minute.

A request is admitted while less than the limit was used in the last minute; what it then takes is
counted as it comes and never cut, so that an answer is whole. The arithmetic takes the time as an
argument: it reads no clock.
"""

import math
import time
from collections import deque
from collections.abc import Callable

from localllm.server.errors import ApiError
from localllm.server.request_record import KeyLimits

WINDOW_S = 60.0
_BUCKET_S = 1.0
"""Tokens of one second are counted together: a window holds 61 numbers, whatever was used."""


class TokenWindow:
    """The tokens of the last minute, at most `limit` of which admit another request."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buckets: deque[tuple[float, int]] = deque()
        self._sum = 0

    def used(self, now: float) -> int:
        """Return the tokens that were used in the minute before `now`."""
        while self._buckets and self._buckets[0][0] + _BUCKET_S + WINDOW_S <= now:
            self._sum -= self._buckets.popleft()[1]
        return self._sum

    def add(self, tokens: int, now: float) -> None:
        """Count tokens that are used at `now`; fewer than none takes back what was too many."""
        start = math.floor(now / _BUCKET_S) * _BUCKET_S
        if self._buckets and self._buckets[-1][0] >= start:
            start, before = self._buckets.pop()
            self._buckets.append((start, before + tokens))
        else:
            self._buckets.append((start, tokens))
        self._sum += tokens

    def wait_s(self, now: float) -> float:
        """Return the seconds until a request is admitted when nothing else is used; 0: at once."""
        left = self.used(now)
        if left < self.limit:
            return 0.0
        for start, tokens in self._buckets:
            left -= tokens
            if left < self.limit:
                return start + _BUCKET_S + WINDOW_S - now
        return WINDOW_S + _BUCKET_S


class KeyUsage:
    """What one key's requests take now and took in the last minute."""

    def __init__(self) -> None:
        self.running = 0
        self._window = TokenWindow(0)

    def admit(self, limits: KeyLimits, now: float) -> None:
        """Count a request that begins. Raises ApiError (429) with the numbers and Retry-After."""
        if limits.requests is not None and self.running >= limits.requests:
            raise _too_many(
                f"This key may have {limits.requests} requests at the same time, and "
                f"{self.running} are being answered. Wait until one has ended.",
                1.0,
            )
        if limits.tokens_per_minute is not None:
            self._window.limit = limits.tokens_per_minute
            if (wait_s := self._window.wait_s(now)) > 0:
                raise _too_many(
                    f"This key may use {limits.tokens_per_minute} tokens a minute, and "
                    f"{self._window.used(now)} were used in the last one. Try again in "
                    f"{math.ceil(wait_s)} s.",
                    wait_s,
                )
        self.running += 1

    def release(self) -> None:
        """Count a request that has ended."""
        self.running -= 1

    def charge(self, tokens: int, now: float) -> None:
        """Count tokens that are used at `now`."""
        self._window.used(now)  # old seconds leave also while nothing is refused
        self._window.add(tokens, now)


class RateLimits:
    """The usage of every key, by its name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage: dict[str, KeyUsage] = {}

    def admit(self, name: str, limits: KeyLimits) -> KeyUsage:
        """Count a request of the key `name` that begins. Raises ApiError (429)."""
        usage = self._usage.setdefault(name, KeyUsage())
        usage.admit(limits, self._clock())
        return usage

    def charge(self, usage: KeyUsage, tokens: int) -> None:
        """Count tokens that are used now."""
        usage.charge(tokens, self._clock())


def _too_many(message: str, wait_s: float) -> ApiError:
    return ApiError(
        message,
        status=429,
        code="rate_limit_exceeded",
        headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
    )
