"""Server-sent events: a response that ends with its client, and streams merged into one."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


def event_line(data: bytes) -> bytes:
    """One server-sent event; `data` has no line break."""
    return b"data: " + data + b"\n\n"


DONE = event_line(b"[DONE]")
"""What OpenAI's streams end with."""


async def unless_gone(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Do `work`, but cancel it at once when the client leaves; then raise ClientDisconnect.

    The body must have been read: from here on `receive` can only say that the client left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
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


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. The status is sent with the first one: an error before it is still
    an HTTP error. `events` is closed whatever happens."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # Not Response.__init__, which would declare a length. no-transform and
        # X-Accel-Buffering keep proxies from holding events back.
        self.status_code = 200
        self.background = None
        self._events = events
        self.init_headers(
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_AHEAD = 64
"""Events that are read before somebody wants them: who reads slowly slows the sources down."""


async def together(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """Yield every event with the number of its stream.

    The first error ends all. Every stream is closed when this one is, or ends.
    """
    room = asyncio.Semaphore(_AHEAD)
    come: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()

    async def read(number: int) -> None:
        async with aclosing(streams[number]) as stream:
            async for event in stream:
                await room.acquire()
                come.put_nowait((number, event))

    readers = [asyncio.create_task(read(number)) for number in range(len(streams))]
    for reader in readers:
        reader.add_done_callback(come.put_nowait)
    try:
        left = len(readers)
        while left:
            event = await come.get()
            if isinstance(event, tuple):
                room.release()
                yield event
            else:
                event.result()  # raises what ended the stream
                left -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
