"""`localllm hardware`: what this machine has and what the installed engine can use of it."""

from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from localllm.cli import options
from localllm.cli.output import info, literal, print_json, stdout, warn
from localllm.core.hardware import Cpu, Device, EngineBuild, HardwareInfo, Memory
from localllm.core.speed.kernels import CpuKernels
from localllm.core.units import format_bandwidth, format_bytes, format_duration
from localllm.library.files import paths
from localllm.runtime.loading.gpu_tests import GpuVerdict, GpuVerdicts, summary
from localllm.runtime.loading.thread_counts import ThreadChoice
from localllm.runtime.local_machine import (
    MeasuredProcessor,
    machine_and_engine,
    measured_processor,
)


@click.command(name="hardware")
@options.JSON
def command(as_json: bool) -> None:
    """What this machine has and what the engine can use."""
    machine = machine_and_engine()
    measured = measured_processor(machine)
    verdicts = GpuVerdicts(paths.gpu_verdicts_file())
    if as_json:
        print_json(document(machine, measured, verdicts))
        return
    stdout().print(table(machine, measured, verdicts))
    for warning in machine.warnings:
        info()
        warn(warning)


def document(
    machine: HardwareInfo, measured: MeasuredProcessor, verdicts: GpuVerdicts
) -> dict[str, object]:
    """Return what `hardware --json` prints (docs/hardware.md says what each key means)."""
    return {
        "cpu": asdict(machine.cpu),
        "ram": asdict(machine.ram),
        "devices": [
            asdict(device)
            | {"tests": [_test(each) for each in verdicts.of(device, _digest(machine))]}
            for device in machine.devices
        ],
        "engine": asdict(machine.engine) if machine.engine else None,
        "threads": {
            "default": machine.cpu.threads,
            "measured": [_choice(each) for each in measured.thread_choices],
        },
        "memory_read_bytes_per_s": measured.memory_bytes_per_s,
        "kernels": {
            kind.name: {"decode_s_per_weight": each.decode_s, "repacked_in": each.buffer}
            for kind, each in measured.kernels.measured.items()
        },
        "warnings": list(machine.warnings),
    }


def _choice(choice: ThreadChoice) -> dict[str, object]:
    return {
        "model_bytes_from": 2**choice.size_class,
        "threads": choice.threads,
        "threads_batch": choice.threads_batch,
        "step_s": {str(each.threads): each.best_s for each in choice.trials},
    }


def _digest(machine: HardwareInfo) -> str:
    return machine.engine.digest if machine.engine is not None else ""


def _test(verdict: GpuVerdict) -> dict[str, object]:
    return {
        "model": verdict.model,
        "passed": verdict.passed,
        "test": asdict(verdict.test) if verdict.test is not None else None,
        "crash": verdict.crash or None,
        "tested_at": verdict.tested_at,
    }


def table(machine: HardwareInfo, measured: MeasuredProcessor, verdicts: GpuVerdicts) -> Table:
    """Draw the machine as labels and facts."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Processor", literal(_cpu(machine.cpu)))
    facts.add_row("", literal(", ".join(machine.cpu.features) or "features unknown", "dim"))
    facts.add_row("Threads", literal(_threads(machine.cpu)))
    for choice in measured.thread_choices:
        facts.add_row("", literal(_measured_threads(choice)))
    if measured.kernels.measured:
        facts.add_row("Kernels", literal(_kernels(measured.kernels)))
    facts.add_row("Memory", literal(_memory(machine.ram)))
    if measured.memory_bytes_per_s is not None:
        rate = format_bandwidth(measured.memory_bytes_per_s)
        facts.add_row("", literal(f"read at {rate}, as it was measured", "dim"))
    for device in machine.devices:
        facts.add_row("GPU", literal(_device(device)))
        facts.add_row("", literal(_driver(device), "dim"))
        if known := verdicts.of(device, _digest(machine)):
            facts.add_row("", literal(summary(known), "dim"))
    if not machine.devices:
        facts.add_row("GPU", Text("none found"))
    facts.add_row("Engine", literal(_engine(machine.engine)))
    if machine.engine is not None and machine.engine.reason:
        facts.add_row("", literal(machine.engine.reason, "dim"))
    if machine.engine is not None and machine.engine.network is not None:
        facts.add_row("Network", literal(f"engine: {machine.engine.network.detail}"))
    return facts


def _cpu(cpu: Cpu) -> str:
    cores = "unknown number of" if cpu.cores_physical is None else str(cpu.cores_physical)
    fast = f", {cpu.cores_fast} of them fast" if cpu.cores_fast is not None else ""
    return f"{cpu.name}: {cores} cores, {cpu.cores_usable} usable{fast}"


def _threads(cpu: Cpu) -> str:
    kind = "usable core" if cpu.cores_fast is None or cpu.threads > cpu.cores_fast else "fast core"
    return f"{cpu.threads}, one for each {kind}"


def _measured_threads(choice: ThreadChoice) -> str:
    size = 2**choice.size_class
    times = ", ".join(
        f"{format_duration(each.best_s)} with {each.threads}" for each in choice.trials
    )
    return (
        f"{choice.threads} for models of {format_bytes(size)} to {format_bytes(2 * size)}, as "
        f"measured: a token took {times}"
    )


def _kernels(kernels: CpuKernels) -> str:
    """Name the types in the order of their speed; those that are repacked are marked."""
    order = sorted(kernels.measured.items(), key=lambda each: each[1].decode_s)
    names = (f"{kind.name}{'*' if kernel.repacked else ''}" for kind, kernel in order)
    return f"fastest first, * repacked: {', '.join(names)}"


def _memory(ram: Memory) -> str:
    if not ram.total_bytes:
        return "unknown"
    text = f"{format_bytes(ram.total_bytes)}, {format_bytes(ram.available_bytes)} free"
    if ram.limit_bytes is None:
        return text
    return f"{text}, limit for this process {format_bytes(ram.limit_bytes)}"


def _device(device: Device) -> str:
    parts = [device.name]
    if device.total_bytes is not None:
        free = "unknown" if device.free_bytes is None else format_bytes(device.free_bytes)
        parts.append(f"{format_bytes(device.total_bytes)}, {free} free")
    if device.unified and device.dedicated_bytes:
        own = format_bytes(device.dedicated_bytes)
        parts.append(f"{own} of it set aside for it, the rest shared with the system")
    elif device.unified:
        parts.append("shared with the system")
    if device.bandwidth_bytes_per_s is not None:
        parts.append(format_bandwidth(device.bandwidth_bytes_per_s))
    return f"{parts[0]}: {', '.join(parts[1:]) or 'memory unknown'}"


def _driver(device: Device) -> str:
    parts = [device.backend.upper()]
    if device.compute_capability is not None:
        parts.append(f"compute capability {device.compute_capability}")
    if device.driver is not None:
        parts.append(f"driver {device.driver}")
    return ", ".join(parts)


def _engine(engine: EngineBuild | None) -> str:
    if engine is None:
        return "not available"
    commit = f" (llama.cpp {engine.commit})" if engine.commit else ""
    offload = "can use GPUs" if engine.gpu_offload else "runs on the processor only"
    backends = ", ".join(engine.backends) or "no backends"
    return f"{engine.name} {engine.version}{commit}: {backends}; {offload}"
