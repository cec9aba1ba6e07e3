"""Ollama's API over a socket, with Ollama's own client."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import ollama
import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from localllm.engine.messages import ToolCall
from tests.server.server_under_test import KEY, MODEL, ServerUnderTest, start_server

USER = {"role": "user", "content": "Weather in Rome?"}
CALL = ToolCall(id="a1", name="get_weather", arguments='{"city": "Rome"}')

C = TypeVar("C", ollama.Client, ollama.AsyncClient)


def get_weather(city: str) -> str:
    """Look the weather up.

    Args:
      city: its name
    """
    return city


def client_of(server: ServerUnderTest, kind: type[C]) -> C:
    return kind(server.address.url, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture
def client(server: ServerUnderTest) -> ollama.AsyncClient:
    return client_of(server, ollama.AsyncClient)


async def lines(server: ServerUnderTest, path: str, body: object) -> list[dict[str, Any]]:
    answer = await server.post(path, body)
    assert "application/x-ndjson" in answer.head
    # It is sent in chunks, whose sizes are lines of their own.
    return [json.loads(each) for each in answer.body.splitlines() if each.startswith(b"{")]


async def test_a_chat_streams_and_ends_with_its_numbers(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    server.script.reasoning = ("Hm", ".")
    parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Hello, world."
    assert "".join(part.message.thinking or "" for part in parts) == "Hm."
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    end = parts[-1]
    assert (end.model, end.done_reason) == (MODEL, "stop")
    assert (end.eval_count or 0) > 0
    assert (end.prompt_eval_count or 0) > 0
    assert end.total_duration is not None
    whole = await client.chat(MODEL, [USER], options={"num_predict": 3})
    assert (whole.message.content, whole.message.thinking) == ("Hello, world", "Hm.")
    assert whole.done_reason == "length"
    assert server.script.requests[-1].max_tokens == 3


async def test_calls_come_whole_and_can_be_sent_back(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    server.script.tokens = ()
    server.script.calls = (CALL, ToolCall(id="a2", name="get_weather", arguments='{"city": "Os'))
    stream = await client.chat(MODEL, [USER], tools=[get_weather], stream=True)
    parts = [part async for part in stream]
    (called,) = [part for part in parts if part.message.tool_calls]
    (call,) = called.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Rome"})
    whole = await client.chat(MODEL, [USER], tools=[get_weather])
    assert whole.message.tool_calls == [call]  # the other one was cut
    result = {"role": "tool", "tool_name": "get_weather", "content": "sunny"}
    await client.chat(MODEL, [USER, whole.message, result], tools=[get_weather])
    _, answer, told = server.script.requests[-1].messages or ()
    assert answer.tool_calls[0].arguments == CALL.arguments
    assert (told.tool_call_id, told.content) == (answer.tool_calls[0].id, "sunny")


async def test_a_prompt_streams_unless_it_is_not_to(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    found = await lines(server, "/api/generate", {"model": MODEL, "prompt": "Hi"})
    assert "".join(each["response"] for each in found) == "Hello, world."
    assert [each["done"] for each in found[-2:]] == [False, True]
    answer = await client.generate(f"{MODEL.upper()}:latest", "Hi", keep_alive="5m")
    assert (answer.response, answer.done, answer.done_reason) == ("Hello, world.", True, "stop")
    loaded = await client.generate(MODEL, "")
    assert (loaded.response, loaded.done_reason) == ("", "load")
    unloaded = await client.generate(MODEL, "", keep_alive=0)
    assert (unloaded.done_reason, (await client.ps()).models) == ("unload", [])
    again = await client.chat(MODEL, [USER], keep_alive="90s")
    assert again.message.content == "Hello, world."
    (running,) = (await client.ps()).models
    assert running.expires_at is not None
    left = running.expires_at - datetime.now(UTC)
    assert timedelta(seconds=0) < left <= timedelta(seconds=90)


async def test_a_context_that_the_model_does_not_have_is_named(server: ServerUnderTest) -> None:
    body = {"prompt": "x", "options": {"num_ctx": 999_999, "num_gpu": 9}}
    for stream in (True, False):
        answer = await server.post("/api/generate", {**body, "stream": stream})
        assert "x-localllm-warnings: num_ctx is 999999" in answer.head
        assert "x-localllm-ignored: options.num_gpu" in answer.head


async def test_models_are_listed_under_names_that_requests_can_use(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    (model,) = (await client.list()).models
    assert model.model == f"{MODEL}:latest"
    assert len(model.digest or "") == 64
    assert model.details is not None
    assert (model.details.family, model.details.parameter_size) == ("llama", "134.52M")
    (loaded,) = (await client.ps()).models
    assert (loaded.model, loaded.context_length) == (model.model, 4096)
    assert (loaded.size or 0) > 0
    shown = await client.show(model.model)
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    verbose = await server.post("/api/show", {"name": MODEL, "verbose": True})
    document: dict[str, Any] = verbose.document
    assert len(document["model_info"]["tokenizer.ggml.tokens"]) == 49152
    assert document["tensors"][0]["shape"]
    assert "/" not in document["modelfile"].partition("TEMPLATE")[0]


async def test_errors_have_ollamas_form(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        await client.chat("nothing-like-it", [USER])
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="localllm pull NAME") as refused:
        await client.pull("llama3.2")
    assert refused.value.status_code == 403
    with pytest.raises(ollama.ResponseError, match="localllm rm"):
        await client.delete(MODEL)
    assert (await server.request("HEAD /api/blobs/sha256:0")).status == 403
    unknown = await server.post("/api/me", {})
    assert (unknown.status, list(unknown.document)) == (404, ["error"])
    server.script.crash_after = 1
    stream = await client.chat(MODEL, [USER], stream=True)
    with pytest.raises(ollama.ResponseError, match="crashed"):
        _ = [part async for part in stream]


async def test_embeddings_have_both_shapes(
    server: ServerUnderTest, client: ollama.AsyncClient
) -> None:
    one, two = (await client.embed(MODEL, ["a", "b"], dimensions=8)).embeddings
    assert len(one) == len(two) > 0
    assert server.script.embeds[-1].truncate
    assert (await client.embed(MODEL, "")).embeddings == []
    assert len((await client.embeddings(MODEL, "a")).embedding) > 0
    assert not server.script.embeds[-1].normalize


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 200),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 200),  # curl -d
        ("Content-Type: text/plain\r\nUser-Agent: Mozilla/5.0\r\n", 415),
        ("Content-Type: text/plain\r\nSec-Fetch-Site: none\r\n", 415),
    ],
)
async def test_only_browsers_have_to_declare_json(
    server: ServerUnderTest, headers: str, status: int
) -> None:
    body = b'{"prompt": "x", "stream": false}'
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    size = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = await server.raw((head + headers + size).encode() + body)
    assert answer.startswith(f"HTTP/1.1 {status}".encode())


async def test_clients_find_the_server(server: ServerUnderTest) -> None:
    root = await server.request("GET /")
    assert (root.status, root.body) == (200, b"Ollama is running")
    version: dict[str, Any] = (await server.request("GET /api/version")).document
    assert int(version["version"].split(".")[1]) >= 6
    assert (await server.request("GET /", key=None)).body == b"Ollama is running"
    assert (await server.request("GET /api/version", key=None)).status == 401


async def test_a_real_model_answers_both_clients(smollm2: Path, tmp_path: Path) -> None:
    def start() -> ProcessEngine:
        return ProcessEngine(log_dir=tmp_path / "log")

    async with start_server(Script(), smollm2, tmp_path, start_engine=start) as server:
        async_client = client_of(server, ollama.AsyncClient)
        model = await async_client.show(MODEL)
        assert (model.capabilities, "im_start" in (model.template or "")) == (["completion"], True)
        with pytest.raises(ollama.ResponseError, match="no tokens to fill in the middle"):
            await async_client.generate(MODEL, "def f(x):", suffix="return y")
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        greedy = {"temperature": 0, "num_predict": 24}
        answer = await async_client.chat(
            MODEL, [USER], format=schema, options=greedy, logprobs=True, top_logprobs=1
        )
        assert isinstance(json.loads(answer.message.content or "")["n"], int)
        assert answer.logprobs is not None
        assert len(answer.logprobs[0].top_logprobs or ()) == 1
        durations = (answer.prompt_eval_duration or 0, answer.eval_duration or 0)
        assert 0 < sum(durations) <= (answer.total_duration or 0)

        body = {"model": MODEL, "messages": [USER], "_debug_render_only": True}
        rendered: dict[str, Any] = (await server.post("/api/chat", body)).document
        prompt = rendered["_debug_info"]["rendered_template"]
        assert "<|im_start|>user\nWeather in Rome?" in prompt

        def ask() -> list[ollama.GenerateResponse]:
            with client_of(server, ollama.Client) as client:
                return list(client.generate(MODEL, "Say hi.", options=greedy, stream=True))

        parts = await asyncio.to_thread(ask)
        assert "".join(part.response or "" for part in parts)
        assert parts[-1].eval_count is not None
        assert parts[-1].eval_count <= 24
