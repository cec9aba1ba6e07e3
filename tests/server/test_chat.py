"""Chat completions through the official client, over a real socket, with a scripted engine."""

import asyncio
import json
from collections.abc import AsyncGenerator

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncStream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from localllm.engine.fake import Script
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    LoraScale,
    Message,
    Overflow,
    PromptProgress,
    Role,
    Sampling,
    Timings,
    Token,
    TokenLogprob,
)
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, LocalLLMError, QueueFull
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.chat_response import ChatCompletionChunk as ChatChunk
from localllm.server.dialects.openai.chat_response import ChatStreamEncoder, chat_completion
from localllm.server.generation.choices import Choices
from localllm.server.generation.stream import encode_stream
from localllm.server.request_body import validate
from tests.server.bodies import chat_body
from tests.server.server_under_test import MODEL, ServerUnderTest

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]


async def open_stream(server: ServerUnderTest) -> AsyncStream[ChatCompletionChunk]:
    return await server.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)


async def read(stream: AsyncStream[ChatCompletionChunk]) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@pytest.mark.smoke
async def test_an_answer_carries_its_text_usage_and_timings(server: ServerUnderTest) -> None:
    answer = await server.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello, world."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id == server.script.requests[0].request_id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == 6
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra is not None
    assert answer.model_extra["timings"] == {
        "queue_s": 0.0, "ttft_s": 0.25, "total_s": 1.25, "prefill_tps": 200.0, "decode_tps": 40.0,
        "drafted": 0, "accepted": 0, "cache": None,
    }  # fmt: skip


@pytest.mark.smoke
async def test_the_last_chunk_of_a_stream_carries_usage_and_timings(
    server: ServerUnderTest,
) -> None:
    chunks = await read(await open_stream(server))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == "Hello, world."
    assert [c.choices[0].finish_reason for c in chunks] == [None] * 5 + ["stop"]
    assert {c.id for c in chunks} == {server.script.requests[0].request_id}
    last = chunks[-1]
    assert last.usage is not None
    assert last.usage.completion_tokens == 4
    assert last.model_extra is not None
    assert last.model_extra["timings"]["decode_tps"] == 40.0


async def test_include_usage_puts_usage_in_a_chunk_without_choices(server: ServerUnderTest) -> None:
    stream = await server.client().chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = await read(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_a_stream_ends_with_done(server: ServerUnderTest) -> None:
    client = server.client()
    async with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


@pytest.mark.smoke
async def test_every_parameter_reaches_the_engine(server: ServerUnderTest) -> None:
    await server.client().chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
        ],
        temperature=0,
        top_p=0.5,
        frequency_penalty=-1,
        presence_penalty=1.5,
        seed=7,
        stop=["\n", "END"],
        max_completion_tokens=3,
        n=1,
        user="somebody",
        extra_body={"top_k": 9, "min_p": 0.1, "repeat_penalty": 1.1},
    )
    request = server.script.requests[0]
    assert request.sampling == Sampling(
        temperature=0.0, top_p=0.5, frequency_penalty=-1.0, presence_penalty=1.5, seed=7,
        top_k=9, min_p=0.1, repeat_penalty=1.1,
    )  # fmt: skip
    assert request.stop == ("\n", "END")
    assert request.max_tokens == 3
    assert request.messages == (
        Message(role=Role.SYSTEM, content="Be brief."),
        Message(role=Role.USER, content="a\nb"),
        Message(role=Role.ASSISTANT, content="c"),
        Message(role=Role.USER, content="d"),
    )


async def test_absent_fields_keep_the_defaults_of_the_engine(server: ServerUnderTest) -> None:
    await server.client().chat.completions.create(model=MODEL, messages=HELLO)
    request = server.script.requests[0]
    assert (request.sampling, request.max_tokens, request.stop) == (Sampling(), None, ())


async def test_max_tokens_ends_with_length(server: ServerUnderTest) -> None:
    answer = await server.client().chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=2
    )
    assert answer.choices[0].message.content == "Hello, "
    assert answer.choices[0].finish_reason == "length"


async def test_an_answer_of_a_client_can_be_sent_back_as_it_came(server: ServerUnderTest) -> None:
    client = server.client()
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    message: ChatCompletionMessageParam = answer.choices[0].message.model_dump()  # type: ignore[assignment]  # what users of the client do
    again = await client.chat.completions.create(model=MODEL, messages=[*HELLO, message, *HELLO])
    assert again.choices[0].message.content == "Hello, world."


async def test_text_that_breaks_lines_and_encodings_arrives_unchanged(
    server: ServerUnderTest,
) -> None:
    tokens = ("a\u2028b", "\x85", "\r\n\n", "é😀", '"\\', "\x00", "[DONE]", "data: x")
    server.script.tokens = tokens
    chunks = await read(await open_stream(server))
    assert text_of(chunks) == "".join(tokens)


async def test_four_answers_are_written_at_the_same_time(server: ServerUnderTest) -> None:
    server.script.gate = asyncio.Semaphore(0)  # no token of any answer comes yet
    streams = [await open_stream(server) for _ in range(4)]
    firsts = [await anext(stream) for stream in streams]  # each one runs
    assert [first.choices[0].delta.role for first in firsts] == ["assistant"] * 4
    for _ in range(4 * len(server.script.tokens)):
        server.script.gate.release()
    assert [text_of(await read(stream)) for stream in streams] == ["Hello, world."] * 4


@pytest.mark.smoke
async def test_a_client_that_leaves_a_stream_frees_its_slot(server: ServerUnderTest) -> None:
    server.script.gate = asyncio.Semaphore(0)
    stream = await open_stream(server)
    await anext(stream)
    await stream.close()
    assert await server.script.closed.get() == server.script.requests[0].request_id


async def test_a_client_that_leaves_before_its_answer_frees_its_slot(
    server: ServerUnderTest,
) -> None:
    server.script.gate = asyncio.Semaphore(0)
    answer = asyncio.create_task(
        server.client().chat.completions.create(model=MODEL, messages=HELLO)
    )
    request_id = await server.script.opened.get()
    answer.cancel()
    assert await server.script.closed.get() == request_id


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextOverflow("5000 tokens, 4096 fit"), 400, "context_length_exceeded"),
        (BadRequest("no template"), 400, "bad_request"),
        (QueueFull("256 wait"), 503, "queue_full"),
        (GenerationFailed("no room"), 500, "generation_failed"),
    ],
)
async def test_an_error_of_the_engine_has_a_status_and_a_code(
    server: ServerUnderTest, error: LocalLLMError, status: int, code: str, stream: bool
) -> None:
    server.script.generate_error = error
    with pytest.raises(openai.APIStatusError) as raised:
        await server.client().chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert str(error) in raised.value.message
    assert (raised.value.response.headers.get("retry-after") == "1") == (code == "queue_full")


async def test_an_error_that_names_an_undecodable_file_is_still_an_answer(
    server: ServerUnderTest,
) -> None:
    server.script.generate_error = GenerationFailed("cannot read bad\udcff.gguf")
    with pytest.raises(openai.InternalServerError) as raised:
        await server.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert raised.value.code == "generation_failed"
    assert "cannot read bad.gguf" in raised.value.message


@pytest.mark.smoke
async def test_a_crash_in_a_stream_ends_it_with_an_error_event(server: ServerUnderTest) -> None:
    server.script.crash_after = 2
    stream = await open_stream(server)
    got: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as raised:
        async for chunk in stream:
            got.append(chunk)  # noqa: PERF401  # the chunks before the error are looked at
    assert text_of(got) == "Hello, "
    assert "SIGKILL" in raised.value.message
    assert raised.value.code == "engine_crashed"


async def test_the_request_after_a_crash_is_answered(server: ServerUnderTest) -> None:
    server.script.crash_after = 0
    with pytest.raises(openai.APIStatusError) as raised:
        await server.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert (raised.value.status_code, raised.value.code) == (503, "engine_crashed")
    server.script.crash_after = None
    answer = await server.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello, world."
    assert len(server.script.loads) == 2


async def test_a_model_that_is_not_served_is_not_found(server: ServerUnderTest) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await server.client().chat.completions.create(model="gpt-9", messages=HELLO)
    assert raised.value.code == "model_not_found"
    assert MODEL in raised.value.message


async def test_the_models_are_listed_and_found_by_name(server: ServerUnderTest) -> None:
    client = server.client()
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/other:Q4_K_M")


async def test_an_unknown_path_is_a_404_in_the_same_envelope(
    server: ServerUnderTest,
) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await server.client().moderations.create(input="x")
    assert raised.value.code == "unknown_url"


async def test_warnings_are_in_the_body_and_of_a_whole_answer_in_a_header(
    server: ServerUnderTest,
) -> None:
    server.script.warnings = ("Two system messages were merged.", "Ünlikely.")
    create = server.client().chat.completions.with_raw_response.create
    raw = await create(model=MODEL, messages=HELLO, n=2)
    assert raw.headers["x-localllm-warnings"] == "Two system messages were merged.; ?nlikely."
    answer = raw.parse()
    assert answer.model_extra is not None
    assert answer.model_extra["warnings"] == list(server.script.warnings)
    stream = await server.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    first, *_, last = await read(stream)
    assert first.model_extra is not None
    assert last.model_extra is not None
    assert "warnings" not in first.model_extra
    assert last.model_extra["warnings"] == list(server.script.warnings)


async def test_a_conversation_rolls_only_with_context_overflow_roll(
    server: ServerUnderTest,
) -> None:
    server.script.dropped_messages = 2
    create = server.client().chat.completions.create
    plain = await create(model=MODEL, messages=HELLO)
    assert plain.model_extra is not None
    assert "dropped_messages" not in plain.model_extra
    roll = {"context_overflow": "roll"}
    rolled = await create(model=MODEL, messages=HELLO, extra_body=roll)
    assert rolled.model_extra is not None
    assert rolled.model_extra["dropped_messages"] == 2
    stream = await create(model=MODEL, messages=HELLO, extra_body=roll, stream=True)
    last = (await read(stream))[-1]
    assert last.model_extra is not None
    assert last.model_extra["dropped_messages"] == 2
    assert [request.overflow for request in server.script.requests] == [
        Overflow.ERROR,
        Overflow.ROLL,
        Overflow.ROLL,
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_are_choices_and_the_prompt_counts_once(
    server: ServerUnderTest, stream: bool
) -> None:
    client = server.client()
    texts, reasons = [""] * 3, [""] * 3
    if stream:
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=HELLO, n=3, stream=True
        ):
            for piece in chunk.choices:
                texts[piece.index] += piece.delta.content or ""
                reasons[piece.index] += piece.finish_reason or ""
        usage = chunk.usage
    else:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        texts = [choice.message.content or "" for choice in answer.choices]
        reasons, usage = [choice.finish_reason for choice in answer.choices], answer.usage
    assert texts == ["Hello, world."] * 3
    assert reasons == ["stop"] * 3
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 12, 14)
    assert server.script.requests[0].n == 3


async def test_a_request_chooses_its_adapters(server: ServerUnderTest, script: Script) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    for lora in (None, [], [{"id": 1, "scale": 0.5}]):
        answer = await server.post("/v1/chat/completions", body | {"lora": lora})
        assert answer.status == 200
    assert [request.loras for request in script.requests] == [
        None, (), (LoraScale(id=1, scale=0.5),),
    ]  # fmt: skip
    wrong = await server.post("/v1/chat/completions", body | {"lora": [{"id": -1, "scale": 1}]})
    assert wrong.error[0] == "lora[0].id"


# --- chunks ---


@given(texts=st.lists(st.text(min_size=1), max_size=4), model=st.text())
@settings(max_examples=50)
def test_a_chunk_of_text_is_what_its_model_would_write(texts: list[str], model: str) -> None:
    """It is put together from bytes: only the text differs between most chunks."""
    choices = Choices(n=2)
    request = validate(ChatCompletionRequest, chat_body(stream=True, n=2))
    encoder = ChatStreamEncoder(request, model, "a", choices)
    list(encoder.encode(PromptProgress(request_id="a", processed=0, total=1), ()))
    for text in texts:
        for choice in choices:
            token = Token(request_id="a", text=text, index=choice.index)
            (piece,) = encoder.encode(token, (choice,))
            assert piece.startswith(b"data: ")
            assert piece.isascii()
            chunk = json.loads(piece.removeprefix(b"data: "))
            assert ChatChunk.model_validate(chunk).model == model
            assert chunk["choices"] == [
                {"index": choice.index, "delta": {"content": text}, "logprobs": None,
                 "finish_reason": None}
            ]  # fmt: skip


# --- log probabilities ---


def with_logprobs(**fields: object) -> ChatCompletionRequest:
    body = chat_body(logprobs=True, top_logprobs=2) | fields
    return validate(ChatCompletionRequest, body)


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
    request, choices = with_logprobs(), Choices()
    await choices.read([events()])
    document = json.loads(chat_completion(request, MODEL, "a", choices).encode())["choices"][0]
    assert document["message"]["content"] == "é"
    assert document["logprobs"]["content"] == EXPECTED


async def test_a_chunk_carries_its_token_s_log_probability_even_without_text() -> None:
    request, choices = with_logprobs(stream=True), Choices()
    pieces = encode_stream(ChatStreamEncoder(request, MODEL, "a", choices), choices, [events()])
    sent = b"".join([piece async for piece in pieces])
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
