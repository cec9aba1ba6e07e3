"""Many requests at once, clients that misbehave, an engine that ends, and the end of the server.

Every request gets exactly one answer: a whole one, or a typed error. Nobody's fault is another's.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import gguf
import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from localllm.engine.messages import GenerateEvent, GenerateRequest
from localllm.errors import QueueFull
from localllm.runtime.load_policy import LoadChoice
from localllm.server.listen import (
    RESERVED_FILES,
    ConnectionLimits,
    allow_connections,
    connections_within,
    raised_limit,
)
from tests.engine import tiny
from tests.server.server_under_test import KEY, MODEL, HttpResponse, ServerUnderTest, start_server
from tests.server.test_protocol import dechunk

MESSAGES = [{"role": "user", "content": "one"}]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request for one answer in a dialect. `end` is in the last piece of a whole stream, `error`
    in that of one that ended with an error."""

    path: str
    body: dict[str, object]
    end: bytes
    error: bytes

    def sent(self, *, stream: bool) -> dict[str, object]:
        return {"model": MODEL, "stream": stream, **self.body}


CALLS = (
    Call(
        path="/v1/chat/completions",
        body={"messages": MESSAGES, "max_tokens": 4},
        end=b"data: [DONE]\n\n",
        error=b'"code":"engine_crashed"',
    ),
    Call(
        path="/v1/completions",
        body={"prompt": "one", "max_tokens": 4},
        end=b"data: [DONE]\n\n",
        error=b'"code":"engine_crashed"',
    ),
    Call(
        path="/v1/responses",
        body={"input": "one", "max_output_tokens": 16, "store": False},
        end=b'"type":"response.',
        error=b'"type":"response.failed"',
    ),
    Call(
        path="/v1/messages",
        body={"messages": MESSAGES, "max_tokens": 4},
        end=b'"type":"message_stop"',
        error=b"event: error\n",
    ),
    Call(
        path="/api/chat",
        body={"messages": MESSAGES, "options": {"num_predict": 4}},
        end=b'"done":true',
        error=b'{"error":"',
    ),
    Call(
        path="/api/generate",
        body={"prompt": "one", "options": {"num_predict": 4}},
        end=b'"done":true',
        error=b'{"error":"',
    ),
    Call(
        path="/completion",
        body={"prompt": "one", "n_predict": 4},
        end=b'"stop":true',
        error=b'"code":"engine_crashed"',
    ),
    Call(
        path="/infill",
        body={"input_prefix": "one", "input_suffix": "two", "n_predict": 4},
        end=b'"stop":true',
        error=b'"code":"engine_crashed"',
    ),
)


def last_event(response: HttpResponse) -> bytes:
    """Return the last server-sent event of a stream, or its last line."""
    content = dechunk(response.body)
    separator = b"\n" if b"application/x-ndjson" in response.head.encode() else b"\n\n"
    return content.removesuffix(separator).rpartition(separator)[2] + separator


async def gauges(server: ServerUnderTest) -> tuple[float, float]:
    """Return the numbers of requests that run and that wait."""
    text = (await server.request("GET /metrics")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return (
        float(values["llamacpp:requests_processing"]),
        float(values["llamacpp:requests_deferred"]),
    )


async def assert_whole(server: ServerUnderTest, call: Call, *, stream: bool) -> None:
    response = await server.post(call.path, call.sent(stream=stream))
    assert response.status == 200, (call.path, response.body)
    if stream:
        assert call.end in last_event(response), (call.path, response.body)
    else:
        assert isinstance(json.loads(response.body), dict)


# --- many at once, with a real engine ---


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows a chat template and the tokens of the middle."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return tiny.infill(
        path, edit=lambda writer: gguf.GGUFWriter.add_chat_template(writer, TEMPLATE)
    )


async def test_two_hundred_requests_over_eight_slots_are_all_answered(
    tiny_model: Path, tmp_path: Path
) -> None:
    async with start_server(
        Script(),
        tiny_model,
        tmp_path / "data",
        start_engine=lambda: ProcessEngine(log_dir=tmp_path / "logs"),
        choice=LoadChoice(parallel=8, threads=1, context=256),
    ) as server:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                call = CALLS[number % len(CALLS)]
                group.create_task(assert_whole(server, call, stream=number % 16 < 8))
        assert await gauges(server) == (0, 0)


class ObservedEngine(ProcessEngine):
    """Puts the id of each request that is sent to the engine into `sent`."""

    def __init__(self, log_dir: Path, sent: "asyncio.Queue[str]") -> None:
        super().__init__(log_dir=log_dir)
        self.sent = sent

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        self.sent.put_nowait(request.request_id)
        async with contextlib.aclosing(super().generate(request)) as events:
            async for event in events:
                yield event


@pytest.mark.skipif(os.name != "posix", reason="it stops the engine with a signal")
async def test_more_than_the_queue_holds_is_refused_and_the_rest_answered(
    tiny_model: Path, tmp_path: Path
) -> None:
    """256 answers may wait: of those that come while the engine stands, two requests of 128."""
    sent: asyncio.Queue[str] = asyncio.Queue()
    engines: list[ObservedEngine] = []

    def start_engine() -> ObservedEngine:
        engines.append(ObservedEngine(tmp_path / "logs", sent))
        return engines[-1]

    async with start_server(
        Script(),
        tiny_model,
        tmp_path / "data",
        start_engine=start_engine,
        choice=LoadChoice(parallel=8, threads=1, context=256),
    ) as server:
        pid = engines[-1].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        body = {"model": MODEL, "prompt": "one", "max_tokens": 8, "n": 128}
        asked = [asyncio.ensure_future(server.post("/v1/completions", body)) for _ in range(6)]
        for _ in asked:
            await sent.get()
        os.kill(pid, signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        refused = [each for each in answers if each.status != 200]
        assert 1 <= len(refused) <= 4
        for each in refused:
            assert (each.status, each.error[1]) == (503, "queue_full")
            assert "retry-after: 1" in each.head.lower()
        for each in answers:
            assert each in refused or len(json.loads(each.body)["choices"]) == 128
        assert await gauges(server) == (0, 0)


async def test_a_full_queue_is_a_503_in_every_dialect(server: ServerUnderTest) -> None:
    for call in CALLS:
        for stream in (True, False):
            server.script.generate_error = QueueFull("256 wait")
            answer = await server.post(call.path, call.sent(stream=stream))
            assert answer.status == 503, call.path
            assert "retry-after: 1" in answer.head.lower(), call.path
            assert "error" in answer.document, call.path
            server.script.generate_error = None
            await assert_whole(server, call, stream=stream)


# --- an engine that ends ---


async def test_a_crash_in_an_answer_is_a_typed_error_in_every_dialect(
    server: ServerUnderTest,
) -> None:
    for call in CALLS:
        for stream in (True, False):
            server.script.crash_after = 2
            answer = await server.post(call.path, call.sent(stream=stream))
            if stream:
                assert answer.status == 200, call.path
                last = last_event(answer)
                assert call.error in last, (call.path, last)
                assert b"Hello" in answer.body, call.path
            else:
                assert answer.status == 503, call.path
                assert "crashed" in json.dumps(answer.document["error"]), call.path
            assert b"fake: killed" not in answer.body  # the log stays here
            server.script.crash_after = None
            await assert_whole(server, call, stream=stream)
    assert await gauges(server) == (0, 0)


# --- clients that misbehave ---


def request_bytes(call: Call, *, stream: bool, length: int | None = None, more: str = "") -> bytes:
    body = json.dumps(call.sent(stream=stream)).encode()
    head = (
        f"POST {call.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


QUICK = ConnectionLimits(
    max_connections=48,
    header_timeout_s=0.2,
    send_timeout_s=0.2,
    probe_s=0.02,
    shutdown_grace_s=0.0,
)


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the server hangs up, in whatever way."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_clients_that_leave_in_the_middle_end_their_own_requests(
    smollm2: Path, tmp_path: Path
) -> None:
    script = Script(gate=asyncio.Semaphore(0))
    async with start_server(script, smollm2, tmp_path, limits=QUICK) as server:
        for way in ("reset", "close", "half"):
            for call in CALLS:
                _, writer = await server.connect()
                writer.write(request_bytes(call, stream=True))
                request_id = await script.opened.get()
                if way == "reset":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif way == "half":
                    writer.write_eof()
                writer.close()
                assert await script.closed.get() == request_id
        script.gate = None
        for call in CALLS:
            await assert_whole(server, call, stream=True)
        assert await gauges(server) == (0, 0)


async def test_clients_that_send_half_or_crawl_take_nothing_from_others(
    smollm2: Path, tmp_path: Path
) -> None:
    async with start_server(Script(), smollm2, tmp_path, limits=QUICK) as server:
        open_ones: list[asyncio.StreamWriter] = []

        async def begin(sent: bytes) -> asyncio.StreamReader:
            reader, writer = await server.connect()
            open_ones.append(writer)
            writer.write(sent)
            return reader

        # A part of a head, a body that is announced longer than it is, and shorter.
        whole = request_bytes(CALLS[0], stream=True)
        halves = [await begin(sent) for sent in (whole[:60], b"G", b"")]
        await begin(request_bytes(CALLS[0], stream=True, length=999))
        short = await begin(request_bytes(CALLS[0], stream=True, length=9))
        assert b"HTTP/1.1 400 " in await short.readuntil(b"\r\n\r\n")
        await assert_whole(server, CALLS[0], stream=True)
        for half in halves:
            await read_to_the_end(half)
        # A head that comes byte by byte, for longer than it may take.
        gone = asyncio.ensure_future(read_to_the_end(await begin(b"GET /health HTTP/1.1\r\nX: ")))
        while not gone.done():
            with contextlib.suppress(ConnectionError):
                open_ones[-1].write(b"a")
            await asyncio.wait((gone,), timeout=0.01)
        # More connections than there may be: the last ones are refused, and those that are there
        # and send nothing are ended, so that the next client is answered.
        crowd = [await begin(b"") for _ in range(QUICK.max_connections + 5)]
        for reader in crowd[-5:]:
            assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        for reader in crowd[:-5]:
            await read_to_the_end(reader)
        for call in CALLS:
            await assert_whole(server, call, stream=True)
        assert await gauges(server) == (0, 0)
        for each in open_ones:
            each.close()


async def test_requests_in_one_go_are_answered_in_their_order(server: ServerUnderTest) -> None:
    sent = b"".join(request_bytes(call, stream=True) for call in CALLS[:-1])
    last = request_bytes(CALLS[-1], stream=False, more="Connection: close\r\n")
    answer = await server.raw(sent + last)
    assert answer.count(b"HTTP/1.1 200 OK") == len(CALLS)
    kinds = [head for head in answer.split(b"\r\n") if head.startswith(b"content-type: ")]
    assert [b"ndjson" in kind for kind in kinds] == [
        call.path.startswith("/api/") for call in CALLS
    ]
    assert len(server.script.requests) == len(CALLS)


# --- the end ---


async def is_let_in(server: ServerUnderTest) -> bool:
    """Tell whether the server still listens."""
    try:
        _, writer = await server.connect()
    except ConnectionRefusedError:
        return False
    except ConnectionError:  # it has closed its socket meanwhile
        return True
    writer.close()
    return True


async def test_the_end_lets_answers_end_and_refuses_the_rest(smollm2: Path, tmp_path: Path) -> None:
    """A signal: what is being written ends whole, what has not begun when the time is over gets an
    error of its dialect, and nobody is let in any more."""
    script = Script(gate=asyncio.Semaphore(0))
    limits = ConnectionLimits(shutdown_grace_s=60.0)
    async with start_server(script, smollm2, tmp_path, limits=limits) as server:
        answering = [
            asyncio.ensure_future(server.post(call.path, call.sent(stream=stream)))
            for call in CALLS
            for stream in (True, False)
        ]
        for _ in answering:
            await script.opened.get()
        server.stop.receive(signal.SIGTERM)
        while await is_let_in(server):
            pass
        for _ in range(len(answering) * len(script.tokens)):
            script.gate.release()  # type: ignore[union-attr]  # it is there
        answers = await asyncio.gather(*answering)
        for call, whole, streamed in zip(CALLS, answers[1::2], answers[::2], strict=True):
            assert (whole.status, streamed.status) == (200, 200), call.path
            assert call.end in last_event(streamed), call.path
        await server.serving


async def test_what_waits_at_the_end_gets_a_typed_error(smollm2: Path, tmp_path: Path) -> None:
    script = Script(accept_gate=asyncio.Semaphore(0))
    async with start_server(script, smollm2, tmp_path) as server:
        waiting = [
            asyncio.ensure_future(server.post(call.path, call.sent(stream=stream)))
            for call in CALLS
            for stream in (True, False)
        ]
        for _ in waiting:
            await script.opened.get()
        server.stop.receive(signal.SIGTERM)
        await server.runtime.close()
        for _ in waiting:
            script.accept_gate.release()  # type: ignore[union-attr]  # it is there
        for answer in await asyncio.gather(*waiting):
            assert answer.status == 503, answer
            assert "stopping" in json.dumps(answer.document["error"])


# --- the limit of open files ---


def test_the_limit_of_open_files_makes_room_for_the_connections() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 400
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
        room = allow_connections(512)
        assert room == 512
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 512 + RESERVED_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "connections"),
    [
        (256, None, 640, 512),  # macOS
        (1024, 524_288, 1024, 512),  # most of Linux
        (256, 400, 400, 272),
        (64, 64, 64, 1),
    ],
)
def test_a_hard_limit_bounds_the_connections(
    soft: int, hard: int | None, limit: int, connections: int
) -> None:
    assert raised_limit(512 + RESERVED_FILES, soft=soft, hard=hard) == limit
    assert connections_within(limit, 512) == connections
    assert raised_limit(512 + RESERVED_FILES, soft=None, hard=None) is None
