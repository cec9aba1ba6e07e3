"""When to try an HTTP request again: backoff, and the server's own `Retry-After`.

One policy for downloads (`download/fetch.py`) and for questions to the Hub
(`retrying_transport.py`), so that the two cannot drift apart. Pure: whoever retries does the
waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A backoff schedule for attempts in a row that brought nothing, or next to nothing.

    `backoff_s` holds the delay after the first, second, ... such attempt; after the last delay the
    endpoint is given up. While the endpoint has never responded only the first
    `max_unreached_retries` delays are used, so that a wrong address fails soon. A longer
    `Retry-After` replaces the delay; one beyond `max_retry_after_s` ends the attempts, because
    nobody waits a day in front of a progress bar.
    """

    backoff_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
    max_unreached_retries: int = 4
    max_retry_after_s: float = 300.0

    def delay_s(
        self, failures: int, *, retry_after_s: float | None, responded: bool
    ) -> float | None:
        """Return the delay after the `failures`th failed attempt in a row (from 1).

        None means: no further attempt at this endpoint. `responded` is true when the endpoint has
        responded at all in this run.
        """
        if retry_after_s is not None and retry_after_s > self.max_retry_after_s:
            return None
        schedule = self.backoff_s if responded else self.backoff_s[: self.max_unreached_retries]
        if failures > len(schedule):
            return None
        return max(schedule[failures - 1], retry_after_s or 0.0)


INTERACTIVE = RetryPolicy(backoff_s=(0.5, 1.0, 2.0, 4.0), max_retry_after_s=60.0)
"""For requests that a person waits for: a list of files, a header."""


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Read `Retry-After` (seconds or an HTTP date) as seconds from now, never negative.

    None when the header is missing or unreadable.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # a server may send any number of digits
    # Only here: the import is slow, and verbs without a network import this module.
    from email.utils import parsedate_to_datetime

    try:
        until = parsedate_to_datetime(text)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None
