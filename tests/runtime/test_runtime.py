"""The runtime on a fake machine, with scripted engines."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import Allocation, BufferKind, Speculate
from localllm.engine.fake import FAKE_BUILD, FakeEngine, Script
from localllm.engine.messages import Finished, GenerateRequest, LoadProgress, Token
from localllm.errors import DoesNotFit, EngineCrashed, GgufError, LoadFailed, NotFound
from localllm.library.files.settings import Settings
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.memory_outlook import MAPPED_FILES_COUNT_AS_FREE
from localllm.runtime.runtime import PROBE_TIMEOUT_S, ResidentModel, Runtime, TooLarge
from tests.library import tiny as library_tiny
from tests.runtime.fake_machine import GIB, FakeMachine

CHOICE = replace(CHAT, context=1024, parallel=2, speculate=Speculate.OFF)
SINGLE = replace(CHOICE, parallel=1)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


async def load(
    runtime: Runtime, choice: LoadChoice = CHOICE, *, force: bool = False
) -> ResidentModel:
    return await started(runtime, await planned(runtime, choice), force=force)


async def planned(runtime: Runtime, choice: LoadChoice = CHOICE) -> LoadPlan:
    return await runtime.plan(runtime.resolve("starter"), choice)


async def started(runtime: Runtime, plan: LoadPlan, *, force: bool = False) -> ResidentModel:
    resident = None
    async for event in runtime.load(plan, force=force):
        if isinstance(event, ResidentModel):
            resident = event
        else:
            assert isinstance(event, LoadProgress)
    assert resident is not None
    return resident


async def answer(runtime: Runtime, request_id: str = "r") -> str:
    text = ""
    async for event in runtime.generate(
        "starter", GenerateRequest(request_id=request_id, prompt="x")
    ):
        if isinstance(event, Token):
            text += event.text
    return text


@pytest.mark.smoke
async def test_a_model_is_loaded_with_what_was_sized(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    resident = await load(runtime)
    expected = machine.engines[-1].script.loads[0].settings
    assert expected == resident.settings
    assert (expected.context, expected.parallel, expected.gpu_layers) == (1024, 2, 0)
    assert expected.threads == 4  # the cores that this process may use, not those that exist
    assert resident.fit.fits
    assert runtime.resident() == (resident,)
    assert await answer(runtime) == "Hello, world."
    await runtime.close()
    assert runtime.resident() == ()
    assert not any(engine.alive for engine in machine.engines)


async def test_the_machine_is_asked_with_the_engines_build(machine: FakeMachine) -> None:
    info = await machine.runtime().hardware()
    assert info.engine == FAKE_BUILD


async def test_a_model_that_does_not_fit_is_refused_with_numbers_and_advice(
    machine: FakeMachine,
) -> None:
    machine.available_bytes = 215 * 2**20
    runtime = machine.runtime()
    with pytest.raises(DoesNotFit) as caught:
        await load(runtime, replace(SINGLE, context=4096))
    message = str(caught.value)
    assert "starter with 4096 tokens of context needs 254 MiB" in message
    assert "215 MiB is free" in message
    assert "Try --ctx 2048" in message
    assert runtime.resident() == ()
    assert all(not engine.script.loads for engine in machine.engines)


async def test_a_refusal_carries_settings_that_load(machine: FakeMachine) -> None:
    machine.available_bytes = 215 * 2**20
    machine.script = lambda: Script(allocations=dry_run(45))
    runtime = machine.runtime()
    with pytest.raises(TooLarge) as caught:
        await load(runtime, replace(SINGLE, context=4096))
    advised = caught.value.fit.advised
    assert advised is not None
    assert advised.context == 2048
    plan = replace(await planned(runtime), candidates=(advised,))
    assert (await started(runtime, plan)).loaded.context == 2048


async def test_force_loads_what_does_not_fit(machine: FakeMachine) -> None:
    machine.available_bytes = 1
    assert not (await load(machine.runtime(), force=True)).fit.fits


async def test_advice_for_what_can_never_fit_names_the_weights(machine: FakeMachine) -> None:
    machine.available_bytes = 10 * 2**20
    runtime = machine.runtime()
    fit = await runtime.fit(await planned(runtime))
    assert fit.advice is not None
    assert "92.1 MiB" in fit.advice


async def test_a_reserve_is_never_planned_for(machine: FakeMachine) -> None:
    machine.settings = Settings(reserve_bytes=8 * GIB)
    runtime = machine.runtime()
    assert not (await runtime.fit(await planned(runtime))).fits


async def test_what_a_reload_gives_back_is_counted(machine: FakeMachine) -> None:
    runtime, choice = machine.runtime(), replace(SINGLE, context=8192)
    await load(runtime, choice)
    # What is free now is what the loaded model left; loading it again needs no more than that.
    machine.available_bytes = 100 * 2**20
    plan = await planned(runtime, choice)
    again, other = await runtime.fit(plan), await machine.runtime().fit(plan)
    assert again.free_bytes > other.free_bytes
    assert not other.fits


async def test_a_draft_model_is_counted_and_given_back(machine: FakeMachine, smollm2: Path) -> None:
    runtime = machine.runtime()
    choice = replace(SINGLE, context=8192, speculate=Speculate.AUTO)
    alone = await runtime.fit(await planned(runtime, choice))
    plan = await planned(runtime, replace(choice, draft=str(smollm2)))
    first = await started(runtime, plan)
    assert first.fit.draft is not None
    assert alone.free_bytes - first.fit.free_bytes == first.fit.draft.total_bytes
    machine.available_bytes = 100 * 2**20
    again, other = await runtime.fit(plan), await machine.runtime().fit(plan)
    (host,) = first.fit.placement.devices
    # What the engine reported, and of the mapped files nothing: their pages are free already.
    allocated = sum(a.size_bytes for a in first.loaded.allocations[1:])
    draft = first.fit.draft.total_bytes - host.weights_bytes
    returned = allocated + host.overhead_bytes + draft
    assert again.placement.devices[-1].free_bytes - other.placement.devices[-1].free_bytes == (
        returned
    )


async def test_loading_again_replaces_the_engine(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    first = machine.engines[-1]
    await load(runtime)
    assert not first.alive
    assert len(runtime.resident()) == 1


async def test_a_failed_load_leaves_nothing_behind(machine: FakeMachine) -> None:
    machine.script = lambda: Script(load_error=LoadFailed("llama.cpp refused the model"))
    runtime = machine.runtime()
    with pytest.raises(LoadFailed):
        await load(runtime)
    assert runtime.resident() == ()
    assert not any(engine.alive for engine in machine.engines)


async def test_a_load_that_nobody_waits_for_leaves_nothing_behind(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    async with aclosing(runtime.load(await planned(runtime))) as events:
        async for _ in events:
            break
    assert runtime.resident() == ()
    assert not any(engine.alive for engine in machine.engines)


@pytest.mark.smoke
async def test_a_crashed_engine_is_started_again_for_the_next_request(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    machine.engines[-1].script.crash_after = 1
    with pytest.raises(EngineCrashed):
        await answer(runtime, "first")
    assert runtime.resident() == ()
    assert await answer(runtime, "second") == "Hello, world."
    assert len(runtime.resident()) == 1


async def test_an_engine_that_crashes_again_and_again_is_given_up(machine: FakeMachine) -> None:
    machine.script = lambda: Script(crash_after=0)
    runtime = machine.runtime()
    await load(runtime)
    for _ in range(2):
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            await answer(runtime)
    started = len(machine.engines)
    with pytest.raises(
        EngineCrashed, match=r"crashed again .*SIGKILL.* in 30 s or later"
    ) as caught:
        await answer(runtime)
    assert caught.value.log_tail == ("fake: killed",)
    assert caught.value.retry_after_s == 30
    assert len(machine.engines) == started


async def test_an_engine_that_was_given_up_is_tried_again_after_a_while(
    machine: FakeMachine,
) -> None:
    machine.script = lambda: Script(crash_after=0)
    runtime = machine.runtime()
    await load(runtime)
    for pause in (0, 0, 30, 60, 120, 240, 480, 600, 600):
        machine.now_s += pause - 1
        if pause:
            with pytest.raises(EngineCrashed, match="crashed again"):
                await answer(runtime)
        machine.now_s += 2
        with pytest.raises(EngineCrashed, match="process ended"):
            await answer(runtime)
    machine.now_s += 601
    machine.script = Script
    assert await answer(runtime) == "Hello, world."


async def test_a_restart_that_fails_is_no_engine_without_a_model(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    machine.engines[-1].kill()
    machine.script = lambda: Script(load_error=LoadFailed("the file is gone"))
    with pytest.raises(LoadFailed):
        await answer(runtime)
    assert runtime.resident() == ()
    with pytest.raises(EngineCrashed, match="the file is gone"):
        await answer(runtime)
    machine.now_s += 31
    machine.script = Script
    assert await answer(runtime) == "Hello, world."


async def test_a_request_that_is_given_up_during_a_restart_does_not_end_it(
    machine: FakeMachine,
) -> None:
    runtime = machine.runtime()
    await load(runtime)
    machine.engines[-1].kill()
    machine.started.clear()
    waiting = asyncio.create_task(answer(runtime, "given up"))
    await machine.started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await answer(runtime, "next") == "Hello, world."
    assert machine.engines[-1].alive
    assert len(machine.engines) == 3, "the restart was ended and begun again"


async def test_unloading_ends_a_restart(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    machine.engines[-1].kill()
    machine.started.clear()
    waiting = asyncio.create_task(answer(runtime))
    await machine.started.wait()
    await runtime.unload("starter")
    with pytest.raises((asyncio.CancelledError, EngineCrashed)):
        await waiting
    assert not any(engine.alive for engine in machine.engines)


async def test_a_full_answer_forgives_the_crashes_before_it(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    for _ in range(3):
        machine.engines[-1].script.crash_after = 0
        with pytest.raises(EngineCrashed):
            await answer(runtime)
        assert await answer(runtime)


async def test_a_model_that_is_not_loaded_is_not_found(machine: FakeMachine) -> None:
    with pytest.raises(NotFound, match="nothing is not loaded"):
        async for _ in machine.runtime().generate("nothing", GenerateRequest(request_id="r")):
            pass


async def test_a_reader_that_leaves_closes_the_engines_stream(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    await load(runtime)
    request = GenerateRequest(request_id="r", prompt="x")
    async with aclosing(runtime.generate("starter", request)) as events:
        async for event in events:
            assert not isinstance(event, Finished)
            break
    assert await answer(runtime, "next") == "Hello, world."


def dry_run(kv_mib: int) -> tuple[Allocation, ...]:
    return (Allocation(device="CPU", kind=BufferKind.KV, size_bytes=kv_mib * 2**20),)


def tight(machine: FakeMachine, *, kv_mib: int) -> Runtime:
    """A machine with little more than the 254 MiB that the starter needs with 4096 tokens."""
    machine.available_bytes = 260 * 2**20
    machine.script = lambda: Script(allocations=dry_run(kv_mib))
    return machine.runtime()


def probes(machine: FakeMachine) -> list[FakeEngine]:
    return [engine for engine in machine.engines if engine.script.probes]


async def test_a_load_with_room_to_spare_is_not_probed(machine: FakeMachine) -> None:
    resident = await load(machine.runtime())
    assert resident.fit.probed is None
    assert not probes(machine)


async def test_a_tight_load_is_probed_in_an_engine_of_its_own(machine: FakeMachine) -> None:
    runtime = tight(machine, kv_mib=91)
    resident = await load(runtime, replace(SINGLE, context=4096))
    (expected,) = probes(machine)
    assert not expected.alive
    assert not expected.script.loads
    assert expected.script.probes[0].settings == resident.fit.settings
    assert resident.fit.probed == dry_run(91)
    assert resident.fit.placement.host.kv_bytes == 91 * 2**20
    assert resident.loaded.allocations  # estimate, dry run and read-back are all at hand


async def test_a_probe_that_finds_more_than_is_free_refuses_the_load(machine: FakeMachine) -> None:
    runtime = tight(machine, kv_mib=120)
    with pytest.raises(DoesNotFit, match=r"llama\.cpp's own dry run") as caught:
        await load(runtime, replace(SINGLE, context=4096))
    assert "needs 284 MiB" in str(caught.value)
    assert not any(engine.script.loads for engine in machine.engines)
    assert not any(engine.alive for engine in machine.engines)


async def test_force_asks_nobody(machine: FakeMachine) -> None:
    resident = await load(tight(machine, kv_mib=120), replace(SINGLE, context=4096), force=True)
    assert resident.fit.probed is None
    assert not probes(machine)


async def test_a_dry_run_that_llama_cpp_refuses_ends_the_load(machine: FakeMachine) -> None:
    runtime = tight(machine, kv_mib=91)
    machine.script = lambda: Script(probe_error=LoadFailed("llama.cpp would not make this context"))
    with pytest.raises(LoadFailed, match="would not make"):
        await load(runtime, replace(SINGLE, context=4096))
    assert not any(engine.alive for engine in machine.engines)
    assert runtime.resident() == ()


async def test_estimate_dry_run_and_read_back_are_compared(machine: FakeMachine) -> None:
    runtime = tight(machine, kv_mib=91)
    comparison = (await load(runtime, replace(SINGLE, context=4096))).comparison
    cache, computing = comparison.parts
    assert (cache.part, computing.part) == ("cache", "computing")
    assert cache.estimated_bytes == 90 * 2**20
    assert cache.probed_bytes == 91 * 2**20
    assert cache.allocated_bytes == 94_371_840
    assert computing.allocated_bytes == 30_200_000
    assert comparison.allocated_bytes == 124_571_840


async def test_two_loads_of_one_model_at_once_leave_one_engine(machine: FakeMachine) -> None:
    runtime = machine.runtime()
    plan = await planned(runtime)
    first, second = await asyncio.gather(started(runtime, plan), started(runtime, plan))
    assert runtime.resident() == (second,)
    assert first is not second
    assert [engine.alive for engine in machine.engines] == [False, False, True]
    await runtime.close()
    assert not any(engine.alive for engine in machine.engines)


async def test_a_load_sees_what_the_one_before_it_has_left(
    machine: FakeMachine, gemma3: Path
) -> None:
    gate = asyncio.Semaphore(0)
    machine.script = lambda: Script(load_gate=gate)
    runtime = machine.runtime()
    await runtime.hardware()
    machine.started.clear()
    first = asyncio.create_task(load(runtime))
    await machine.started.wait()
    plan = await runtime.plan(runtime.resolve(str(gemma3)), CHOICE)
    second = asyncio.create_task(started(runtime, plan))
    await asyncio.sleep(0)
    assert len(machine.engines) == 2  # the one that described the build, and the first load's
    machine.available_bytes = 100 * 2**20
    for _ in range(5):
        gate.release()
    await first
    # The 92 MiB of its weights that are mapped count as free, and stay where they are.
    free = r"7\.9 MiB is free" if MAPPED_FILES_COUNT_AS_FREE else "100 MiB is free"
    with pytest.raises(TooLarge, match=free):
        await second


async def test_a_load_that_is_given_up_lets_the_next_one_in(machine: FakeMachine) -> None:
    machine.script = lambda: Script(load_gate=asyncio.Semaphore(0))
    runtime = machine.runtime()
    await runtime.hardware()
    machine.started.clear()
    given_up = asyncio.create_task(load(runtime))
    await machine.started.wait()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert not any(engine.alive for engine in machine.engines)
    machine.script = Script
    assert (await load(runtime)).loaded


def hung(
    machine: FakeMachine, *, timeout_s: float = PROBE_TIMEOUT_S
) -> tuple[Runtime, asyncio.Semaphore]:
    """A tight machine whose dry runs wait for the gate."""
    gate = asyncio.Semaphore(0)
    machine.available_bytes = 260 * 2**20
    machine.script = lambda: Script(probe_gate=gate, allocations=dry_run(91))
    machine.probe_timeout_s = timeout_s
    return machine.runtime(), gate


async def probing(machine: FakeMachine, runtime: Runtime) -> asyncio.Task[ResidentModel]:
    """A load whose dry run has begun."""
    await runtime.hardware()
    machine.started.clear()
    task = asyncio.create_task(load(runtime, replace(SINGLE, context=4096)))
    await machine.started.wait()
    return task


async def test_a_dry_run_that_hangs_is_given_up(machine: FakeMachine) -> None:
    runtime, _ = hung(machine, timeout_s=0.01)
    with pytest.raises(LoadFailed, match=r"did not say within .* --force"):
        await load(runtime, replace(SINGLE, context=4096))
    assert not any(engine.alive for engine in machine.engines)
    assert (await load(runtime, replace(SINGLE, context=4096), force=True)).loaded


async def test_an_engine_that_does_not_say_what_it_is_is_given_up(machine: FakeMachine) -> None:
    runtime, gate = hung(machine, timeout_s=0.01)
    machine.script = lambda: Script(describe_gate=gate)  # a driver that hangs
    assert (await runtime.hardware()).engine is None
    assert not any(engine.alive for engine in machine.engines)


async def test_a_cancel_during_a_dry_run_leaves_nothing_behind(machine: FakeMachine) -> None:
    runtime, _ = hung(machine)
    task = await probing(machine, runtime)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(engine.alive for engine in machine.engines)
    assert (await load(runtime, replace(SINGLE, context=4096), force=True)).loaded


async def test_a_dry_run_that_ends_llama_cpp_ends_the_load_with_the_reason(
    machine: FakeMachine,
) -> None:
    runtime, gate = hung(machine)
    task = await probing(machine, runtime)
    machine.engines[-1].kill()
    gate.release()
    with pytest.raises(
        EngineCrashed, match=r"would probably end the same.*--kv-type f16"
    ) as caught:
        await task
    assert caught.value.reason == "SIGKILL"
    assert caught.value.log_tail == ("fake: killed",)
    assert runtime.resident() == ()
    assert not any(engine.script.loads for engine in machine.engines)


async def test_closing_ends_a_load_and_a_dry_run(machine: FakeMachine) -> None:
    gate = asyncio.Semaphore(0)
    machine.script = lambda: Script(load_gate=gate)
    runtime = machine.runtime()
    await runtime.hardware()
    machine.started.clear()
    task = asyncio.create_task(load(runtime))
    await machine.started.wait()
    await runtime.close()
    assert not any(engine.alive for engine in machine.engines)
    gate.release()
    with pytest.raises(EngineCrashed):
        await task
    assert runtime.resident() == ()


async def test_a_header_that_cannot_be_used_is_blamed_on_its_architecture_if_that_is_unknown(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = library_tiny.write(tmp_path / "new.gguf", architecture="superllm9")
    machine.script = lambda: Script(unknown_architectures=("superllm9",))
    runtime = machine.runtime()
    with pytest.raises(LoadFailed, match="does not know the architecture 'superllm9'"):
        await runtime.plan(runtime.resolve(str(path)), CHAT)
    machine.script = Script
    with pytest.raises(GgufError):
        await runtime.plan(runtime.resolve(str(library_tiny.write(tmp_path / "l.gguf"))), CHAT)
