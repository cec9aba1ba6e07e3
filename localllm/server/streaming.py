"""Streamed responses, and work that ends when its client leaves.

starlette's StreamingResponse sends the status at once; ours waits for the first piece, though not
for long, so that an error before it is still an HTTP error. It keeps the connection from falling
silent, and closes its source whatever happens, which is what cancels the request in the engine.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localllm.errors import LocalLLMError

T = TypeVar("T")

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"


def sse_comment(text: str) -> bytes:
    """Write a comment, which clients of server-sent events skip; `text` has no line break."""
    return b": " + text.encode("ascii", "replace") + b"\n\n"


def sse_event(data: bytes) -> bytes:
    """Write one server-sent event; `data` has no line break."""
    return b"data: " + data + b"\n\n"


class DescribedStream(AsyncGenerator[T, None]):
    """A stream that says, while nothing comes, what its consumer waits for; `describe` returns None
    when there is nothing to say."""

    def __init__(self, stream: AsyncGenerator[T, None], describe: Callable[[], str | None]) -> None:
        self._stream = stream
        self.describe = describe

    def __anext__(self) -> Coroutine[object, object, T]:
        return self._stream.__anext__()  # no frame of its own: it is called for every token

    async def asend(self, value: None) -> T:
        return await self._stream.asend(value)

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> T:
        # Only an exception itself: the form of three arguments is deprecated.
        return await self._stream.athrow(typ if isinstance(typ, BaseException) else typ())

    async def aclose(self) -> None:
        await self._stream.aclose()


async def cancel_on_disconnect(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Run `work`, but cancel it at once when the client leaves; then raise ClientDisconnect.

    The body must have been read: from here on `receive` can only report a disconnect.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait((task, watch))
    if task.cancelled():
        raise ClientDisconnect
    return task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTimes:
    """Waiting times of a stream in seconds.

    `headers_s`: the longest that status and headers wait for the first piece: as long as an error
    may well come instead of it, and far below what any client or proxy waits for. `silence_s`: the
    longest time without a byte, below the 10 s that the strictest clients wait. `probe_s`: the
    first such time after the client has closed its sending side, doubled each time up to
    `silence_s`: only what is written shows if it is still there.
    """

    headers_s: float = 2.0
    silence_s: float = 5.0
    probe_s: float = 0.05


DEFAULT_TIMES = StreamTimes()

HALF_CLOSED = "localllm.half_closed"
"""Extension of the ASGI scope: its `event` is set when the client closes its sending side."""


class StreamResponse(Response):
    """A response that is written piece by piece.

    Status and headers go with the first piece, which may be empty, or after `times.headers_s`. An
    error before that is raised and becomes an HTTP error; of a later one `encode_error` makes the
    last piece. While no piece comes `keep_alive` is written, a piece that means nothing; an empty
    one: nothing is. `pieces` is closed whatever happens.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        encode_error: Callable[[LocalLLMError], bytes],
        keep_alive: Callable[[], bytes] = bytes,
        times: StreamTimes = DEFAULT_TIMES,
    ) -> None:
        # Not Response.__init__, which would declare a length. no-transform and
        # X-Accel-Buffering keep proxies from holding pieces back.
        self.status_code = 200
        self.background = None
        self._pieces = pieces
        self._encode_error = encode_error
        self._keep_alive = keep_alive
        self._times = times
        self._sent_at = 0.0
        self.init_headers(
            {
                "content-type": media_type,
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extension = scope.get("extensions", {}).get(HALF_CLOSED, {})
        half_closed: asyncio.Event = extension.get("event") or asyncio.Event()
        with suppress(ClientDisconnect):
            await cancel_on_disconnect(receive, self._send_all(send, half_closed))

    async def _send_all(self, send: Send, half_closed: asyncio.Event) -> None:
        async with aclosing(self._pieces) as pieces:
            first = asyncio.ensure_future(anext(pieces))
            try:
                await asyncio.wait((first,), timeout=self._times.headers_s)
                if first.done():
                    first.result()  # an error is still an HTTP error
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                silence = asyncio.create_task(self._break_silence(send, half_closed))
                try:
                    await self._send_pieces(send, first, pieces)
                finally:
                    silence.cancel()
                    await asyncio.wait((silence,))
            finally:
                if first.cancel():  # closing a generator that runs is an error
                    await asyncio.wait((first,))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_pieces(
        self, send: Send, first: "asyncio.Future[bytes]", pieces: AsyncGenerator[bytes, None]
    ) -> None:
        try:
            await self._send_piece(send, await first)
            async for piece in pieces:
                await self._send_piece(send, piece)
        except LocalLLMError as error:
            await self._send_piece(send, self._encode_error(error))

    async def _send_piece(self, send: Send, piece: bytes) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        if piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _break_silence(self, send: Send, half_closed: asyncio.Event) -> None:
        """Write a piece that means nothing whenever there was none for some time."""
        loop, times, never = asyncio.get_running_loop(), self._times, asyncio.Event()
        longest_s, until = times.silence_s, half_closed
        self._sent_at = loop.time()
        while True:
            quiet_s = loop.time() - self._sent_at
            if quiet_s >= longest_s:
                longest_s = min(2 * longest_s, times.silence_s)
                await self._send_piece(send, self._keep_alive())
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_s - quiet_s):
                    await until.wait()
                    longest_s, until = times.probe_s, never


_MAX_BUFFERED = 64
"""Events that are read ahead of the consumer: a slow one slows the sources down."""


async def merge_streams(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """Yield every event with the index of its stream, as they come.

    The first error ends all. Every stream is closed when this one is, or ends.
    """
    if len(streams) == 1:  # nothing to merge: no task and no buffer between the two
        async with aclosing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    free = asyncio.Semaphore(_MAX_BUFFERED)
    queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()

    async def read(index: int) -> None:
        async with aclosing(streams[index]) as stream:
            async for event in stream:
                await free.acquire()
                queue.put_nowait((index, event))

    readers = [asyncio.create_task(read(index)) for index in range(len(streams))]
    for reader in readers:
        reader.add_done_callback(queue.put_nowait)
    try:
        running = len(readers)
        while running:
            item = await queue.get()
            if isinstance(item, tuple):
                free.release()
                yield item
            else:
                item.result()  # raises what ended the stream
                running -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
