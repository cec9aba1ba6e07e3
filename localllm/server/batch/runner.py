"""Run the lines of a batch: so many at once, tried again where waiting helps, kept as they end."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from localllm.errors import ServeError
from localllm.server.batch.input_file import BatchInput
from localllm.server.batch.journal import Journal
from localllm.server.batch.lines import BatchLine, LineResult, id_key

IN_FLIGHT = 16
"""Requests at once: as many as fill the slots of the usual servers, and a queue behind them."""

MAX_CRASHES = 2
"""A line at which the engine has ended so often is an error: it may be the reason."""

_MAX_WAIT_S = 300.0
_CRASH_WAIT_S = 1.0
_NEVER_FITS = 507
_CONNECT_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0)
"""A server that is started again is there within that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """The answer to a line. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Send = Callable[[BatchLine], Awaitable[HttpAnswer]]
"""Raises ConnectionError when the server cannot be reached."""


@dataclass(slots=True, kw_only=True)
class BatchProgress:
    """How far a batch is. `resumed` of the `done` were there before; `tokens` were generated since
    it began at `started_s`."""

    total: int
    done: int = 0
    failed: int = 0
    resumed: int = 0
    tokens: int = 0
    started_s: float = 0.0
    now_s: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def seconds(self) -> float:
        return self.now_s - self.started_s

    @property
    def tps(self) -> float | None:
        """Generated tokens a second; None before the first."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the rate of the last 64 results; None before there are two."""
        if len(self._recent) < 2 or self._recent[-1] <= self._recent[0]:
            return None
        rate = (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])
        return (self.total - self.done) / rate

    def add(self, result: LineResult, now_s: float) -> None:
        self.done += 1
        self.failed += result.failed
        self.tokens += result.tokens
        self.now_s = now_s
        self._recent.append(now_s)


async def run_batch(
    batch: BatchInput,
    journal: Journal,
    send: Send,
    *,
    on_progress: Callable[[BatchProgress], None] = lambda _: None,
    in_flight: int = IN_FLIGHT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BatchProgress:
    """Run every line that `journal` has no result of. Cancelling it keeps what is done.

    Raises StoreError when a result cannot be kept, ServeError when the server is gone.
    """
    progress = BatchProgress(
        total=batch.total,
        done=len(journal.done),
        resumed=len(journal.done),
        failed=journal.failed,
        started_s=clock(),
    )
    progress.now_s = progress.started_s
    on_progress(progress)

    async def keep(result: LineResult) -> None:
        await asyncio.to_thread(journal.append, result)
        progress.add(result, clock())
        on_progress(progress)

    writing, suspects = asyncio.Lock(), asyncio.Lock()
    known = set(journal.done)
    for _, result in batch.invalid:
        if id_key(result.custom_id) not in known:
            await keep(result)
    lines = batch.pending(known)

    async def work() -> None:
        for line in lines:  # one line of a file that was just read: no work for a thread
            result = await _result(line, send, sleep, suspects)
            async with writing:
                await keep(result)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return progress


async def _result(
    line: BatchLine,
    send: Send,
    sleep: Callable[[float], Awaitable[None]],
    suspects: asyncio.Lock,
) -> LineResult:
    """Send a line until there is an answer that will not change by waiting.

    A server says with Retry-After that waiting helps. Without it the engine has failed with this
    line, or with one beside it: those are tried again one at a time, so that one that ends the
    engine every time takes no other with it.
    """
    crashes = unreached = 0
    while True:
        try:
            async with suspects if crashes else contextlib.nullcontext():
                answer = await send(line)
        except ConnectionError as error:
            if unreached == len(_CONNECT_WAITS_S):
                raise ServeError(
                    f"The server cannot be reached any more: {error}. What is done is kept; start "
                    "the same command again when it runs."
                ) from error
            await sleep(_CONNECT_WAITS_S[unreached])
            unreached += 1
            continue
        unreached = 0
        wait_s = _retry_after(answer)
        if wait_s is not None:
            await sleep(wait_s)
        elif answer.status >= 500 and answer.status != _NEVER_FITS and crashes < MAX_CRASHES:
            crashes += 1
            await sleep(_CRASH_WAIT_S)
        else:
            return _line_result(line, answer)


def _retry_after(answer: HttpAnswer) -> float | None:
    text = answer.headers.get("retry-after", "")
    return min(_MAX_WAIT_S, float(text)) if text.isdecimal() and len(text) < 8 else None


def _line_result(line: BatchLine, answer: HttpAnswer) -> LineResult:
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    return LineResult(
        custom_id=line.custom_id,
        status=answer.status,
        body=body,
        request_id=answer.headers.get("x-request-id"),
    )
