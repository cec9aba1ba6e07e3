"""Chat completions through the official client, over a real socket, with a scripted engine."""

import asyncio

import openai
import pytest
from openai import AsyncStream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from localllm.engine.messages import Message, Overflow, Role, Sampling
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, LocalLLMError, QueueFull
from tests.server.house import MODEL, House

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]


async def open_stream(house: House) -> AsyncStream[ChatCompletionChunk]:
    return await house.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)


async def read(stream: AsyncStream[ChatCompletionChunk]) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_an_answer_carries_its_text_and_what_was_counted(running: House) -> None:
    answer = await running.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello, world."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id == running.script.requests[0].request_id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == 6
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra is not None
    assert answer.model_extra["timings"] == {
        "queue_s": 0.0, "ttft_s": 0.25, "total_s": 1.25, "prefill_tps": 200.0, "decode_tps": 40.0,
        "drafted": 0, "accepted": 0,
    }  # fmt: skip


async def test_the_last_chunk_of_a_stream_carries_usage_and_timings(running: House) -> None:
    chunks = await read(await open_stream(running))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == "Hello, world."
    assert [c.choices[0].finish_reason for c in chunks] == [None] * 5 + ["stop"]
    assert {c.id for c in chunks} == {running.script.requests[0].request_id}
    last = chunks[-1]
    assert last.usage is not None
    assert last.usage.completion_tokens == 4
    assert last.model_extra is not None
    assert last.model_extra["timings"]["decode_tps"] == 40.0


async def test_include_usage_puts_usage_in_a_chunk_without_choices(running: House) -> None:
    stream = await running.client().chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = await read(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_a_stream_ends_with_done(running: House) -> None:
    client = running.client()
    async with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


async def test_every_parameter_reaches_the_engine(running: House) -> None:
    await running.client().chat.completions.create(
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
    request = running.script.requests[0]
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


async def test_what_is_not_given_keeps_the_defaults_of_the_engine(running: House) -> None:
    await running.client().chat.completions.create(model=MODEL, messages=HELLO)
    request = running.script.requests[0]
    assert (request.sampling, request.max_tokens, request.stop) == (Sampling(), None, ())


async def test_max_tokens_ends_with_length(running: House) -> None:
    answer = await running.client().chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=2
    )
    assert answer.choices[0].message.content == "Hello, "
    assert answer.choices[0].finish_reason == "length"


async def test_an_answer_of_a_client_can_be_sent_back_as_it_came(running: House) -> None:
    client = running.client()
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    said: ChatCompletionMessageParam = answer.choices[0].message.model_dump()  # type: ignore[assignment]  # what users of the client do
    again = await client.chat.completions.create(model=MODEL, messages=[*HELLO, said, *HELLO])
    assert again.choices[0].message.content == "Hello, world."


async def test_text_that_breaks_lines_and_encodings_arrives_unchanged(running: House) -> None:
    tokens = ("a\u2028b", "\x85", "\r\n\n", "é😀", '"\\', "\x00", "[DONE]", "data: x")
    running.script.tokens = tokens
    chunks = await read(await open_stream(running))
    assert text_of(chunks) == "".join(tokens)


async def test_four_answers_are_written_at_the_same_time(running: House) -> None:
    running.script.gate = asyncio.Semaphore(0)  # no token of any answer comes yet
    streams = [await open_stream(running) for _ in range(4)]
    firsts = [await anext(stream) for stream in streams]  # each one runs
    assert [first.choices[0].delta.role for first in firsts] == ["assistant"] * 4
    for _ in range(4 * len(running.script.tokens)):
        running.script.gate.release()
    assert [text_of(await read(stream)) for stream in streams] == ["Hello, world."] * 4


async def test_a_client_that_leaves_a_stream_frees_its_slot(running: House) -> None:
    running.script.gate = asyncio.Semaphore(0)
    stream = await open_stream(running)
    await anext(stream)
    await stream.close()
    assert await running.script.closed.get() == running.script.requests[0].request_id


async def test_a_client_that_leaves_before_its_answer_frees_its_slot(running: House) -> None:
    running.script.gate = asyncio.Semaphore(0)
    asked = asyncio.create_task(
        running.client().chat.completions.create(model=MODEL, messages=HELLO)
    )
    request_id = await running.script.opened.get()
    asked.cancel()
    assert await running.script.closed.get() == request_id


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
    running: House, error: LocalLLMError, status: int, code: str, stream: bool
) -> None:
    running.script.generate_error = error
    with pytest.raises(openai.APIStatusError) as raised:
        await running.client().chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert str(error) in raised.value.message
    assert (raised.value.response.headers.get("retry-after") == "1") == (code == "queue_full")


async def test_an_error_that_names_an_undecodable_file_is_still_an_answer(running: House) -> None:
    running.script.generate_error = GenerationFailed("cannot read bad\udcff.gguf")
    with pytest.raises(openai.InternalServerError) as raised:
        await running.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert raised.value.code == "generation_failed"
    assert "cannot read bad.gguf" in raised.value.message


async def test_a_crash_in_a_stream_ends_it_with_an_error_event(running: House) -> None:
    running.script.crash_after = 2
    stream = await open_stream(running)
    got: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as raised:
        async for chunk in stream:
            got.append(chunk)
    assert text_of(got) == "Hello, "
    assert "SIGKILL" in raised.value.message
    assert raised.value.code == "engine_crashed"


async def test_the_request_after_a_crash_is_answered(running: House) -> None:
    running.script.crash_after = 0
    with pytest.raises(openai.APIStatusError) as raised:
        await running.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert (raised.value.status_code, raised.value.code) == (503, "engine_crashed")
    running.script.crash_after = None
    answer = await running.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello, world."
    assert len(running.script.loads) == 2


async def test_a_model_that_is_not_served_is_not_found(running: House) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await running.client().chat.completions.create(model="gpt-9", messages=HELLO)
    assert raised.value.code == "model_not_found"
    assert MODEL in raised.value.message


async def test_the_models_are_listed_and_found_by_name(running: House) -> None:
    client = running.client()
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/other:Q4_K_M")


async def test_nobody_asks_for_a_path_that_does_not_exist_in_another_shape(running: House) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await running.client().moderations.create(input="x")
    assert raised.value.code == "unknown_url"


async def test_a_conversation_rolls_only_when_it_asks_for_that(running: House) -> None:
    running.script.dropped_messages = 2
    create = running.client().chat.completions.create
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
    assert [request.overflow for request in running.script.requests] == [
        Overflow.ERROR,
        Overflow.ROLL,
        Overflow.ROLL,
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_are_choices_and_the_prompt_counts_once(
    running: House, stream: bool
) -> None:
    client = running.client()
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
    assert running.script.requests[0].n == 3
