"""Requests to the Hub's API: which responses are usable, and when a failed one is sent again.

huggingface_hub has no deadline, sleeps for as long as a server asks, and parses a captive portal's
login page as JSON. `EndpointTransport` sits below it and raises `UnusableResponse` for everything
that is no response of the endpoint; `retry` decides on the next attempt. The retry loop is above
huggingface_hub and not in the transport, because a response may also fail when it is parsed there.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx2

from localllm.core.units import format_duration
from localllm.errors import HubError
from localllm.library.http.client import describe_error
from localllm.library.http.retry_policy import INTERACTIVE, retry_after_s
from localllm.library.http.urls import printable_url, same_origin

DEADLINE_S = 60.0
"""For one call of the API, all its attempts together."""
MAX_RESPONSE_BYTES = 32 << 20
"""A list of 20,000 files has 6 MB."""

_RETRYABLE = frozenset({408, 425, 429})
_NAMED = {429: "too many requests", 502: "bad gateway", 503: "busy", 504: "no answer behind it"}
_LOGIN = "a web page instead of an answer, as a network sends that wants a login first"

T = TypeVar("T")


class UnusableResponse(HubError):
    """An endpoint sent no response, or none that can be used.

    `retryable`: another attempt may help. `retry_after_s`: the delay that the server asks for.
    """

    def __init__(
        self, reason: str, *, retryable: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The system's time; tests pass their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def retry(attempt: Callable[[], T], *, clock: Clock, deadline: float) -> T:
    """Call `attempt` until it succeeds, the backoff schedule ends, or `deadline` would pass.

    `deadline` is a time of `clock`. Raises the last UnusableResponse, and what else `attempt`
    raises.
    """
    backoff_s = iter(INTERACTIVE.backoff_s)
    while True:
        try:
            return attempt()
        except UnusableResponse as error:
            delay_s = next(backoff_s, None)
            if delay_s is None or not error.retryable:
                raise
            delay_s = max(delay_s, error.retry_after_s or 0.0)
            if clock.now() + delay_s >= deadline:
                raise _past_deadline(error, delay_s) from error
        clock.sleep(delay_s)


class EndpointTransport(httpx2.BaseTransport):
    """Sends requests to one endpoint only and returns only usable responses.

    Wraps the client's own transport. Raises UnusableResponse for a failed connection, a status
    that means "not now", a web page, and a body that is too long or misses the deadline; HubError
    for a redirect to another host.
    """

    def __init__(
        self, inner: httpx2.BaseTransport, endpoint: str, clock: Clock, deadline: float
    ) -> None:
        self._inner = inner
        self._endpoint = httpx2.URL(endpoint)
        self._clock = clock
        self._deadline = deadline

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if not same_origin(request.url, self._endpoint):
            endpoint, other = printable_url(self._endpoint), printable_url(request.url)
            raise HubError(
                f"{endpoint} leads to {other}, another host. A network that wants a login does so;"
                " if it is your mirror, name it in HF_ENDPOINT."
            )
        try:
            response = self._inner.handle_request(request)
        except httpx2.TransportError as error:
            raise UnusableResponse(describe_error(error)) from error
        problem = _not_now(response) or _compressed(response) or _not_json(response)
        if problem is not None:
            response.close()
            raise problem
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_BoundedBody(response, self._clock, self._deadline),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._inner.close()


class _BoundedBody(httpx2.SyncByteStream):
    """A body with a maximum length and a deadline: httpx2's read timeout is for each piece only."""

    def __init__(self, response: httpx2.Response, clock: Clock, deadline: float) -> None:
        self._response = response
        self._clock = clock
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        try:
            for piece in self._response.iter_raw():
                length += len(piece)
                if length > MAX_RESPONSE_BYTES:
                    raise UnusableResponse(
                        f"its answer is over {MAX_RESPONSE_BYTES >> 20} MiB", retryable=False
                    )
                if self._clock.now() > self._deadline:
                    raise UnusableResponse(
                        f"its answer did not end within {DEADLINE_S:g} s", retryable=False
                    )
                yield piece
        except httpx2.TransportError as error:
            raise UnusableResponse(describe_error(error)) from error

    def close(self) -> None:
        self._response.close()


def _not_now(response: httpx2.Response) -> UnusableResponse | None:
    """Return the error of a status that may change soon; None for every other status."""
    status = response.status_code
    if status not in _RETRYABLE and status < 500:
        return None
    named = f" ({_NAMED[status]})" if status in _NAMED else ""
    return UnusableResponse(
        f"it answers {status}{named}", retry_after_s=retry_after_s(response.headers)
    )


def _compressed(response: httpx2.Response) -> UnusableResponse | None:
    # A few compressed bytes may become any number of them, and the request forbids it.
    if response.headers.get("content-encoding", "identity").lower() == "identity":
        return None
    return UnusableResponse("it sends a compressed answer that was not asked for", retryable=False)


def _not_json(response: httpx2.Response) -> UnusableResponse | None:
    kind = response.headers.get("content-type", "").lower()
    if not response.is_success or "json" in kind:
        return None
    return UnusableResponse(
        f"it sends {_LOGIN}; open any page in a browser"
        if "html" in kind
        else "what it sends is no JSON",
        retryable=False,
    )


def _past_deadline(error: UnusableResponse, delay_s: float) -> UnusableResponse:
    if error.retry_after_s is None:
        return error
    return UnusableResponse(
        f"{error} and asks to be left alone for {format_duration(delay_s)}", retryable=False
    )
