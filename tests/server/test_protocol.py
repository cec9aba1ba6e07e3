"""Another dialect is one value: its routes, its envelope, its event encoding."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import APIRouter, Request, Response

from localllm.engine.fake import Script
from localllm.engine.messages import Finished, GenerateEvent, Message, Role, Token
from localllm.errors import QueueFull
from localllm.server.app import DIALECTS
from localllm.server.dialects.openai.errors import error_body
from localllm.server.dialects.protocol import Dialect, ErrorResponses
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices, StopReason
from localllm.server.generation.request import GenerationFields, new_request_id
from localllm.server.generation.stream import stream_response
from localllm.server.request_body import read_body
from localllm.server.schema import ApiModel, ModelName, json_response
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server


class Prompt(GenerationFields):
    model: ModelName
    text: str
    stream: bool = True


class Piece(ApiModel):
    text: str = ""
    ended: StopReason | None = None


class LinesEncoder:
    """Writes an answer as lines of JSON."""

    media_type = "application/x-ndjson"

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        for choice in choices:
            match event:
                case Token(text=text):
                    yield Piece(text=text).encode() + b"\n"
                case Finished():
                    yield Piece(ended=choice.stop_reason).encode() + b"\n"

    def encode_error(self, error: ApiError) -> bytes:
        return write_error(error) + b"\n"

    def keep_alive(self) -> bytes:
        return b"\n"


def write_error(error: ApiError) -> bytes:
    return json.dumps({"error": str(error)}).encode()


def router(models: ServedModels) -> APIRouter:
    routes = APIRouter()

    @routes.post("/lines/generate", response_model=None)
    async def generate(request: Request) -> Response:
        prompt = await read_body(request, Prompt)
        generate = prompt.base_request(new_request_id("lines"))
        messages = (Message(role=Role.USER, content=prompt.text),)
        streams = [models.generate(prompt.model, replace(generate, messages=messages))]
        choices = Choices()
        if prompt.stream:
            return stream_response(LinesEncoder(), choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        (choice,) = choices
        return json_response(Piece(text=choice.text, ended=choice.stop_reason))

    return routes


LINES = Dialect(name="lines", router=router, prefixes=("/lines",), error_body=write_error)


@pytest.fixture
async def server(script: Script, smollm2: Path, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    async with start_server(
        script, smollm2, tmp_path / "data", dialects=(*DIALECTS, LINES)
    ) as server:
        yield server


async def test_a_dialect_streams_in_its_own_encoding(server: ServerUnderTest) -> None:
    response = await server.post("/lines/generate", {"model": MODEL, "text": "a", "seed": 7})
    assert "content-type: application/x-ndjson" in response.head
    body = dechunk(response.body)
    pieces = [json.loads(line) for line in body.splitlines()]
    assert [piece["text"] for piece in pieces] == ["Hello", ", ", "world", ".", ""]
    assert pieces[-1]["ended"] == "stop"
    assert server.script.requests[0].sampling.seed == 7


async def test_a_dialect_writes_a_whole_answer(server: ServerUnderTest) -> None:
    body = {"model": MODEL, "text": "a", "stream": False}
    response = await server.post("/lines/generate", body)
    assert response.document == {"text": "Hello, world.", "ended": "stop"}


async def test_an_error_of_a_stream_is_its_last_line(server: ServerUnderTest) -> None:
    server.script.crash_after = 2
    response = await server.post("/lines/generate", {"model": MODEL, "text": "a"})
    *_, last = dechunk(response.body).splitlines()
    assert "SIGKILL" in json.loads(last)["error"]


@pytest.mark.parametrize(
    ("line", "body", "key", "status"),
    [
        ("POST /lines/generate", b"{}", KEY, 400),
        ("POST /lines/generate", b"{", KEY, 400),
        ("POST /lines/generate", b'{"model": "other", "text": "a"}', KEY, 404),
        ("GET /lines/generate", b"", KEY, 405),
        ("GET /lines/nowhere", b"", KEY, 404),
        ("GET /lines/generate", b"", "wrong", 401),
        ("GET /lines/nowhere", b"", None, 401),
    ],
)
async def test_every_error_of_its_paths_is_in_its_envelope(
    server: ServerUnderTest, line: str, body: bytes, key: str | None, status: int
) -> None:
    response = await server.request(line, body, key=key)
    assert response.status == status
    assert set(response.document) == {"error"}
    assert isinstance(response.document["error"], str)


async def test_an_error_of_the_engine_is_in_its_envelope(server: ServerUnderTest) -> None:
    server.script.generate_error = QueueFull("256 wait")
    response = await server.post("/lines/generate", {"model": MODEL, "text": "a"})
    assert (response.status, response.document) == (503, {"error": "256 wait"})
    server.script.generate_error = ValueError("secret")  # type: ignore[assignment]  # no error of ours
    response = await server.post("/lines/generate", {"model": MODEL, "text": "a"})
    assert response.status == 500
    assert "log says where" in str(response.document["error"])


async def test_errors_of_other_paths_stay_in_openai_s_envelope(server: ServerUnderTest) -> None:
    for path in ("/v1/chat/completions", "/nowhere", "/line"):
        response = await server.request(f"GET {path}")
        assert response.error[1] in ("method_not_allowed", "unknown_url")


def test_the_longest_prefix_decides() -> None:
    def envelope(name: bytes) -> Dialect:
        return Dialect(
            name=name.decode(),
            router=router,
            prefixes=(f"/v1/{name.decode()}".rstrip("*"),),
            error_body=lambda error: name,
        )

    responses = ErrorResponses((envelope(b"*"), envelope(b"messages")), default=error_body)
    error = ApiError("no", code="no")
    assert responses(error, "/v1/messages/count_tokens").body == b"messages"
    assert responses(error, "/v1/models").body == b"*"
    assert responses(error, "/").body == error_body(error)


def dechunk(body: bytes) -> bytes:
    """Undo HTTP's chunked encoding."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content, body = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return content
