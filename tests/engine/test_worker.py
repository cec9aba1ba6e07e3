"""The real worker on the first layers of the starter model."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from localllm.core.sizing.load import BufferKind, LoadSettings
from localllm.engine.builds.candidates import chosen_candidate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Loaded,
    LoadProgress,
    LoadRequest,
    Message,
    PromptProgress,
    Role,
    Sampling,
    Token,
)
from localllm.errors import BadRequest, ContextOverflow, LoadFailed
from tests.engine.answers import GREEDY, ask, collect
from tests.engine.conftest import SMALL

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_engine_says_what_it_is(engine: ProcessEngine) -> None:
    other = ProcessEngine()
    build = await other.describe()
    await other.close()
    candidate = chosen_candidate()
    assert build.name == candidate.name
    assert build.version
    assert candidate.version in {build.version, None}
    assert build.backends
    assert any(device.kind == "cpu" for device in build.devices)


@pytest.mark.smoke
async def test_a_load_reports_progress_and_what_was_allocated(smollm2: Path) -> None:
    engine = ProcessEngine()
    request = LoadRequest(path=str(smollm2), settings=LoadSettings(context=2048, threads=1))
    events = [event async for event in engine.load(request)]
    *progress, loaded = events
    assert isinstance(loaded, Loaded)
    fractions = [event.fraction for event in progress if isinstance(event, LoadProgress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    sizes = {part.kind: part.size_bytes for part in loaded.allocations}
    # 30 layers x 3 KV heads x 64 values x 2 (K and V) x 2 bytes x 2048 cells.
    assert sizes[BufferKind.KV] == 30 * 3 * 64 * 2 * 2 * 2048
    assert sizes.keys() >= {BufferKind.WEIGHTS, BufferKind.COMPUTE, BufferKind.OUTPUT}
    assert (loaded.context, loaded.cells, loaded.parallel) == (2048, 2048, 1)
    assert loaded.has_chat_template
    assert engine.memory_bytes() > sizes[BufferKind.COMPUTE]  # type: ignore[operator]
    pid = engine.pid
    await engine.close()
    assert pid is not None
    assert not psutil.pid_exists(pid)


@pytest.mark.smoke
async def test_a_greedy_answer_is_the_same_every_time(engine: ProcessEngine) -> None:
    first, done, _ = await collect(engine, ask("g1", "Name three colours."))
    second, again, _ = await collect(engine, ask("g2", "Name three colours."))
    assert first == second != ""
    assert done.prompt_tokens == again.prompt_tokens > 10
    assert again.cached_tokens == again.prompt_tokens - 1  # the same prompt is still there


async def test_a_seed_makes_a_random_answer_repeatable(engine: ProcessEngine) -> None:
    def sampling(seed: int) -> Sampling:
        return Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed)

    texts = [
        (await collect(engine, ask(f"s{i}", "Tell me a story.", sampling=sampling(seed))))[0]
        for i, seed in enumerate([7, 7, 8])
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_a_repeat_penalty_changes_a_repetitive_answer(engine: ProcessEngine) -> None:
    text = "Repeat the word yes fifty times."
    plain, _, _ = await collect(engine, ask("p1", text, max_tokens=48))
    penalised, _, _ = await collect(
        engine,
        ask("p2", text, max_tokens=48, sampling=Sampling(temperature=0, repeat_penalty=1.8)),
    )
    assert plain != penalised


@pytest.mark.smoke
async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(engine: ProcessEngine) -> None:
    whole, _, _ = await collect(engine, ask("t1", "Count to five.", max_tokens=24))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    cut, done, _ = await collect(engine, ask("t2", "Count to five.", max_tokens=24, stop=(stop,)))
    assert cut == whole[: whole.index(stop)]
    assert done.stop == stop
    assert done.reason is FinishReason.STOP


async def test_max_tokens_ends_the_answer(engine: ProcessEngine) -> None:
    _, done, _ = await collect(engine, ask("m1", "Tell me a long story.", max_tokens=5))
    assert (done.reason, done.completion_tokens) == (FinishReason.LENGTH, 5)


async def test_a_full_context_ends_the_answer(engine: ProcessEngine) -> None:
    # A random walk hardly ever ends by itself: the end of the context must end it.
    sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    prompt = GenerateRequest(request_id="c1", prompt="word " * 500, sampling=sampling)
    _, done, _ = await collect(engine, prompt)
    assert done.prompt_tokens + done.completion_tokens <= SMALL.context
    assert done.reason is FinishReason.LENGTH


@pytest.mark.smoke
async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    engine: ProcessEngine,
) -> None:
    with pytest.raises(ContextOverflow, match=rf"1\d\d\d tokens, .* holds {SMALL.context}"):
        await collect(engine, ask("o1", "word " * 2000))
    text, _, _ = await collect(engine, ask("o2", "Hello"))
    assert text  # the engine lives


async def test_an_empty_prompt_is_refused(engine: ProcessEngine) -> None:
    with pytest.raises(BadRequest, match="empty"):
        await collect(engine, GenerateRequest(request_id="e1", prompt=""))


@pytest.mark.smoke
async def test_several_requests_run_in_one_batch(engine: ProcessEngine) -> None:
    questions = ["What is rain?", "Name a fruit.", "Say hello.", "What is 2+2?"]
    order: list[str] = []

    async def one(i: int, question: str) -> str:
        text = ""
        async with aclosing(engine.generate(ask(f"b{i}", question))) as events:
            async for event in events:
                if isinstance(event, Token):
                    text += event.text
                    order.append(event.request_id)
        return text

    together = await asyncio.gather(*(one(i, q) for i, q in enumerate(questions)))
    assert len({*order[: len(questions)]}) > 1, "answers came one after the other"
    assert all(together)  # that they say what they say alone: test_scheduler.py, exactly


async def test_more_requests_than_slots_wait_and_are_all_answered(engine: ProcessEngine) -> None:
    answers = await asyncio.gather(
        *(collect(engine, ask(f"q{i}", f"Say {i}.", max_tokens=4)) for i in range(10))
    )
    assert all(done.completion_tokens for _, done, _ in answers)


@pytest.mark.smoke
async def test_a_conversation_computes_only_its_new_turn(engine: ProcessEngine) -> None:
    turns = [Message(role=Role.USER, content="My name is Ada and I like mathematics a lot.")]

    async def say(request_id: str) -> tuple[str, int, int]:
        request = GenerateRequest(
            request_id=request_id, messages=tuple(turns), sampling=GREEDY, max_tokens=16
        )
        text, done, _ = await collect(engine, request)
        return text, done.prompt_tokens, done.cached_tokens

    text, first_prompt, _ = await say("n1")
    turns += [
        Message(role=Role.ASSISTANT, content=text),
        Message(role=Role.USER, content="And what else?"),
    ]
    _, _, cached = await say("n2")
    assert cached >= first_prompt


async def test_a_reader_that_leaves_frees_its_slot(engine: ProcessEngine) -> None:
    for i in range(6):  # more than there are slots
        async with aclosing(
            engine.generate(ask(f"l{i}", "A long story.", max_tokens=400))
        ) as events:
            async for event in events:
                if isinstance(event, Token):
                    break
    _, done, _ = await collect(engine, ask("l9", "Hello", max_tokens=4))
    assert done.timings.queue_s < done.timings.total_s


async def test_cancel_ends_a_long_prompt_before_it_is_read(smollm2: Path) -> None:
    engine = ProcessEngine()
    settings = LoadSettings(context=4096, parallel=2, batch=1024, ubatch=1024, threads=2)
    async for _ in engine.load(LoadRequest(path=str(smollm2), settings=settings)):
        pass
    request = GenerateRequest(request_id="long", prompt="word " * 4000, max_tokens=4)
    stream = engine.generate(request)
    first = asyncio.ensure_future(anext(stream))
    other, _, _ = await collect(engine, ask("other", "Hello", max_tokens=1))
    # "other" was answered in the batch that read the first 1024 tokens; the second batch runs.
    assert isinstance(await first, PromptProgress)
    await engine.cancel("long")
    event = await anext(stream)
    while isinstance(event, PromptProgress):
        event = await anext(stream)
    assert isinstance(event, Finished)
    assert event.reason is FinishReason.CANCELLED
    assert event.completion_tokens == 0
    again, _, _ = await collect(engine, ask("again", "Hello", max_tokens=1))
    assert again == other
    await engine.close()


async def test_a_file_that_is_no_model_is_refused_and_the_engine_lives(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(60))
    engine = ProcessEngine()
    with pytest.raises(LoadFailed, match="refused"):
        async for _ in engine.load(LoadRequest(path=str(bad))):
            pass
    await engine.close()


async def test_a_base_model_continues_text_and_refuses_a_conversation(gemma3: Path) -> None:
    engine = ProcessEngine()
    settings = LoadSettings(context=512, threads=2)
    loads = [event async for event in engine.load(LoadRequest(path=str(gemma3), settings=settings))]
    loaded = loads[-1]
    assert isinstance(loaded, Loaded)
    request = GenerateRequest(
        request_id="b1",
        prompt="Monday, Tuesday, Wednesday, Thursday,",
        sampling=GREEDY,
        max_tokens=3,
    )
    text, _, _ = await collect(engine, request)
    assert "Friday" in text
    assert not loaded.has_chat_template
    with pytest.raises(BadRequest, match="base model"):
        await collect(engine, ask("b2", "Hello"))
    await engine.close()
