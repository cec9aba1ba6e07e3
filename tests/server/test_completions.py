"""`/v1/completions` through the official client, over a real socket, with a scripted engine."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from localllm.engine.fake import Script
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    Sampling,
    Timings,
    Token,
    TokenLogprob,
)
from localllm.errors import ContextOverflow, DeadlineExceeded
from localllm.server.access.key_ring import KeyRing
from localllm.server.app import Access, create_app
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.completions_response import CompletionStreamEncoder, completion
from localllm.server.generation.choices import Choices
from localllm.server.generation.stream import encode_stream
from localllm.server.request_body import validate
from localllm.server.security import HostPolicy
from tests.server.server_under_test import MODEL, ServerUnderTest, make_pool, make_runtime

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


async def test_a_text_is_continued(server: ServerUnderTest) -> None:
    answer = await server.client().completions.create(model=MODEL, prompt="Say hello")
    assert answer.object == "text_completion"
    assert answer.id == server.script.requests[0].request_id
    assert [(c.index, c.text, c.finish_reason, c.logprobs) for c in answer.choices] == [
        (0, "Hello, world.", "stop", None)
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    request = server.script.requests[0]
    assert (request.prompt, request.messages, request.max_tokens) == ("Say hello", None, 16)


async def test_a_stream_ends_with_usage_and_done(server: ServerUnderTest) -> None:
    stream = await server.client().completions.create(model=MODEL, prompt="Say", stream=True)
    pieces = [piece async for piece in stream]
    assert "".join(c.text for piece in pieces for c in piece.choices) == "Hello, world."
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * 4 + ["stop"]
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 4


async def test_include_usage_puts_usage_in_a_chunk_without_choices(server: ServerUnderTest) -> None:
    stream = await server.client().completions.create(
        model=MODEL, prompt="Say", stream=True, stream_options={"include_usage": True}
    )
    pieces = [piece async for piece in stream]
    assert pieces[-1].choices == []
    assert pieces[-1].usage is not None
    assert [piece.usage for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


async def test_every_parameter_reaches_the_engine(server: ServerUnderTest) -> None:
    await server.client().completions.create(
        model=MODEL,
        prompt=[1, 2, 3],
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        stop=["x"],
        logprobs=4,
        n=2,
        best_of=2,
        echo=True,
        presence_penalty=1,
        logit_bias={"7": 2},
        extra_body={"top_k": 9, "min_tokens": 2},
    )
    (request,) = server.script.requests
    assert request.prompt_tokens == (1, 2, 3)
    assert (request.max_tokens, request.stop, request.top_logprobs) == (5, ("x",), 4)
    assert (request.n, request.echo, request.min_tokens) == (2, True, 2)
    assert request.sampling == Sampling(
        temperature=0.5, top_p=0.9, seed=3, presence_penalty=1.0, logit_bias=((7, 2.0),), top_k=9
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_have_several_answers_each(
    server: ServerUnderTest, stream: bool
) -> None:
    client = server.client()
    texts = [""] * 4
    if stream:
        async for piece in await client.completions.create(
            model=MODEL, prompt=["one", "two too"], n=2, echo=True, stream=True
        ):
            for choice in piece.choices:
                texts[choice.index] += choice.text
        usage = piece.usage
    else:
        whole = await client.completions.create(
            model=MODEL, prompt=["one", "two too"], n=2, echo=True
        )
        texts, usage = [choice.text for choice in whole.choices], whole.usage
    assert texts == ["oneHello, world."] * 2 + ["two tooHello, world."] * 2
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 16, 19)


async def test_lists_of_token_ids_are_prompts_each(server: ServerUnderTest) -> None:
    await server.client().completions.create(model=MODEL, prompt=[[1, 2], [3]])
    assert sorted(r.prompt_tokens or () for r in server.script.requests) == [(1, 2), (3,)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"suffix": "end", "echo": True}, "suffix"),
        ({"suffix": "end", "prompt": [1, 2]}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"n": 129}, "n"),
        ({"n": 65, "prompt": ["a", "b"]}, "65 answers"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "echo"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"messages": CHAT["messages"]}, "messages"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    server: ServerUnderTest, fields: dict[str, Any], words: str
) -> None:
    body = {"model": MODEL, "prompt": "a"} | fields
    with pytest.raises(openai.BadRequestError, match=words):
        await server.client().post("/completions", body=body, cast_to=object)
    assert server.script.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_the_engine_names_the_prompt(
    server: ServerUnderTest, stream: bool
) -> None:
    server.script.generate_error = ContextOverflow("5000 tokens, 4096 fit")
    with pytest.raises(openai.BadRequestError) as raised:
        await server.client().completions.create(model=MODEL, prompt=["a", "b"], stream=stream)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "prompt")


async def test_a_deadline_that_has_passed_is_a_timeout(server: ServerUnderTest) -> None:
    server.script.generate_error = DeadlineExceeded("5 s has passed")
    with pytest.raises(openai.InternalServerError) as raised:
        await server.client().completions.create(model=MODEL, prompt="a")
    assert (raised.value.status_code, raised.value.code) == (504, "deadline")


async def test_the_deadline_of_the_server_is_every_request_s(
    script: Script, smollm2: Path, tmp_path: Path
) -> None:
    runtime = await make_runtime(script, smollm2, tmp_path / "data")
    hosts = HostPolicy.bound_to("127.0.0.1")
    access = Access(hosts=hosts, keys=KeyRing(None))
    app = create_app(make_pool(runtime), access=access, deadline_s=7.5)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path, fields in (("completions", {"prompt": "a"}), ("chat/completions", CHAT)):
            answer = await client.post(f"/v1/{path}", json={"model": MODEL, **fields})
            assert answer.status_code == 200
    assert all(7 < (request.deadline_s or 0) <= 7.5 for request in script.requests)
    await runtime.close()


async def test_a_client_that_leaves_frees_every_slot(server: ServerUnderTest) -> None:
    server.script.gate = asyncio.Semaphore(0)
    answer = asyncio.create_task(
        server.client().completions.create(model=MODEL, prompt=["a", "b", "c"])
    )
    opened = {await server.script.opened.get() for _ in range(3)}
    answer.cancel()
    assert {await server.script.closed.get() for _ in range(3)} == opened


# --- log probabilities ---


def likely(token: int, text: str, logprob: float, raw: bytes | None = None) -> TokenLogprob:
    return TokenLogprob(
        token=token, text=text, raw=tuple(text.encode() if raw is None else raw), logprob=logprob
    )


async def scored() -> AsyncGenerator[GenerateEvent, None]:
    """A prompt of three tokens, an answer that is an emoji in two."""
    you, dog = likely(2, " you", -1.0), likely(3, " dog", -0.5)
    half, rest = likely(7, "\ufffd", -0.1, b"\xc3"), likely(8, "\ufffd", -0.2, b"\xa9")
    yield Token(request_id="a", text="Are", of_prompt=True)
    yield Token(request_id="a", text=" you", logprob=you, top_logprobs=(dog, you), of_prompt=True)
    yield Token(request_id="a", text="", logprob=half, top_logprobs=(half, rest))
    yield Token(request_id="a", text="é", logprob=rest, top_logprobs=(half,))
    yield Finished(
        request_id="a",
        reason=FinishReason.LENGTH,
        prompt_tokens=2,
        completion_tokens=2,
        cached_tokens=0,
        timings=Timings(queue_s=0, ttft_s=1, total_s=2, prefill_tps=3, decode_tps=4),
    )


EXPECTED = {
    "tokens": ["Are", " you", "bytes:\\xc3", "bytes:\\xa9"],
    "token_logprobs": [None, -1.0, -0.1, -0.2],
    "top_logprobs": [
        None,
        {" you": -1.0, " dog": -0.5},
        {"bytes:\\xa9": -0.2, "bytes:\\xc3": -0.1},
        {"bytes:\\xc3": -0.1, "bytes:\\xa9": -0.2},
    ],
    "text_offset": [0, 3, 7, 7],
}


def request(**fields: object) -> CompletionRequest:
    body = {"model": MODEL, "prompt": "Are you", "echo": True, "logprobs": 2}
    return validate(CompletionRequest, body | fields)


async def whole(request: CompletionRequest) -> dict[str, Any]:
    """The one choice of an unstreamed answer."""
    choices = Choices()
    await choices.read([scored()])
    (choice,) = json.loads(completion(request, MODEL, "a", choices).encode())["choices"]
    return dict(choice)


async def test_log_probabilities_have_the_shape_of_this_endpoint() -> None:
    choice = await whole(request())
    assert choice["text"] == "Are youé"
    assert choice["logprobs"] == EXPECTED
    assert choice["finish_reason"] == "length"


async def test_a_stream_s_log_probabilities_are_the_same_in_pieces() -> None:
    choices = Choices()
    encoder = CompletionStreamEncoder(request(stream=True), MODEL, "a", choices)
    sent = b"".join([piece async for piece in encode_stream(encoder, choices, [scored()])])
    gathered: dict[str, list[object]] = {name: [] for name in EXPECTED}
    for line in sent.split(b"\n\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                for name, values in (choice["logprobs"] or {}).items():
                    gathered[name] += values
    assert gathered == EXPECTED
    assert sent.endswith(b"data: [DONE]\n\n")


async def test_without_alternatives_only_the_own_log_probabilities_come() -> None:
    choice = await whole(request(logprobs=0))
    assert choice["logprobs"]["top_logprobs"] is None
    assert choice["logprobs"]["token_logprobs"] == EXPECTED["token_logprobs"]


async def test_a_suffix_asks_for_what_stands_between(server: ServerUnderTest) -> None:
    client = server.client()
    await client.completions.create(model=MODEL, prompt=["def f(", "x"], suffix="return y")
    await client.completions.create(model=MODEL, prompt="x", suffix="")
    sent = [(request.prompt, request.suffix) for request in server.script.requests]
    assert sent == [("def f(", "return y"), ("x", "return y"), ("x", None)]
