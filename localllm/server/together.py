"""Several streams of events read as one, in the order in which their events come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

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
