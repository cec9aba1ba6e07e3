"""A process that does not answer is noticed and ended; one that is slow is not."""

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.child_process import WORKER
from localllm.engine.client.client import ProcessEngine
from localllm.engine.client.watchdog import Watchdog, WatchdogTimeouts
from localllm.engine.messages import GenerateRequest, Heartbeat, LoadRequest, ProbeRequest, Token
from localllm.errors import EngineCrashed
from tests.engine import tiny
from tests.engine.answers import GREEDY, collect

TIMEOUTS = WatchdogTimeouts(start_s=120, silent_s=15, stalled_s=30, long_call_s=600, interval_s=1)
SILENT = WatchdogTimeouts(start_s=60, silent_s=2.5, stalled_s=60, long_call_s=60, interval_s=0.05)
"""Notices a silent process soon (a healthy one sends a heartbeat every second), nothing else."""

STALLED = WatchdogTimeouts(start_s=60, silent_s=60, stalled_s=0.5, long_call_s=60, interval_s=0.05)
"""Notices a computing thread without progress soon, and nothing else."""

LOAD = LoadSettings(context=2048, parallel=8, batch=64, ubatch=64, threads=1)

_HANGS = """
import threading
import localllm.engine.worker.main as main
from localllm.engine.worker.{module} import {name}
def hang(*_, **__): {how}
{name}.{method} = hang
main.main()
"""


def hanging(module: str, name: str, method: str, how: str) -> tuple[str, ...]:
    """The worker, but for one method, which never returns."""
    script = _HANGS.format(module=module, name=name, method=method, how=how)
    return (*WORKER[:2], "-c", script)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


async def loaded(
    path: Path, timeouts: WatchdogTimeouts, program: tuple[str, ...] = WORKER
) -> ProcessEngine:
    engine = ProcessEngine(timeouts=timeouts, program=program)
    async for _ in engine.load(LoadRequest(path=str(path), settings=LOAD)):
        pass
    return engine


def ask_long(request_id: str, text: str = "hello") -> GenerateRequest:
    """An answer that is long enough to be interrupted."""
    return GenerateRequest(request_id=request_id, prompt=text, sampling=GREEDY, max_tokens=2000)


class CheckedWatchdog:
    """A watchdog on a made-up clock that is checked once a second."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(TIMEOUTS)
        self.now = 1000.0
        self.record(Heartbeat(steps=0))

    def record(self, event: Heartbeat | Token) -> None:
        self.watchdog.record(event, self.now)

    def wait(
        self, seconds: int, heartbeat: Heartbeat | None = None, *, long_call: bool = False
    ) -> str | None:
        """Check for so long, recording `heartbeat` every second; the verdict, when there is one."""
        for _ in range(seconds):
            self.now += 1
            if heartbeat is not None:
                self.record(heartbeat)
            if (verdict := self.watchdog.check(self.now, long_call=long_call)) is not None:
                return verdict
        return None


def test_a_process_that_says_nothing_is_given_up_soon() -> None:
    checked = CheckedWatchdog()
    assert checked.wait(15) is None
    assert checked.wait(2) == "stopped answering for 16 s"


def test_a_process_without_progress_is_given_up_later() -> None:
    checked = CheckedWatchdog()
    assert checked.wait(30, Heartbeat(steps=7)) is None
    assert checked.wait(3, Heartbeat(steps=7)) == "computed without getting any further for 31 s"


def test_a_slow_process_is_waited_for_as_long_as_it_moves() -> None:
    checked = CheckedWatchdog()
    for moves in range(200):  # every 29 s one node of a graph
        assert checked.wait(29, Heartbeat(steps=moves)) is None


def test_events_are_signs_of_life_too() -> None:
    checked = CheckedWatchdog()
    for _ in range(20):
        assert checked.wait(14) is None
        checked.record(Token(request_id="a", text="x"))


@pytest.mark.parametrize("long_call", [True, False])
def test_what_shows_nothing_is_waited_for_longer(long_call: bool) -> None:
    checked = CheckedWatchdog()
    heartbeat = Heartbeat(steps=1, long_call=not long_call)
    assert checked.wait(600, heartbeat, long_call=long_call) is None
    assert checked.wait(2, heartbeat, long_call=long_call) is not None


def test_a_process_that_has_not_begun_may_come_from_a_slow_disk() -> None:
    checked = CheckedWatchdog()
    checked.watchdog = Watchdog(TIMEOUTS)
    assert checked.wait(120) is None
    assert checked.wait(2) == "did not begin to work within 121 s"


def test_a_suspended_machine_does_not_look_like_a_hang() -> None:
    checked = CheckedWatchdog()
    assert checked.wait(14) is None
    checked.now += 8 * 3600  # some systems' clocks count the night, and all of them a Ctrl+Z
    assert checked.wait(15) is None
    assert checked.wait(2) is not None


def test_an_idle_process_owes_nothing() -> None:
    checked = CheckedWatchdog()
    assert checked.wait(14) is None
    checked.watchdog.pause()
    checked.now += 1
    assert checked.wait(15) is None
    assert checked.wait(2) is not None


async def test_a_stopped_process_is_an_error_for_all_its_streams_and_no_zombie(
    model: Path,
) -> None:
    engine = await loaded(model, SILENT)
    pid = engine.pid
    assert pid is not None
    running = asyncio.Barrier(9)

    async def stream(request_id: str) -> EngineCrashed:
        with pytest.raises(EngineCrashed) as caught:
            async with aclosing(engine.generate(ask_long(request_id))) as events:
                await anext(events)
                await running.wait()
                async for _ in events:
                    pass
        return caught.value

    streams = [asyncio.ensure_future(stream(f"s{i}")) for i in range(8)]
    await running.wait()
    os.kill(pid, signal.SIGSTOP)
    # More than a pipe holds: neither the cancel nor the next request waits for the process.
    big = asyncio.ensure_future(collect(engine, ask_long("big", "x" * 2_000_000)))
    await asyncio.sleep(0)
    await engine.cancel("s0")
    crashes = await asyncio.gather(*streams)
    assert len({id(crash) for crash in crashes}) == 1  # all of them at once
    assert crashes[0].reason.startswith("stopped answering for")
    assert "Its log:" in str(crashes[0])
    with pytest.raises(EngineCrashed):
        await big
    assert not engine.alive
    await engine.close()
    assert not psutil.pid_exists(pid)


async def test_a_process_that_was_stopped_for_a_moment_goes_on(model: Path) -> None:
    engine = await loaded(model, TIMEOUTS)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    answer = asyncio.ensure_future(collect(engine, ask_long("a")))
    await asyncio.sleep(0)
    os.kill(engine.pid, signal.SIGCONT)
    assert (await answer)[1].completion_tokens == 2000
    await engine.close()


@pytest.mark.parametrize("how", ["threading.Event().wait()", "\n        while True: pass"])
async def test_a_computing_thread_that_hangs_is_noticed(model: Path, how: str) -> None:
    engine = await loaded(model, STALLED, hanging("llama.model", "Model", "decode", how))
    with pytest.raises(EngineCrashed) as caught:
        await collect(engine, ask_long("a"))
    assert caught.value.reason.startswith("computed without getting any further for")
    await engine.close()


async def test_a_scheduler_that_turns_in_circles_is_noticed(model: Path) -> None:
    program = hanging("scheduling.scheduler", "Scheduler", "step", "pass")
    engine = await loaded(model, STALLED, program)
    with pytest.raises(EngineCrashed, match="without getting any further"):
        await collect(engine, ask_long("a"))
    await engine.close()


async def test_a_load_and_a_dry_run_that_hang_are_noticed(model: Path) -> None:
    short = WatchdogTimeouts(
        start_s=60, silent_s=60, stalled_s=60, long_call_s=0.3, interval_s=0.05
    )
    for question in ("_load", "_probe"):
        program = hanging("commands", "WorkerEngine", question, "threading.Event().wait()")
        engine = ProcessEngine(timeouts=short, program=program)
        with pytest.raises(EngineCrashed, match="without getting any further"):
            if question == "_probe":
                await engine.probe(ProbeRequest(path=str(model), settings=LOAD))
            async for _ in engine.load(LoadRequest(path=str(model), settings=LOAD)):
                pass
        await engine.close()


async def test_a_process_that_never_begins_is_noticed(tmp_path: Path) -> None:
    short = WatchdogTimeouts(start_s=0.3, interval_s=0.05)
    program = (sys.executable, "-c", "import threading; threading.Event().wait()")
    engine = ProcessEngine(timeouts=short, program=program, log_dir=tmp_path)
    with pytest.raises(EngineCrashed, match="did not begin to work within"):
        await engine.describe()
    await engine.close()
