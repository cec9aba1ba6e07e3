"""What the front ends plan with before anything is loaded: the machine, this one or one
described, and the candidates that could run on it.

`localllm suggest` answers from here in a third of a second, so what only some questions need (the
engine, the library, the measurements) is imported where it is asked.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from localllm.core.catalogue.catalogue import Entry, Task
from localllm.core.hardware import Device, HardwareInfo
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import (
    CalibrationPoint,
    Candidate,
    FitPlan,
    Machine,
    Preferences,
    Verdict,
    plans,
    predict,
)
from localllm.core.sizing.placement import Budget, GpuBudget, budget_of
from localllm.core.speed import DeviceSpeed, gpus
from localllm.errors import EngineError, LocalLLMError, UsageError
from localllm.library.files import paths, settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.store.installed import InstalledModel
from localllm.machine import detect
from localllm.machine.bandwidth import cached_bandwidth, measure_bandwidth

if TYPE_CHECKING:
    from localllm.core.speed.measured import MeasuredMachine

_SLOWEST_KNOWN_BYTES_PER_S = 50e9
"""A GPU whose bandwidth nobody knows is planned with this: a low value, and said to be one."""


def machine_now() -> HardwareInfo:
    """Detect; the engine is asked what it can use only when there is a device to be used, so
    that planning on a machine without a GPU starts no process."""
    found = detect(None)
    if not found.devices:
        return found
    import asyncio

    from localllm.engine.client.client import engine_build

    try:
        return detect(asyncio.run(engine_build()))
    except (EngineError, TimeoutError):
        return found


def this_machine(reserve_bytes: int = 0) -> tuple[Machine, HardwareInfo]:
    """Detect and measure this machine; the measured bandwidth is kept in the cache."""
    found = machine_now()
    return measured(found, reserve_bytes), found


def measured(found: HardwareInfo, reserve_bytes: int = 0) -> Machine:
    """The room and the speed of a machine that was detected. Raises LocalLLMError when its
    memory cannot be measured."""
    room = budget_of(found, reserve_bytes=reserve_bytes)
    named = {device.name: device for device in found.devices}
    machine = Machine(
        budget=room,
        host=host_speed(found),
        gpus=tuple(_device_speed(named[gpu.name]) for gpu in room.gpus),
    )
    return replace(machine, calibration=tuple(_seen(found, machine)))


def _seen(found: HardwareInfo, machine: Machine) -> Iterator[CalibrationPoint]:
    """What `bench` measured of one conversation on this machine with this engine, of models that
    are still here."""
    file = paths.measurements_file(paths.data_dir())
    if not os.path.exists(file):  # noqa: PTH110  # unlike Path.exists it never raises
        return
    from localllm.core.speed.measured import calibration_measurements
    from localllm.library.files import measurements
    from localllm.library.store.header_cache import cached_spec
    from localllm.library.store.store import Store

    kept = measurements.load(file)
    if not kept:
        return
    models = {}
    for model in Store.default().installed():
        if not model.missing:  # a model may have got another name since; two may be of one size
            models[model.size_bytes, model.name] = models[model.size_bytes, ""] = model
    for one in calibration_measurements(kept, _here(found), datetime.now(UTC)):
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


def _here(found: HardwareInfo) -> "MeasuredMachine":
    """This machine as `bench` writes it down. Where the engine was not asked, its version is that
    of the installed package, and the rest of its build is unknown."""
    from importlib.metadata import PackageNotFoundError, version

    from localllm.core.speed.measured import MeasuredMachine

    build = found.engine
    try:
        installed = build.version if build is not None else version("llama-cpp-python")
    except PackageNotFoundError:
        installed = None
    return MeasuredMachine(
        cpu=found.cpu.name,
        threads=_threads(found),
        devices=tuple(device.name for device in found.devices),
        engine_version=installed,
        engine_commit=build.commit if build is not None else None,
        backends=build.backends if build is not None else (),
    )


def _threads(found: HardwareInfo) -> int:
    """What the engine computes with: the physical cores that this process may use."""
    cpu = found.cpu
    return max(1, min(cpu.cores_usable, cpu.cores_physical or cpu.cores_usable))


def described_machine(
    ram_bytes: int | None, vram_bytes: tuple[int, ...], gpu: str | None
) -> Machine:
    """A machine that is not here; what is not said is as on this one.

    `ram_bytes` and `vram_bytes` are what may be used. Raises UsageError for a GPU that the table
    does not have.
    """
    found = machine_now()
    known = gpus.lookup(gpu) if gpu is not None else None
    if gpu is not None and known is None:
        raise UsageError(
            f"{gpu!r} is not in the table of GPUs. Write it as its maker does (RTX 4060, RX 7900 "
            "XTX, M3 Max), or give its memory alone with --vram."
        )
    sizes = vram_bytes or ((known.memory_bytes,) if known and known.memory_bytes else ())
    if known is not None and not sizes:
        raise UsageError(f"The memory of {known.name} is not known: say it with --vram.")
    backend = gpus.Generation.NVIDIA_AMPERE.backend
    if known is not None and known.generation is not None:
        backend = known.generation.backend
    name = known.name if known is not None else "GPU"
    rooms = tuple(
        GpuBudget(
            name=name if len(sizes) == 1 else f"{name} {i}",
            backend=backend,
            free_bytes=size,
            unified=known is not None and known.unified,
        )
        for i, size in enumerate(sizes)
    )
    speed = DeviceSpeed(
        bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known else 250e9,
        backend=backend,
        generation=known.generation if known else gpus.Generation.NVIDIA_AMPERE,
    )
    host = found.ram.available_bytes if ram_bytes is None else ram_bytes
    return Machine(
        budget=Budget(host_bytes=host, gpus=rooms),
        host=host_speed(found),
        gpus=(speed,) * len(rooms),
    )


def host_speed(found: HardwareInfo, *, measure_again: bool = False) -> DeviceSpeed:
    """This machine's processor: bandwidth measured once and kept, and again when asked (`bench`
    does) or when the machine has become quiet. Raises LocalLLMError when the memory for that
    cannot be had."""
    cores = _threads(found)
    measure = partial(measure_bandwidth, available_bytes=found.ram.available_bytes)
    path = paths.bandwidth_file()
    try:
        bandwidth = cached_bandwidth(path, found.cpu.name, cores, measure, again=measure_again)
    except (OSError, MemoryError) as error:
        raise LocalLLMError(
            f"The speed of this machine's memory cannot be measured: {error}. "
            "Close other programs and try again."
        ) from error
    return DeviceSpeed(bandwidth_bytes_per_s=bandwidth, cores=cores)


def _device_speed(device: Device) -> DeviceSpeed:
    known = gpus.lookup(device.name)
    bandwidth = device.bandwidth_bytes_per_s or (known.bandwidth_bytes_per_s if known else None)
    return DeviceSpeed(
        bandwidth_bytes_per_s=bandwidth or _SLOWEST_KNOWN_BYTES_PER_S,
        backend=device.backend,
        generation=gpus.generation(device.name, compute_capability=device.compute_capability),
    )


def suggestions(
    found: HardwareInfo, installed: tuple[InstalledModel, ...], *, limit: int = 5
) -> tuple[FitPlan, ...]:
    """The best chat models of the catalogue that fit this machine and are not installed.

    Reads the library's files and may measure the machine: call it in a thread.
    Raises LocalLLMError when the catalogue or the settings cannot be read.
    """
    chosen = settings.load()
    entries = tuple(entry for entry in read_catalogue() if Task.CHAT in entry.tasks)
    have = tuple(each.spec() for each in installed_candidates(installed, entries))
    entries = tuple(entry for entry in entries if not any(_same(entry, spec) for spec in have))
    preferences = Preferences(context=chosen.context) if chosen.context else Preferences()
    advice = plans(
        candidates(entries), preferences, measured(found, chosen.reserve_bytes), limit=limit
    )
    return tuple(plan for plan in advice.plans if plan.verdict is not Verdict.DOES_NOT_FIT)


def candidates(entries: tuple[Entry, ...]) -> Iterator[Candidate]:
    """Every published quant of the catalogue's entries."""
    for entry in entries:
        for quant in entry.quants:
            yield Candidate(
                model=entry.name,
                quant=quant,
                file=f"{entry.repos[0]}:{quant}",
                size_bytes=entry.file_bytes(quant),
                parameters=entry.parameters,
                active_parameters=entry.active_parameters,
                architecture=entry.hparams.architecture,
                released=entry.released,
                installed=False,
                spec=partial(entry.spec, quant),
                context=entry.context,
                weight_reads=partial(entry.weight_reads, quant),
                cache_reads=entry.cache_reads,
            )


def installed_candidates(
    models: tuple[InstalledModel, ...], entries: tuple[Entry, ...]
) -> Iterator[Candidate]:
    """Every installed model whose file is there and passes the gatekeeper."""
    from localllm.library.store.header_cache import cached_spec

    for model in models:
        if model.missing:
            continue
        try:
            spec = cached_spec(model)
        except LocalLLMError:
            continue  # `ls` and `show` say what is wrong with it
        yield _installed(model, spec, entries)


def _installed(model: InstalledModel, spec: ModelSpec, entries: tuple[Entry, ...]) -> Candidate:
    """The release date of an installed file is that of the catalogue's entry with the same
    architecture and the same number of parameters, if there is one."""
    entry = next((entry for entry in entries if _same(entry, spec)), None)
    return Candidate(
        model=model.name,
        quant=model.quant or "?",
        file=str(model.path),
        size_bytes=model.size_bytes,
        parameters=spec.parameters,
        active_parameters=spec.active_parameters,
        architecture=spec.architecture,
        released=entry.released if entry else None,
        installed=True,
        spec=lambda: spec,
    )


def _same(entry: Entry, spec: ModelSpec) -> bool:
    return entry.parameters == spec.parameters and entry.hparams.architecture == spec.architecture
