"""The machine that the front ends plan with before anything is loaded: this one, or one described.

Only here is the installed engine described, and are the cores counted that it computes with.
`localllm suggest` answers from here in a third of a second, so what only some questions need (the
engine, the library, the measurements) is imported where it is needed.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from localllm.core.hardware import Backend, Device, EngineBuild, HardwareInfo
from localllm.core.recommend import CalibrationPoint, Machine, predict, predict_loaded
from localllm.core.sizing.load import Graphs
from localllm.core.sizing.placement import Budget, GpuBudget, budget_of
from localllm.core.speed import DeviceSpeed, gpus
from localllm.core.speed.kernels import CpuKernels
from localllm.errors import EngineError, EngineUnavailable, LocalLLMError, UsageError
from localllm.library.files import paths
from localllm.machine import detect
from localllm.machine.advice import illegal_instruction
from localllm.machine.apple import working_set
from localllm.machine.bandwidth import cached_bandwidth, measure_bandwidth, stored_bandwidth
from localllm.runtime.loading.thread_counts import ThreadChoice, ThreadChoices

if TYPE_CHECKING:
    from localllm.core.speed.estimate import Estimate
    from localllm.core.speed.measured import MeasuredMachine
    from localllm.runtime.loading.resident_model import ResidentModel

_SLOWEST_KNOWN_BYTES_PER_S = 50e9
"""The bandwidth of a GPU that is in no table: a low value, so that no plan promises too much."""


# --- hardware and engine ---


def machine_now() -> HardwareInfo:
    """Detect this machine. The engine is started, to say what it can use, only where there is a
    device to be used: planning on a machine without a GPU starts no process."""
    found = detect(None)
    if not found.devices:
        return found
    build, _ = installed_engine()
    return found if build is None else detect(build)


def machine_and_engine() -> HardwareInfo:
    """Detect this machine and describe its engine in any case; why there is none is a warning, and
    that it is another one than last time (engine_change.py)."""
    import asyncio

    from localllm.runtime.engine_change import engine_change

    build, problem = installed_engine()
    found = detect(build)
    said = problem if problem is not None else asyncio.run(engine_change())
    return found if said is None else replace(found, warnings=(said, *found.warnings))


def crash_advice(build: Callable[[], EngineBuild | None] = lambda: None) -> Callable[[str], str]:
    """Make the engine's CrashAdvice for this machine; `build` returns the engine's build, once it
    is known."""
    from localllm.engine.client.exit_reason import ILLEGAL_INSTRUCTION

    def advise(reason: str) -> str:
        if reason != ILLEGAL_INSTRUCTION:
            return ""
        cpu = detect(None).cpu
        return " " + illegal_instruction(cpu, build(), platform.machine(), platform.system())

    return advise


def installed_engine() -> tuple[EngineBuild | None, str | None]:
    """Describe the installed engine, from a process of its own; or say why it does not start."""
    import asyncio

    from localllm.engine.client.client import ENGINE_TIMEOUT_S, engine_build
    from localllm.runtime.engines import requested

    try:
        build = engine_build(crash_advice(), paths.engine_verdicts_file(), requested())
        return asyncio.run(build), None
    except (EngineError, UsageError) as error:
        return None, str(error)
    except TimeoutError:
        return None, f"The engine did not say what it is within {ENGINE_TIMEOUT_S:.0f} s."
    except OSError as error:
        return None, f"The engine's process cannot be started: {error}."


def likely_graphs() -> Graphs:
    """Return the graphs of the build that will run, from what is known of it: no process is
    started, and a build that was not examined counts as the newest."""
    from localllm.engine.builds.candidates import requested_engine
    from localllm.engine.builds.choice import likely_engine
    from localllm.engine.builds.verdict import VerdictFile, fingerprint
    from localllm.library.files import settings

    commit = None
    with suppress(EngineUnavailable, OSError):
        kept = paths.engine_verdicts_file()
        candidate = likely_engine(kept, requested_engine(settings.load().engine))
        verdict = VerdictFile(kept).get(fingerprint(candidate))
        commit = verdict.build.commit if verdict is not None and verdict.build else None
    return Graphs.of_commit(commit)


# --- its memory and speed ---


def this_machine(reserve_bytes: int = 0) -> tuple[Machine, HardwareInfo]:
    """Detect and measure this machine; the measured bandwidth is kept in the cache."""
    found = machine_now()
    return machine_of(found, reserve_bytes), found


def machine_of(found: HardwareInfo, reserve_bytes: int = 0) -> Machine:
    """Work out the free memory and the speed of a machine that was detected.

    Raises LocalLLMError when the bandwidth of its memory cannot be measured.
    """
    free = budget_of(found, reserve_bytes=reserve_bytes)
    devices = {device.name: device for device in found.devices}
    machine = Machine(
        budget=free,
        host=host_speed(found),
        gpus=tuple(_device_speed(devices[gpu.name]) for gpu in free.gpus),
    )
    return replace(machine, calibration=tuple(_calibration(found, machine)))


def described_machine(
    ram_bytes: int | None, vram_bytes: tuple[int, ...], gpu: str | None
) -> Machine:
    """Describe a machine that is not here; what is left open is as on this one, but for the
    engine's kernels, which are those of the reference processor.

    `ram_bytes` and `vram_bytes` are what may be used. A GPU without memory of its own gets the
    share of the system's that its driver lends it; with AMD's, `vram_bytes` is what the firmware
    set aside beside that memory. Raises UsageError for a GPU that the table does not have.
    """
    found = machine_now()
    known = gpus.lookup(gpu) if gpu is not None else None
    if gpu is not None and known is None:
        raise UsageError(
            f"{gpu!r} is not in the table of GPUs. Write it as its maker does (RTX 4060, RX 7900 "
            "XTX, M3 Max), or give its memory alone with --vram."
        )
    host = found.ram.available_bytes if ram_bytes is None else ram_bytes
    sizes = vram_bytes or ((known.memory_bytes,) if known and known.memory_bytes else ())
    if known is not None and known.unified and not sizes:
        sizes = (_lent_bytes(known, host),)
    if known is not None and not sizes:
        raise UsageError(f"The memory of {known.name} is not known: say it with --vram.")
    backend = gpus.Generation.NVIDIA_AMPERE.backend
    if known is not None and known.generation is not None:
        backend = known.generation.backend
    name = known.name if known is not None else "GPU"
    gpu_budgets = tuple(
        GpuBudget(
            name=name if len(sizes) == 1 else f"{name} {i}",
            backend=backend,
            free_bytes=size,
            unified=known is not None and known.unified,
            dedicated_bytes=size if vram_bytes and backend is Backend.ROCM else 0,
        )
        for i, size in enumerate(sizes)
    )
    speed = DeviceSpeed(
        bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known else 250e9,
        backend=backend,
        generation=known.generation if known else gpus.Generation.NVIDIA_AMPERE,
    )
    return Machine(
        budget=Budget(host_bytes=host, gpus=gpu_budgets),
        host=host_speed(found, kernels=False),  # of a processor that nobody knows
        gpus=(speed,) * len(gpu_budgets),
    )


def _lent_bytes(gpu: gpus.Gpu, host_bytes: int) -> int:
    """Return how much of the system's memory a GPU without its own may use: Metal's working set, or
    half of it as Windows and Linux lend (WDDM; the kernel's ttm.pages_limit)."""
    apple = gpu.generation is not None and gpu.generation.backend is Backend.METAL
    return working_set(host_bytes, "") if apple else host_bytes // 2


def host_speed(
    found: HardwareInfo, *, measure_again: bool = False, kernels: bool = True
) -> DeviceSpeed:
    """Measure this machine's processor and what its engine makes of each quant type, or take what
    was measured before. Without `kernels` those are the reference processor's.

    `bench` measures the memory again, and so does everybody when the machine was busy then and is
    quiet now.
    Raises LocalLLMError when the memory for the measurement cannot be had.
    """
    cores = found.cpu.threads
    measure = partial(measure_bandwidth, available_bytes=found.ram.available_bytes)
    path = paths.bandwidth_file()
    try:
        bandwidth = cached_bandwidth(path, found.cpu.name, cores, measure, again=measure_again)
    except (OSError, MemoryError) as error:
        raise LocalLLMError(
            f"The speed of this machine's memory cannot be measured: {error}. "
            "Close other programs and try again."
        ) from error
    if not kernels:
        return DeviceSpeed(bandwidth_bytes_per_s=bandwidth, cores=cores)
    from localllm.runtime.kernel_rates import engine_kernels

    return DeviceSpeed(bandwidth_bytes_per_s=bandwidth, cores=cores, kernels=engine_kernels())


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredProcessor:
    """What was measured of this processor so far; nothing is measured for it.

    `memory_bytes_per_s` is the read bandwidth, None before it was measured; `thread_choices` the
    numbers of threads that were found best, by size of the model.
    """

    memory_bytes_per_s: float | None
    kernels: CpuKernels
    thread_choices: tuple[ThreadChoice, ...]


def measured_processor(found: HardwareInfo) -> MeasuredProcessor:
    """Read what is kept of a machine's measurements."""
    from localllm.runtime.kernel_rates import known_kernels

    choices = ThreadChoices(paths.threads_file())
    cpu = found.cpu
    return MeasuredProcessor(
        memory_bytes_per_s=stored_bandwidth(paths.bandwidth_file(), cpu.name, cpu.threads),
        kernels=known_kernels(),
        thread_choices=tuple(choices.known(found).values()),
    )


def _device_speed(device: Device) -> DeviceSpeed:
    known = gpus.lookup(device.name)
    bandwidth = device.bandwidth_bytes_per_s or (known.bandwidth_bytes_per_s if known else None)
    return DeviceSpeed(
        bandwidth_bytes_per_s=bandwidth or _SLOWEST_KNOWN_BYTES_PER_S,
        backend=device.backend,
        generation=gpus.generation(device.name, compute_capability=device.compute_capability),
    )


# --- measurements of `bench` ---


def measured_machine(found: HardwareInfo) -> "MeasuredMachine":
    """Describe a machine as measurements name it.

    Where the engine was not started its version is that of the package that carries it, and the
    rest of its build is unknown.
    """
    from localllm.core.speed.measured import MeasuredMachine

    build = found.engine
    engine_version = build.version if build is not None else _engine_version()
    return MeasuredMachine(
        cpu=found.cpu.name,
        threads=found.cpu.threads,
        devices=tuple(device.name for device in found.devices),
        engine_version=engine_version,
        engine_commit=build.commit if build is not None else None,
        backends=build.backends if build is not None else (),
    )


def _engine_version() -> str | None:
    """Return the version of the chosen package from what is known of it: no process is started for
    a build that was not examined."""
    from localllm.engine.builds.candidates import requested_engine
    from localllm.engine.builds.choice import likely_engine
    from localllm.library.files import settings

    with suppress(EngineUnavailable):
        requested = requested_engine(settings.load().engine)
        return likely_engine(paths.engine_verdicts_file(), requested).version
    return None


def _calibration(found: HardwareInfo, machine: Machine) -> Iterator[CalibrationPoint]:
    """Compare what `bench` measured of one conversation on this machine, with this engine, of
    models that are still here, with what is predicted of them."""
    file = paths.measurements_file(paths.data_dir())
    if not os.path.exists(file):  # noqa: PTH110  # unlike Path.exists it never raises
        return
    from localllm.core.speed.measured import calibration_measurements
    from localllm.library.files import measurements
    from localllm.library.store.header_cache import cached_spec
    from localllm.library.store.store import Store

    stored = measurements.load(file)
    if not stored:
        return
    models = {}
    for model in Store.default().installed():
        if not model.missing:  # a model may have got another name since; two may be of one size
            models[model.size_bytes, model.name] = models[model.size_bytes, ""] = model
    for one in calibration_measurements(stored, measured_machine(found), datetime.now(UTC)):
        size = one.model.size_bytes
        known = models.get((size, one.model.name)) or models.get((size, ""))
        if known is None:
            continue
        try:
            estimate, on_gpu = predict(cached_spec(known), machine, tokens=one.n_gen)
        except LocalLLMError:
            continue  # `ls` and `show` say what is wrong with it
        if on_gpu == (one.gpu_layers > 0):
            yield CalibrationPoint(
                measured_tps=one.tps_mean, predicted_tps=estimate.likely, on_gpu=on_gpu
            )


EXPECTED_DEPTH = 512
"""Tokens of a conversation of a few turns."""


def expected_rate(found: HardwareInfo, resident: "ResidentModel") -> "Estimate":
    """Estimate the tokens/s that this machine should write with a model in memory: what `suggest`
    says of it, for the settings and devices that it was loaded with.

    Reads files and may measure the memory: call it in a thread. Raises LocalLLMError.
    """
    from localllm.library.store.header_cache import cached_spec

    return predict_loaded(
        cached_spec(resident.model),
        resident.settings,
        resident.fit.placement,
        machine_of(found),
        depth=EXPECTED_DEPTH,
    )
