"""Streamed responses, and work that ends when its client leaves.

starlette's StreamingResponse sends the status at once; ours waits for the first piece, so that an
error before it is still an HTTP error. It also closes its source whatever happens, which is what
cancels the request in the engine.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"


def sse_event(data: bytes) -> bytes:
    """Write one server-sent event; `data` has no line break."""
    return b"data: " + data + b"\n\n"


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


class StreamResponse(Response):
    """A response that is written piece by piece.

    The status goes with the first piece: an error before it is raised and becomes an HTTP error.
    `pieces` is closed whatever happens.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Not Response.__init__, which would declare a length. no-transform and
        # X-Accel-Buffering keep proxies from holding pieces back.
        self.status_code = 200
        self.background = None
        self._pieces = pieces
        self.init_headers(
            {
                "content-type": media_type,
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await cancel_on_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            first = await anext(pieces)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
