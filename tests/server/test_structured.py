"""Answers of a given form, and the log probabilities of their tokens, in the OpenAI dialect."""

import json
from collections.abc import AsyncGenerator

import pytest

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    Grammar,
    GrammarKind,
    Timings,
    Token,
    TokenLogprob,
)
from localllm.server.dialects.openai.answer import chunks, completion
from localllm.server.dialects.openai.request import ChatRequest
from localllm.server.request_body import checked
from tests.server.test_requests import asked

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def request(**fields: object) -> ChatRequest:
    return checked(ChatRequest, asked(**fields))


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar(kind=GrammarKind.JSON_OBJECT)),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
            },
            Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA)),
        ),
    ],
)
def test_a_response_format_is_a_grammar(
    response_format: dict[str, object], grammar: Grammar | None
) -> None:
    assert request(response_format=response_format).generate_request().grammar == grammar


def test_what_shapes_the_draw_reaches_the_engine() -> None:
    generate = request(
        logit_bias={"7": -100, "12": 1.5},
        typical_p=0.5,
        mirostat=2,
        dry_multiplier=0.8,
        dry_sequence_breakers=["\n"],
        xtc_probability=0.5,
        min_tokens=3,
        logprobs=True,
        top_logprobs=4,
    ).generate_request()
    sampling = generate.sampling
    assert sampling.logit_bias == ((7, -100), (12, 1.5))
    assert (sampling.typical_p, sampling.mirostat, sampling.dry_multiplier) == (0.5, 2, 0.8)
    assert (sampling.dry_sequence_breakers, sampling.xtc_probability) == (("\n",), 0.5)
    assert (generate.min_tokens, generate.top_logprobs) == (3, 4)


def test_log_probabilities_alone_ask_for_no_others() -> None:
    assert request(logprobs=True).generate_request().top_logprobs == 0
    assert request(logprobs=False).generate_request().top_logprobs is None


async def events() -> AsyncGenerator[GenerateEvent, None]:
    """Two tokens, the first of them half a character."""
    half = TokenLogprob(token=1, text="\ufffd", raw=(0xC3,), logprob=-0.5)
    rest = TokenLogprob(token=2, text="\ufffd", raw=(0xA9,), logprob=-0.25)
    yield Token(request_id="a", text="", logprob=half, top_logprobs=(half, rest))
    yield Token(request_id="a", text="é", logprob=rest, top_logprobs=(rest, half))
    yield Token(request_id="a", text="")
    yield Finished(
        request_id="a",
        reason=FinishReason.STOP,
        prompt_tokens=1,
        completion_tokens=2,
        cached_tokens=0,
        timings=Timings(queue_s=0, ttft_s=1, total_s=2, prefill_tps=3, decode_tps=4),
    )


EXPECTED = [
    {
        "token": "\ufffd", "logprob": -0.5, "bytes": [0xC3],
        "top_logprobs": [
            {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
            {"token": "\ufffd", "logprob": -0.25, "bytes": [0xA9]},
        ],
    },
    {
        "token": "\ufffd", "logprob": -0.25, "bytes": [0xA9],
        "top_logprobs": [
            {"token": "\ufffd", "logprob": -0.25, "bytes": [0xA9]},
            {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
        ],
    },
]  # fmt: skip


async def test_an_answer_carries_every_token_s_log_probability() -> None:
    whole = await completion(request(logprobs=True, top_logprobs=2), "a", events())
    document = json.loads(whole.encode())["choices"][0]
    assert document["message"]["content"] == "é"
    assert document["logprobs"]["content"] == EXPECTED


async def test_a_chunk_carries_its_token_s_log_probability_even_without_text() -> None:
    asked_for = request(logprobs=True, top_logprobs=2, stream=True)
    sent = b"".join([chunk async for chunk in chunks(asked_for, "a", events())])
    documents = [
        json.loads(line[6:]) for line in sent.split(b"\n\n") if line.startswith(b"data: {")
    ]
    found = [
        each
        for document in documents
        for each in (document["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert found == EXPECTED
    assert "".join(d["choices"][0]["delta"].get("content", "") for d in documents) == "é"
