"""The parent's side: who asks at once, who gives up, who asks for what cannot be."""

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.child_process import ChildProcess
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    GenerateRequest,
    Loaded,
    LoadRequest,
    ProbeRequest,
    PromptProgress,
    Sampling,
)
from localllm.errors import BadRequest, ContextOverflow, EngineCrashed, LoadFailed
from tests.engine import tiny
from tests.engine.answers import ask, collect

SETTINGS = LoadSettings(context=256, parallel=2, batch=64, ubatch=64, threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says nonsense for ever, and at once."""
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


def prompt(request_id: str, text: str = "hello", *, max_tokens: int = 8) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id, prompt=text, sampling=Sampling(temperature=0), max_tokens=max_tokens
    )


def open_files() -> int:
    return psutil.Process().num_fds()


async def load(engine: ProcessEngine, path: Path) -> Loaded:
    *_, loaded = [e async for e in engine.load(LoadRequest(path=str(path), settings=SETTINGS))]
    assert isinstance(loaded, Loaded)
    return loaded


async def test_answers_to_several_questions_at_once_are_not_mixed_up(model: Path) -> None:
    engine = ProcessEngine()
    probe = ProbeRequest(path=str(model), settings=SETTINGS)
    one, loaded, two, probed, three = await asyncio.gather(
        engine.describe(),
        load(engine, model),
        engine.describe(),
        engine.probe(probe),
        engine.describe(),
    )
    assert one == two == three
    assert loaded.parallel == 2
    assert probed.allocations
    workers = [c for c in psutil.Process().children() if "localllm.engine.worker" in c.cmdline()]
    assert [worker.pid for worker in workers] == [engine.pid]
    await engine.close()


async def test_a_question_that_was_given_up_does_not_answer_the_next_one(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    given_up = asyncio.ensure_future(engine.describe())
    await asyncio.sleep(0)  # it is sent
    given_up.cancel()
    assert await engine.probe(ProbeRequest(path=str(model), settings=SETTINGS))
    await engine.close()


async def test_of_two_loads_at_once_the_second_is_refused_and_the_first_serves(
    model: Path,
) -> None:
    engine = ProcessEngine()
    first, second = await asyncio.gather(
        load(engine, model), load(engine, model), return_exceptions=True
    )
    assert isinstance(first, Loaded)
    assert isinstance(second, LoadFailed)
    text, _, _ = await collect(engine, prompt("a"))
    assert text
    await engine.close()


async def test_a_request_before_any_load_is_refused_and_the_engine_lives(model: Path) -> None:
    engine = ProcessEngine()
    with pytest.raises(BadRequest, match="No model"):
        await collect(engine, prompt("early"))
    await load(engine, model)
    assert (await collect(engine, prompt("early")))[0]
    await engine.close()


async def test_an_id_is_taken_until_its_request_has_ended(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    first, second = await asyncio.gather(
        collect(engine, prompt("a")), collect(engine, prompt("a")), return_exceptions=True
    )
    assert isinstance(second, BadRequest)
    assert "'a' is running" in str(second)
    assert not isinstance(first, BaseException)
    for request_id in ("a", "a", "nobody"):
        await engine.cancel(request_id)
    text, _, _ = await collect(engine, prompt("a"))  # the id is free again
    assert text == first[0]
    await engine.close()


async def test_what_is_left_of_an_abandoned_answer_goes_to_nobody(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    async with aclosing(engine.generate(prompt("a", max_tokens=200))) as events:
        await anext(events)
    assert (await collect(engine, prompt("b")))[0]
    assert (await collect(engine, prompt("a", max_tokens=3)))[1].completion_tokens == 3
    await engine.close()


async def test_closing_ends_every_question_and_stream_even_of_a_child_that_hangs(
    model: Path,
) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    pid, descriptors = engine.pid, open_files()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    waiting = [
        asyncio.ensure_future(collect(engine, prompt("a"))),
        asyncio.ensure_future(engine.describe()),
    ]
    await asyncio.sleep(0)  # both are sent
    await asyncio.gather(engine.close(), engine.close())
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, EngineCrashed)
        assert error.reason == "closed"
    with pytest.raises(EngineCrashed, match="closed"):
        await engine.describe()
    assert not psutil.pid_exists(pid)
    assert open_files() < descriptors


async def test_closing_while_the_process_starts_leaves_no_process() -> None:
    engine = ProcessEngine()
    question = asyncio.ensure_future(engine.describe())
    await asyncio.sleep(0)  # it is being started
    await engine.close()
    with pytest.raises(EngineCrashed, match="closed"):
        await question
    assert engine.pid is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 2**70),
        ("stop", ("",)),
        ("stop", ("x",) * 300),
        ("stop", ("x" * 100_000,)),
        ("prompt", None),
        ("prompt", "half of a character: \ud800"),
        ("messages", ()),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused_and_named(
    model: Path, field: str, value: object
) -> None:
    engine = ProcessEngine()
    with pytest.raises(BadRequest):
        await collect(engine, replace(prompt("a"), **{field: value}))  # type: ignore[arg-type]
    await engine.close()


async def test_a_path_that_is_not_unicode_is_a_refusal() -> None:
    engine = ProcessEngine()
    with pytest.raises(LoadFailed, match="rename"):
        _ = [e async for e in engine.load(LoadRequest(path=os.fsdecode(b"/tmp/\xff.gguf")))]
    await engine.close()


async def test_a_prompt_of_ten_megabytes_is_refused_before_it_is_tokenized(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    with pytest.raises(ContextOverflow, match="10000000 characters"):
        await collect(engine, prompt("big", "x" * 10_000_000))
    _, done, _ = await collect(engine, prompt("nul", "a\0b"))
    assert done.completion_tokens == 8
    await engine.close()


async def test_a_parent_that_reads_late_gets_everything(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    streams = [engine.generate(prompt(f"r{i}", max_tokens=200)) for i in range(20)]
    for stream in streams:  # every request is sent; nobody listens for now
        assert isinstance(await anext(stream), PromptProgress)
    for stream in streams:
        *_, end = [event async for event in stream]
        assert getattr(end, "completion_tokens", None) == 200
    await engine.close()


async def test_half_a_line_of_a_killed_child_is_not_garbage(tmp_path: Path) -> None:
    script = "import os\nos.write(1, b'whole\\nhal')\nos.kill(os.getpid(), 9)"
    child = await ChildProcess.start(
        ["/usr/bin/env", "python3", "-c", script],
        log_path=tmp_path / "log",
        environment=dict(os.environ),
    )
    assert [line async for line in child.lines()] == [b"whole\n"]
    assert await child.exit_reason() == "SIGKILL"


async def test_a_chat_without_a_template_is_refused(model: Path) -> None:
    engine = ProcessEngine()
    await load(engine, model)
    with pytest.raises(BadRequest, match="chat template"):
        await collect(engine, ask("chat", "Hello"))
    await engine.close()
