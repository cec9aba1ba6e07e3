"""Coding agents, end to end: their requests, answered by a real model behind a real socket."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from localllm.engine.client.client import ProcessEngine
from localllm.engine.fake import Script
from tests.server.agent_requests import CLAUDE_CODE_REQUESTS, OTHER_REQUESTS, AgentRequest
from tests.server.server_under_test import KEY, MODEL, HttpResponse, ServerUnderTest, start_server
from tests.server.test_anthropic import read_events
from tests.server.test_protocol import dechunk

NAMES = (
    "claude-sonnet-4-6", "claude-haiku-4-5-20251001", "claude-sonnet-4-5",
    "claude-sonnet-4-5-latest",
)  # fmt: skip
MAX_TOKENS = 8
"""Instead of what agents send: a model of 135 million parameters would fill its context."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def real(
    smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerUnderTest]:
    """A server with the starter model, which has the names that agents send."""
    data = tmp_path_factory.mktemp("data")
    async with start_server(
        Script(),
        smollm2,
        data,
        start_engine=lambda: ProcessEngine(log_dir=data),
        aliases=dict.fromkeys(NAMES, MODEL),
    ) as server:
        yield server


async def send(server: ServerUnderTest, sent: AgentRequest, **fields: object) -> HttpResponse:
    body = "" if sent.body is None else json.dumps({**sent.body, **fields})
    headers = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
    head = (
        f"{sent.line} HTTP/1.1\r\nHost: {server.address.ip}\r\nx-api-key: {KEY}\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n"
        "Connection: close\r\n\r\n"
    )
    answer = await server.raw(head.encode() + body.encode())
    lines, _, content = answer.partition(b"\r\n\r\n")
    return HttpResponse(status=int(lines.split()[1]), head=lines.decode(), body=content)


async def counted(server: ServerUnderTest, sent: AgentRequest) -> int:
    """What the counting endpoint says of the same request."""
    path = sent.line.partition("?")[0].removeprefix("POST ")
    response = await server.post(f"{path}/count_tokens", sent.body)
    assert response.status == 200, response.body
    count = response.document["input_tokens"]
    assert isinstance(count, int)
    return count


def check_order(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Fail for events that Anthropic's API would not send in this order."""
    names = [name for name, _ in events if name != "ping"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    opened: int | None = None
    count = 0
    for name, data in events:
        match name:
            case "content_block_start":
                assert opened is None
                opened = data["index"]
                assert opened == count
            case "content_block_delta":
                assert data["index"] == opened
            case "content_block_stop":
                assert data["index"] == opened
                opened, count = None, count + 1
    assert opened is None


async def ask(server: ServerUnderTest, sent: AgentRequest) -> dict[str, Any]:
    """Send a request as it is, but for the length of its answer, and check all that any answer
    must be. Returns the usage at its end, and the stop reason."""
    limit = min(MAX_TOKENS, int(str((sent.body or {}).get("max_tokens", 0)) or 0))
    response = await send(server, sent, max_tokens=limit)
    assert response.status == sent.answered, response.body
    assert "x-localllm-ignored" not in response.head
    if (sent.body or {}).get("stream"):
        events = list(read_events(dechunk(response.body).decode()))
        check_order(events)
        usage = {**events[0][1]["message"]["usage"], **events[-2][1]["usage"]}
        answer: dict[str, Any] = {**events[-2][1]["delta"], "usage": usage}
    else:
        answer = json.loads(response.body)
    usage = answer["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert prompt == await counted(server, sent)
    assert 0 < usage["output_tokens"] <= limit
    return answer


def is_message(sent: AgentRequest) -> bool:
    return "/messages" in sent.line and "count_tokens" not in sent.line


@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_of_claude_code_works_and_reads_its_long_prompt_once(
    real: ServerUnderTest,
) -> None:
    answers: dict[str, dict[str, Any]] = {}
    for sent in CLAUDE_CODE_REQUESTS:
        if is_message(sent):
            answers[sent.name] = await ask(real, sent)
        else:
            response = await send(real, sent)
            assert response.status == sent.answered, sent.name
    assert answers["quota"]["stop_reason"] == "max_tokens"
    first, second = answers["first turn"]["usage"], answers["turn with results"]["usage"]
    assert first["input_tokens"] > 400
    # The system prompt of both differs in its first line, which is kept out of it.
    assert second["cache_read_input_tokens"] >= first["input_tokens"] - 1


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sent", OTHER_REQUESTS, ids=lambda sent: sent.name)
async def test_a_request_of_another_agent_works(real: ServerUnderTest, sent: AgentRequest) -> None:
    answer = await ask(real, sent)
    if sent.name == "tools without a schema":
        assert answer["content"][-1]["name"] == "bash"
