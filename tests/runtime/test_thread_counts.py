"""The threads of a load: those that are known, those to compare, those that a person has said."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.hardware import Cpu, HardwareInfo, Memory
from localllm.core.sizing.load import LoadSettings
from localllm.core.speed.threads import ThreadTrial
from localllm.engine.messages import Loaded
from localllm.runtime.load_policy import CHAT
from localllm.runtime.loading.thread_counts import ThreadChoices
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.runtime.fake_machine import FakeMachine

GIB = 2**30
HERE = HardwareInfo(
    cpu=Cpu(name="Made up", cores_physical=8, cores_usable=8),
    ram=Memory(total_bytes=16 * GIB, available_bytes=8 * GIB),
)
CPU_LOAD = LoadSettings(gpu_layers=0, threads=8)
FOUND = Loaded(
    allocations=(), context=512, cells=512, parallel=1, gpu_layers=0, has_chat_template=True,
    chat_template_sha256=None, load_s=1.0, threads=6, threads_batch=8,
    thread_trials=tuple(ThreadTrial(threads=n, steps_s=(0.1, 0.1)) for n in (8, 6, 4)),
)  # fmt: skip


@pytest.fixture
def choices(tmp_path: Path) -> ThreadChoices:
    return ThreadChoices(tmp_path / "cache" / "threads.json", busy=lambda _: False)


def test_what_was_found_is_used_for_models_of_that_size_on_that_machine(
    choices: ThreadChoices,
) -> None:
    assert choices.settled(CPU_LOAD, 5 * GIB, HERE) == (CPU_LOAD, (8, 6, 4))
    choices.keep(FOUND, 5 * GIB, HERE)
    known = replace(CPU_LOAD, threads=6, threads_batch=8)
    assert choices.settled(CPU_LOAD, 7 * GIB, HERE) == (known, ())
    assert choices.settled(CPU_LOAD, 3 * GIB, HERE)[1] == (8, 6, 4)
    smaller = replace(HERE, cpu=replace(HERE.cpu, cores_usable=4))  # a container's quota
    assert choices.settled(CPU_LOAD, 7 * GIB, smaller)[1] == (4, 3, 2)
    assert [each.threads for each in choices.known(HERE).values()] == [6]
    assert choices.known(smaller) == {}
    choices.keep(FOUND, 7 * GIB, smaller)  # a file that says more than there are is not followed
    assert choices.settled(CPU_LOAD, 7 * GIB, smaller)[1] == (4, 3, 2)


def test_nothing_is_compared_on_a_gpu_for_embeddings_or_on_a_busy_machine(tmp_path: Path) -> None:
    quiet = ThreadChoices(tmp_path / "threads.json", busy=lambda _: False)
    busy = ThreadChoices(tmp_path / "threads.json", busy=lambda _: True)
    for choices, settings in (
        (quiet, replace(CPU_LOAD, gpu_layers=9)),
        (quiet, replace(CPU_LOAD, gpu_layers=None)),
        (quiet, replace(CPU_LOAD, embeddings=True)),
        (busy, CPU_LOAD),
    ):
        assert choices.settled(settings, 5 * GIB, HERE) == (settings, ())


def test_a_load_that_compared_nothing_keeps_nothing_and_a_damaged_file_is_none(
    choices: ThreadChoices, tmp_path: Path
) -> None:
    choices.keep(replace(FOUND, thread_trials=()), 5 * GIB, HERE)
    assert choices.known(HERE) == {}
    choices.keep(FOUND, 5 * GIB, HERE)
    (tmp_path / "cache" / "threads.json").write_text("[")
    assert choices.known(HERE) == {}
    choices.keep(FOUND, 5 * GIB, HERE)
    assert len(choices.known(HERE)) == 1


async def loaded(runtime: Runtime, *, threads: int | None) -> ResidentModel:
    plan = await runtime.plan(runtime.resolve("starter"), replace(CHAT, threads=threads))
    events = [event async for event in runtime.load(plan)]
    await runtime.unload("starter")
    assert isinstance(events[-1], ResidentModel)
    return events[-1]


async def test_a_load_compares_once_and_never_what_a_person_has_said(
    tmp_path: Path, choices: ThreadChoices
) -> None:
    machine = FakeMachine(tmp_path, thread_choices=choices)
    runtime = machine.runtime()
    await loaded(runtime, threads=None)
    await loaded(runtime, threads=3)
    found = replace(FOUND, threads=3, threads_batch=4)
    choices.keep(found, runtime.resolve("starter").size_bytes, await runtime.hardware())
    resident = await loaded(runtime, threads=None)
    requests = [request for engine in machine.engines for request in engine.script.loads]
    assert [each.try_threads for each in requests] == [(4, 3, 2), (), ()]
    assert [each.settings.threads for each in requests] == [4, 3, 3]
    assert (resident.settings.threads, resident.settings.threads_batch) == (3, 4)
    await runtime.close()
