"""What a client sees while it waits: headers at once, comments, progress; half a connection."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from starlette.types import Message, Scope

from localllm.engine.fake import Script
from localllm.errors import ContextOverflow, LocalLLMError
from localllm.server.listen import ConnectionLimits
from localllm.server.streaming import HALF_CLOSED, StreamResponse, StreamTimes
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server

QUICK = StreamTimes(headers_s=0.01, silence_s=0.02, probe_s=0.01)


def question(**fields: object) -> bytes:
    """A request for a chat completion, as bytes."""
    messages = [{"role": "user", "content": "one two three"}]
    body = json.dumps({"model": MODEL, "messages": messages, **fields}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_headers_come_before_the_prompt_is_read(server: ServerUnderTest) -> None:
    server.script.prompt_gate = asyncio.Semaphore(0)
    reader, writer = await server.connect()
    writer.write(question(stream=True))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    server.script.prompt_gate.release()
    assert b"Hello" in await reader.readuntil(b"[DONE]")
    writer.close()


async def test_an_error_before_the_request_is_accepted_is_a_status(server: ServerUnderTest) -> None:
    server.script.accept_gate = asyncio.Semaphore(0)
    server.script.generate_error = ContextOverflow("too long")
    reader, writer = await server.connect()
    writer.write(question(stream=True))
    await server.script.opened.get()
    server.script.accept_gate.release()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_progress_comes_where_it_is_requested(server: ServerUnderTest) -> None:
    for path, extra in (
        ("chat/completions", {"messages": [{"role": "user", "content": "one two three"}]}),
        ("completions", {"prompt": "one two three"}),
    ):
        for asked in (True, False):
            body = {"model": MODEL, "stream": True, "return_progress": asked, **extra}
            answer = await server.post(f"/v1/{path}", body)
            events = [
                json.loads(line[6:])
                for line in answer.body.split(b"\n")
                if line.startswith(b"data: {")
            ]
            progress = [each["prompt_progress"] for each in events if "prompt_progress" in each]
            assert all(each["choices"][0]["finish_reason"] is None for each in events[:2])
            assert progress == (
                [
                    {"total": 3, "cache": 0, "processed": 0, "time_ms": 0},
                    {"total": 3, "cache": 0, "processed": 3, "time_ms": 125},
                ]
                if asked
                else []
            )


# --- a stream by itself ---


class Client:
    """The ASGI side of a client: what was sent to it, by kind."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.statuses: list[int] = []
        self.body: list[bytes] = []
        self.enough = asyncio.Event()
        self._stop_after = stop_after

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])
        elif message["body"]:
            self.body.append(message["body"])
        if len(self.body) >= self._stop_after:
            self.enough.set()

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError


def scope(half_closed: asyncio.Event | None = None) -> Scope:
    extensions = {} if half_closed is None else {HALF_CLOSED: {"event": half_closed}}
    return {"type": "http", "extensions": extensions}


def response(pieces: AsyncGenerator[bytes, None], times: StreamTimes = QUICK) -> StreamResponse:
    def encode_error(error: LocalLLMError) -> bytes:
        return f"error: {error}".encode()

    return StreamResponse(
        pieces,
        "text/event-stream",
        encode_error=encode_error,
        keep_alive=lambda: b": waiting\n\n",
        times=times,
    )


async def test_headers_do_not_wait_for_ever_and_a_later_error_is_the_last_piece() -> None:
    late, client = asyncio.Event(), Client(stop_after=2)

    async def pieces() -> AsyncGenerator[bytes, None]:
        await late.wait()
        raise ContextOverflow("too long")
        yield  # a generator

    answering = asyncio.create_task(response(pieces())(scope(), client.receive, client.send))
    await client.enough.wait()
    late.set()
    await answering
    assert client.statuses == [200]
    assert client.body[-1] == b"error: too long"
    assert set(client.body[:-1]) == {b": waiting\n\n"}


@pytest.mark.parametrize("error", [ContextOverflow("too long"), ValueError("a fault of ours")])
async def test_an_error_at_once_is_raised_before_any_header(error: Exception) -> None:
    client = Client()

    async def pieces() -> AsyncGenerator[bytes, None]:
        raise error
        yield  # a generator

    with pytest.raises(type(error)):
        await response(pieces(), StreamTimes())(scope(), client.receive, client.send)
    assert not client.statuses


async def test_comments_fill_silence_between_pieces() -> None:
    client = Client(stop_after=4)  # the first piece and three comments

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await client.enough.wait()
        yield b"b"

    await response(pieces())(scope(), client.receive, client.send)
    assert client.body == [b"a", *[b": waiting\n\n"] * (len(client.body) - 2), b"b"]


async def test_a_stream_that_is_not_silent_has_no_comment() -> None:
    client = Client()

    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(1000):
            yield b"a"

    await response(pieces(), StreamTimes())(scope(), client.receive, client.send)
    assert client.body == [b"a"] * 1000


async def test_a_client_that_closes_its_sending_side_is_probed_at_once() -> None:
    half_closed, client = asyncio.Event(), Client(stop_after=3)
    half_closed.set()

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b""
        await client.enough.wait()

    times = StreamTimes(silence_s=60.0, probe_s=0.005)
    await response(pieces(), times)(scope(half_closed), client.receive, client.send)
    assert set(client.body) == {b": waiting\n\n"}


# --- half a connection ---


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_closes_its_sending_side_gets_its_answer(
    server: ServerUnderTest, stream: bool
) -> None:
    server.script.gate = asyncio.Semaphore(0)
    reader, writer = await server.connect()
    writer.write(question(stream=stream))
    writer.write_eof()
    await server.script.opened.get()
    for _ in server.script.tokens:
        server.script.gate.release()
    answer = await reader.read()  # up to the end: the server closes the connection
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"[DONE]" in answer if stream else b"Hello, world." in answer
    writer.close()


async def test_two_requests_in_one_go_are_both_answered(server: ServerUnderTest) -> None:
    reader, writer = await server.connect()
    writer.write(2 * question())
    writer.write_eof()
    assert (await reader.read()).count(b"Hello, world.") == 2
    writer.close()


async def test_half_a_request_behind_a_whole_one_is_not_waited_for(
    server: ServerUnderTest,
) -> None:
    reader, writer = await server.connect()
    writer.write(question() + question()[:-5])
    writer.write_eof()
    assert (await reader.read()).count(b"HTTP/1.1 ") == 1
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("eof_first", [True, False])
async def test_a_client_that_closes_its_connection_ends_its_request(
    smollm2: Path, tmp_path: Path, stream: bool, eof_first: bool
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    limits = ConnectionLimits(probe_s=0.02, shutdown_grace_s=0.0)
    async with start_server(script, smollm2, tmp_path, limits=limits) as server:
        _, writer = await server.connect()
        writer.write(question(stream=stream))
        if eof_first:
            writer.write_eof()
        opened = await script.opened.get()
        writer.close()
        assert await script.closed.get() == opened


async def test_a_sign_of_life_before_a_whole_answer_is_an_interim_response(
    smollm2: Path, tmp_path: Path
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    limits = ConnectionLimits(probe_s=0.02, shutdown_grace_s=0.0)
    async with start_server(script, smollm2, tmp_path, limits=limits) as server:
        reader, writer = await server.connect()
        writer.write(question())
        writer.write_eof()
        for _ in range(2):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert script.gate is not None
        for _ in script.tokens:
            script.gate.release()
        assert b"HTTP/1.1 200 " in await reader.read()
        writer.close()


@pytest.mark.parametrize("sent", [b"", question()[:40], question()[:-5]])
async def test_half_a_request_is_no_request(server: ServerUnderTest, sent: bytes) -> None:
    reader, writer = await server.connect()
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == b""
    assert server.script.requests == []
    writer.close()
