"""A question to the Hub: what counts as an answer, how long one is waited for, and when again.

huggingface_hub waits for ever, sleeps for as long as a server says, and takes a hotel's login page
for JSON. `AnswersOnly` below it lets pass what an endpoint may answer and turns the rest into
`NoAnswer`; `persist` decides on the next attempt.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx2

from localllm.core.units import format_duration
from localllm.errors import HubError
from localllm.library.http.client import problem, retry_after_s, same_origin, shown_url

ANSWER_S = 60.0
"""The longest that one question is waited for, all its attempts together."""
MAX_ANSWER_BYTES = 32 << 20
"""A listing of 20,000 files has 6 MB."""

_WAITS_S = (0.5, 1.0, 2.0, 4.0)
_LATER = frozenset({408, 425, 429})
_NAMED = {429: "too many requests", 502: "bad gateway", 503: "busy", 504: "no answer behind it"}
_LOGIN = "a web page instead of an answer, as a network sends that wants a login first"

T = TypeVar("T")


class NoAnswer(HubError):
    """An endpoint gave no usable answer. `again`: another attempt may help; `asked_s`: the wait
    it asks for."""

    def __init__(self, why: str, *, again: bool = True, asked_s: float | None = None) -> None:
        super().__init__(why)
        self.again = again
        self.asked_s = asked_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as it passes; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def persist(ask: Callable[[], T], *, clock: Clock, until: float) -> T:
    """Ask until there is an answer, patience ends, or the next attempt would begin after `until`.

    Raises the last NoAnswer, and what `ask` raises besides.
    """
    waits = iter(_WAITS_S)
    while True:
        try:
            return ask()
        except NoAnswer as error:
            wait = next(waits, None)
            if wait is None or not error.again:
                raise
            wait = max(wait, error.asked_s or 0.0)
            if clock.now() + wait >= until:
                raise _given_up(error, wait) from error
        clock.sleep(wait)


def refusal(response: httpx2.Response) -> NoAnswer | None:
    """What a status says that means "not now"; None for one that is an answer."""
    status = response.status_code
    if status not in _LATER and status < 500:
        return None
    named = f" ({_NAMED[status]})" if status in _NAMED else ""
    return NoAnswer(f"it answers {status}{named}", asked_s=retry_after_s(response.headers))


class AnswersOnly(httpx2.BaseTransport):
    """Around the gate: asks the endpoint and nobody else, and gives only answers back.

    Raises NoAnswer for a connection that fails, "not now", a web page, a body that is too long or
    does not end in time, HubError for an answer that leads to another host.
    """

    def __init__(
        self, inner: httpx2.BaseTransport, endpoint: str, clock: Clock, until: float
    ) -> None:
        self._inner = inner
        self._endpoint = httpx2.URL(endpoint)
        self._clock = clock
        self._until = until

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if not same_origin(request.url, self._endpoint):
            raise HubError(
                f"{shown_url(self._endpoint)} leads to {shown_url(request.url)}, another host. A"
                " network that wants a login does so; if it is your mirror, name it in HF_ENDPOINT."
            )
        try:
            response = self._inner.handle_request(request)
        except httpx2.TransportError as error:
            raise NoAnswer(problem(error)) from error
        wrong = refusal(response) or _compressed(response) or _not_json(response)
        if wrong is not None:
            response.close()
            raise wrong
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_InTime(response, self._clock, self._until),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._inner.close()


class _InTime(httpx2.SyncByteStream):
    """A body that ends, soon and not too far off."""

    def __init__(self, response: httpx2.Response, clock: Clock, until: float) -> None:
        self._response = response
        self._clock = clock
        self._until = until

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        try:
            for piece in self._response.iter_raw():
                length += len(piece)
                if length > MAX_ANSWER_BYTES:
                    raise NoAnswer(f"its answer is over {MAX_ANSWER_BYTES >> 20} MiB", again=False)
                if self._clock.now() > self._until:
                    raise NoAnswer(f"its answer did not end within {ANSWER_S:g} s", again=False)
                yield piece
        except httpx2.TransportError as error:
            raise NoAnswer(problem(error)) from error

    def close(self) -> None:
        self._response.close()


def _compressed(response: httpx2.Response) -> NoAnswer | None:
    """A few bytes may become any number of them, and nobody asked for it."""
    if response.headers.get("content-encoding", "identity").lower() == "identity":
        return None
    return NoAnswer("it sends a compressed answer that was not asked for", again=False)


def _not_json(response: httpx2.Response) -> NoAnswer | None:
    kind = response.headers.get("content-type", "").lower()
    if not response.is_success or "json" in kind:
        return None
    return NoAnswer(
        f"it sends {_LOGIN}; open any page in a browser"
        if "html" in kind
        else "what it sends is no JSON",
        again=False,
    )


def _given_up(error: NoAnswer, wait: float) -> NoAnswer:
    if error.asked_s is None:
        return error
    return NoAnswer(f"{error} and asks to be left alone for {format_duration(wait)}", again=False)
