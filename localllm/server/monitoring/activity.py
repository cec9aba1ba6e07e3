"""What a server does at this moment, for whoever watches it: its requests, their rates, and while a
request runs what it asks.

It is in memory only, and of what clients ask and are answered nothing stays when a request has
ended: then there are times, counts and the name that the client gave itself. Nothing here is
written anywhere.
"""

import asyncio
import contextlib
import itertools
import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from localllm.core.text import single_line
from localllm.engine.messages import (
    Finished,
    GenerateEvent,
    GenerateRequest,
    PromptProgress,
    Reasoning,
    Token,
)
from localllm.server.request_record import RequestRecord

MAX_REQUESTS = 200
"""Requests that have ended and are still listed."""
RATE_SECONDS = 600
"""How far back the rates go."""
MAX_ANSWER = 4000
"""Characters of a running answer that can be looked at: its end."""
_MAX_CLIENT = 24
_QUIET = frozenset({"/health", "/metrics", "/admin/*", "/admin", "/page/session"})
"""Routes of programs that watch: they are listed when they are refused."""
_VERSION = re.compile(r"/v?[0-9][^ ]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """A request as a list shows it. `at`: seconds since 1970. `client` is the name that the client
    gives itself, `key` that of its key where it is not the owner's.

    `seconds` since it came, or until it ended; `first_token_s` None: there is none yet. `status` is
    that of HTTP, None while it runs; `code` that of an error, `reason` that of an answer's end.
    `prompt_read`: tokens of the prompt that were read so far.
    """

    number: int
    at: float
    client: str
    route: str
    key: str | None = None
    model: str | None = None
    tools: int = 0
    prompt_tokens: int = 0
    prompt_read: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    decode_tps: float | None = None
    status: int | None = None
    code: str | None = None
    reason: str | None = None

    @property
    def is_running(self) -> bool:
        return self.status is None

    @property
    def is_refused(self) -> bool:
        """True for a request that the guards did not let in."""
        return self.status in (401, 403, 429)

    @property
    def is_error(self) -> bool:
        """True for a request that failed, and was not refused."""
        return self.status is not None and self.status >= 400 and not self.is_refused


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAnswer:
    """What a running request asks for, and the end of its answer so far."""

    request: GenerateRequest
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityTotals:
    """Counts since the server was started."""

    requests: int = 0
    tokens: int = 0
    errors: int = 0
    refused: int = 0


@dataclass(slots=True, kw_only=True)
class _Running:
    """A request that runs."""

    record: RequestRecord
    listed: ServedRequest
    generations: dict[str, GenerateRequest] = field(default_factory=dict)
    tools: int = 0
    pieces: deque[str] = field(default_factory=deque)
    length: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    engine_tps: float | None = None
    reason: str | None = None
    prompt_read: int = 0


class Activity:
    """Watches the requests of one server. `clock`: monotonic seconds, `wall`: since 1970."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.totals = ActivityTotals()
        self._clock = clock
        self._wall = wall
        self._numbers = itertools.count(1)
        self._running: dict[int, _Running] = {}
        self._ended: deque[ServedRequest] = deque(maxlen=MAX_REQUESTS)
        self._tokens: deque[tuple[int, int]] = deque(maxlen=RATE_SECONDS)
        self._answered: asyncio.Future[None] | None = None

    # --- what happens ---

    def begin(self, record: RequestRecord, *, route: str, client: str) -> None:
        """Note a request that has come; `client` is its User-Agent, or ""."""
        listed = ServedRequest(
            number=next(self._numbers), at=self._wall(), client=client_name(client), route=route
        )
        self._running[id(record)] = _Running(record=record, listed=listed)

    def end(self, record: RequestRecord, *, status: int) -> None:
        """Note that a request was answered; what it asked is forgotten."""
        running = self._running.pop(id(record), None)
        if running is None:
            return
        done = replace(self._described(running), status=status, code=record.error_code)
        self.totals = ActivityTotals(
            requests=self.totals.requests + 1,
            tokens=self.totals.tokens + done.prompt_tokens + done.completion_tokens,
            errors=self.totals.errors + done.is_error,
            refused=self.totals.refused + done.is_refused,
        )
        if done.route not in _QUIET or done.is_refused:
            self._ended.append(done)

    @contextlib.contextmanager
    def generating(
        self, record: RequestRecord | None, request: GenerateRequest
    ) -> Iterator[Callable[[GenerateEvent], None]]:
        """Watch an answer while it is computed: what is yielded gets its events."""
        running = self._running.get(id(record)) if record is not None else None
        if running is None:
            yield lambda _event: None
            return
        running.generations[request.request_id] = request
        running.tools = len(request.tools)
        try:
            yield lambda event: self._note(running, event)
        finally:
            del running.generations[request.request_id]
            if not running.generations:
                running.pieces.clear()
            if self._answered is not None and not self.engine_requests():
                self._answered.set_result(None)
                self._answered = None

    def _note(self, running: _Running, event: GenerateEvent) -> None:
        match event:
            case Token(of_prompt=False):
                now = self._clock()
                running.last_token_at = now
                if running.first_token_at is None:
                    running.first_token_at = now
                self._count(now)
                _keep_end(running, event.text)
            case Reasoning():
                _keep_end(running, event.text)
            case PromptProgress():
                running.prompt_read = event.processed
            case Finished():
                running.reason = event.reason.value
                running.engine_tps = event.timings.decode_tps

    def _count(self, now: float) -> None:
        second = int(now)
        if self._tokens and self._tokens[-1][0] == second:
            self._tokens[-1] = (second, self._tokens[-1][1] + 1)
        else:
            self._tokens.append((second, 1))

    # --- what can be seen ---

    def now(self) -> float:
        """Return the time in which requests are dated: seconds since 1970."""
        return self._wall()

    @property
    def running(self) -> tuple[ServedRequest, ...]:
        """The requests that run, the oldest first, but for those of programs that only watch."""
        described = map(self._described, self._running.values())
        return tuple(each for each in described if each.route not in _QUIET)

    @property
    def requests(self) -> tuple[ServedRequest, ...]:
        """The requests, the newest first."""
        every = (*self._ended, *self.running)
        return tuple(sorted(every, key=lambda each: each.number, reverse=True))

    def answer(self, number: int) -> RunningAnswer | None:
        """Return what a running request asks; None when it has ended, or asks no model."""
        running = self._numbered(number)
        if running is None or not running.generations:
            return None
        request = next(iter(running.generations.values()))
        return RunningAnswer(request=request, answer="".join(running.pieces))

    def engine_requests(self, numbers: Iterable[int] | None = None) -> tuple[tuple[str, str], ...]:
        """Return model and engine's id of the answers that are computed, to cancel them: of the
        requests of these numbers, None: of all."""
        wanted = None if numbers is None else frozenset(numbers)
        return tuple(
            (each.record.model, request_id)
            for each in self._running.values()
            for request_id in each.generations
            if (wanted is None or each.listed.number in wanted) and each.record.model is not None
        )

    async def until_answered(self) -> None:
        """Wait until no answer is computed."""
        while self.engine_requests():
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._answered)

    def rates(self, seconds: int, step_s: int = 1) -> tuple[float, ...]:
        """Return the tokens/s of all answers together in the last `seconds`, oldest first, each the
        mean over `step_s`; the second that has not ended is left out."""
        now = int(self._clock())
        start = now - seconds
        sums = [0] * (seconds // step_s)
        for second, count in self._tokens:
            if start <= second < now and (index := (second - start) // step_s) < len(sums):
                sums[index] += count
        return tuple(each / step_s for each in sums)

    def first_tokens(self, seconds: float) -> tuple[float, float] | None:
        """Return the median and the worst time to a first token of the answers of the last
        `seconds`; None when there was none."""
        since = self._wall() - seconds
        times = [
            each.first_token_s
            for each in self.requests
            if each.first_token_s is not None and each.at >= since
        ]
        return (statistics.median(times), max(times)) if times else None

    def clients(self, seconds: float) -> tuple[str, ...]:
        """Return the names of the clients that were let in during the last `seconds`."""
        since = self._wall() - seconds
        names = (
            each.client
            for each in self.requests
            if (each.is_running or each.at + each.seconds >= since) and not each.is_refused
        )
        return tuple(dict.fromkeys(names))

    def _numbered(self, number: int) -> _Running | None:
        return next((each for each in self._running.values() if each.listed.number == number), None)

    def _described(self, running: _Running) -> ServedRequest:
        record, caller = running.record, running.record.caller
        first = running.first_token_at
        return replace(
            running.listed,
            key=None if caller is None or caller.name == "owner" else caller.name,
            model=record.model,
            tools=running.tools,
            prompt_tokens=record.prompt_tokens,
            prompt_read=running.prompt_read,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            first_token_s=None if first is None else first - record.started,
            seconds=self._clock() - record.started,
            decode_tps=running.engine_tps or _rate(running),
            reason=running.reason,
        )


def client_name(user_agent: str) -> str:
    """Make a short name of a User-Agent: its first word without the version; a browser is one."""
    first = single_line(user_agent).partition(" ")[0]
    if first.startswith("Mozilla/"):
        return "browser"
    return _VERSION.sub("", first)[:_MAX_CLIENT] or "?"


def _rate(running: _Running) -> float | None:
    """Compute the rate of a running answer from its tokens so far."""
    first, last = running.first_token_at, running.last_token_at
    steps = running.record.completion_tokens - 1
    if first is None or last is None or last <= first or steps < 1:
        return None
    return steps / (last - first)


def _keep_end(running: _Running, text: str) -> None:
    running.pieces.append(text)
    running.length += len(text)
    while running.pieces and running.length - len(running.pieces[0]) >= MAX_ANSWER:
        running.length -= len(running.pieces.popleft())


def slots_of(
    running: Sequence[ServedRequest], model: str, slots: int
) -> tuple[ServedRequest | None, ...]:
    """Return what each slot of a model does: its requests, the oldest first, then None for each
    slot that is free. More requests than slots wait, and are left out."""
    busy = [each for each in running if each.model == model][:slots]
    return (*busy, *([None] * (slots - len(busy))))
