"""GPUs on trial: what becomes of a load whose devices compute wrong numbers, and what is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from localllm.cli.commands.setup import checks
from localllm.core.hardware import (
    Backend,
    Device,
    DeviceKind,
    DeviceTest,
    EngineBuild,
    EngineDevice,
    HardwareInfo,
)
from localllm.core.sizing.load import KvType, Speculate
from localllm.engine.fake import FAKE_BUILD, Script
from localllm.errors import DoesNotFit, EngineCrashed
from localllm.library.files.settings import Settings
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.loading.gpu_tests import SCHEMA, GpuVerdicts, blames_gpu, summary
from localllm.runtime.model_pool.admission import decide
from localllm.runtime.model_pool.eviction import CannotFit
from localllm.runtime.model_pool.timing import LoadTimes
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.runtime.fake_machine import GIB, FakeMachine

NAME = "Made up GPU"
GOOD = DeviceTest(rows=24, mean_kl=0.004, agreement=1.0)
BAD = DeviceTest(rows=24, mean_kl=11.5, agreement=0.125)
CHOICE = replace(CHAT, context=1024, speculate=Speculate.OFF)
BUILD = replace(
    FAKE_BUILD,
    gpu_offload=True,
    digest="a build",
    devices=(
        EngineDevice(name="Vulkan0", description=NAME, kind="gpu", total_bytes=8 * GIB),
        *FAKE_BUILD.devices,
    ),
)


@dataclass
class GpuMachine(FakeMachine):
    """A machine with a GPU, whose engines are scripted alike."""

    driver: str = "Mesa 1"
    device_test: DeviceTest | None = GOOD
    device_crash: str | None = None
    build: EngineBuild = field(default_factory=lambda: BUILD)

    def __post_init__(self) -> None:
        self.script = lambda: Script(
            build=self.build,
            device_test=self.device_test,
            device_crash=self.device_crash,
            allocations=(),
        )

    def detect(self, build: EngineBuild | None) -> HardwareInfo:
        device = Device(
            kind=DeviceKind.GPU,
            name=NAME,
            backend=Backend.VULKAN,
            total_bytes=8 * GIB,
            free_bytes=8 * GIB,
            driver=self.driver,
        )
        return replace(super().detect(build), devices=(device,))

    @property
    def file(self) -> Path:
        return self.data_dir / "gpus.json"

    def runtime(self) -> Runtime:
        runtime = super().runtime()
        runtime.gpu_verdicts = GpuVerdicts(self.file)  # what of_this_machine passes
        return runtime

    @property
    def tests(self) -> list[bool]:
        """For each load, whether its devices were tested."""
        return [load.test_devices for each in self.engines for load in each.script.loads]


@pytest.fixture
def machine(tmp_path: Path) -> GpuMachine:
    return GpuMachine(tmp_path)


async def load(machine: GpuMachine, choice: LoadChoice = CHOICE) -> ResidentModel:
    """Load in a runtime of its own, as the next start of the program does."""
    runtime = machine.runtime()
    plan = await runtime.plan(runtime.resolve("starter"), choice)
    *_, resident = [event async for event in runtime.load(plan)]
    assert isinstance(resident, ResidentModel)
    assert runtime.resident() == (resident,)
    await runtime.close()
    assert not any(engine.alive for engine in machine.engines)
    return resident


async def test_a_gpu_that_passes_is_used_and_not_tested_again(machine: GpuMachine) -> None:
    first = await load(machine)
    assert first.settings.gpu_layers
    assert first.warnings == ()
    await load(machine)
    assert machine.tests == [True, False]


@pytest.mark.smoke
async def test_a_gpu_that_computes_wrong_numbers_is_not_used(machine: GpuMachine) -> None:
    machine.device_test = BAD
    for _ in range(2):
        resident = await load(machine)
        assert resident.settings.gpu_layers == 0
        assert resident.settings.devices == ()
        assert resident.fit.placement.devices[0].name == "CPU"
        (warning,) = resident.warnings
        assert "starter runs on the CPU, because Made up GPU (driver Mesa 1)" in warning
        assert "KL divergence 11.5 (at most" in warning
        assert "at 12% of 24 positions" in warning
        assert "--trust-gpu" in warning
    assert machine.tests == [True, False, False]  # on the GPU, on the CPU; at once on the CPU


async def test_trust_uses_the_gpu_untested_even_after_a_failure(machine: GpuMachine) -> None:
    machine.device_test = BAD
    await load(machine)
    trusted = await load(machine, replace(CHOICE, trust_gpu=True))
    machine.settings = Settings(trust_gpu=True)
    by_settings = await load(machine)
    assert trusted.settings.gpu_layers
    assert by_settings.settings.gpu_layers
    assert machine.tests[2:] == [False, False]


async def test_a_pool_plans_without_a_gpu_that_is_known_to_fail(machine: GpuMachine) -> None:
    machine.device_test = BAD
    model = (await load(machine)).model
    runtime = machine.runtime()
    plan = await runtime.plan(model, CHOICE)
    admission = await decide(runtime, plan, (), LoadTimes(), [])
    assert admission.fit.settings.gpu_layers == 0
    assert admission.plan == plan  # the load itself says why it uses no GPU
    machine.available_bytes = 100 * 2**20  # too few for the processor
    assert isinstance((await decide(runtime, plan, (), LoadTimes(), [])).decision, CannotFit)
    trusted = await runtime.plan(model, replace(CHOICE, trust_gpu=True))
    assert not isinstance((await decide(runtime, trusted, (), LoadTimes(), [])).decision, CannotFit)
    await runtime.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: setattr(machine, "driver", "Mesa 2"),
        lambda machine: setattr(machine, "build", replace(BUILD, digest="another")),
    ],
    ids=["driver", "engine"],
)
async def test_another_driver_or_engine_gets_another_chance(
    machine: GpuMachine, change: Callable[[GpuMachine], None]
) -> None:
    machine.device_test = BAD
    await load(machine)
    machine.device_test = GOOD
    change(machine)
    assert (await load(machine)).settings.gpu_layers
    assert machine.tests == [True, False, True]


async def test_another_cache_type_is_tested_by_itself(machine: GpuMachine) -> None:
    await load(machine)
    await load(machine, replace(CHOICE, kv_type=KvType.Q8_0))
    assert machine.tests == [True, True]


async def test_a_driver_that_ends_the_engine_is_a_failure_too(machine: GpuMachine) -> None:
    machine.device_crash = "SIGSEGV"
    resident = await load(machine)
    assert resident.settings.gpu_layers == 0
    assert (
        "ends the engine with starter: the engine's process ended (SIGSEGV)"
        in (resident.warnings[0])
    )


async def test_want_of_memory_is_not_blamed_on_the_gpu(machine: GpuMachine) -> None:
    machine.device_crash = "SIGKILL"
    with pytest.raises(EngineCrashed):
        await load(machine)
    assert not machine.file.exists()
    assert not blames_gpu("out of memory (0xC0000017)")
    assert blames_gpu("did not show a sign of life for 60 s")


async def test_a_model_that_only_the_gpu_has_room_for_is_refused_with_both_reasons(
    machine: GpuMachine,
) -> None:
    machine.device_test = BAD
    machine.available_bytes = 100 * 2**20
    with pytest.raises(DoesNotFit, match=r"computes wrong numbers.*Without the GPU.*needs"):
        await load(machine)
    assert not machine.file.exists()  # the processor has not shown that it can


async def test_no_test_without_a_device_or_for_embeddings(machine: GpuMachine) -> None:
    await load(machine, replace(CHOICE, gpu_layers=0))
    await load(machine, replace(CHOICE, embeddings=True))
    assert machine.tests == [False, False]


async def test_a_file_that_is_nonsense_or_of_another_schema_keeps_nothing(
    machine: GpuMachine,
) -> None:
    for content in (b"\x00nonsense", b"[]", b'{"schema": 99, "verdicts": {}}'):
        machine.file.write_bytes(content)
        assert (await load(machine)).settings.gpu_layers
        assert f'"schema":{SCHEMA}'.encode() in machine.file.read_bytes()
    assert machine.tests == [True] * 3


async def test_what_is_known_of_a_gpu_is_said(machine: GpuMachine) -> None:
    hardware = machine.detect(BUILD)
    verdicts = GpuVerdicts(machine.file)
    untested = checks.gpu_test(hardware, verdicts)
    assert untested.ok
    assert "not tested yet" in untested.detail
    await load(machine)
    assert summary(verdicts.of(hardware.devices[0], "a build")) == (
        "computes what the CPU does (starter)"
    )
    assert checks.gpu_test(hardware, verdicts).ok
    machine.device_test = BAD
    machine.driver = "Mesa 2"
    await load(machine)
    failed = checks.gpu_test(machine.detect(BUILD), verdicts)
    assert not failed.ok
    assert "fails with starter: KL divergence 11.5" in failed.detail
    assert failed.fix is not None
    assert checks.gpu_test(replace(hardware, devices=()), verdicts).ok
