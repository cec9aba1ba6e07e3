"""Merged streams, and work that ends with its client."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from localllm.engine.messages import GenerateEvent, Token
from localllm.errors import ContextOverflow
from localllm.server.generation.choices import Choices
from localllm.server.streaming import cancel_on_disconnect, merge_streams

Stream = AsyncGenerator[int, None]


class Endless:
    """A stream that yields 0 and then waits for ever; `closed` when it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def events(self) -> Stream:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def numbers(count: int) -> Stream:
    for number in range(count):
        yield number


async def failing() -> Stream:
    raise ContextOverflow("too long")
    yield  # a generator


@pytest.mark.parametrize("counts", [(3,), (0,), (2, 0, 500)])
async def test_merged_streams_keep_each_stream_s_order(counts: tuple[int, ...]) -> None:
    events = [event async for event in merge_streams([numbers(count) for count in counts])]
    assert len(events) == sum(counts)
    for index, count in enumerate(counts):
        assert [number for i, number in events if i == index] == list(range(count))


async def test_a_merged_stream_that_is_closed_closes_its_sources() -> None:
    for count in (1, 3):
        sources = [Endless() for _ in range(count)]
        merged = merge_streams([source.events() for source in sources])
        await anext(merged)
        await merged.aclose()
        assert all(source.closed for source in sources)


async def test_an_error_of_one_prompt_ends_all_streams() -> None:
    closed: list[str] = []

    async def endless() -> AsyncGenerator[GenerateEvent, None]:
        try:
            yield Token(request_id="a", text="x")
            await asyncio.Event().wait()
        finally:
            closed.append("endless")

    async def overflowing() -> AsyncGenerator[GenerateEvent, None]:
        raise ContextOverflow("too long")
        yield  # a generator

    with pytest.raises(ContextOverflow):
        await Choices(prompts=2).read([endless(), overflowing()])
    assert closed == ["endless"]


async def test_an_error_of_a_single_stream_is_raised() -> None:
    with pytest.raises(ContextOverflow):
        await anext(merge_streams([failing()]))


async def test_work_is_cancelled_when_its_client_leaves() -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            messages.put_nowait({"type": "http.disconnect"})
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ClientDisconnect):
        await cancel_on_disconnect(messages.get, work())
    assert ended.is_set()


async def test_work_that_ends_first_has_its_result_and_its_error() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    assert await cancel_on_disconnect(receive, work(None)) == 7
    with pytest.raises(ContextOverflow):
        await cancel_on_disconnect(receive, work(ContextOverflow("too long")))
