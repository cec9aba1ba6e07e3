"""`localllm hardware`: what this machine has and what the installed engine can use of it."""

import asyncio
from dataclasses import asdict, replace

import click
from rich.table import Table
from rich.text import Text

from localllm.cli import options
from localllm.cli.output import literal, print_json, stderr, stdout
from localllm.core.hardware import Cpu, Device, EngineBuild, HardwareInfo, Memory
from localllm.core.units import format_bandwidth, format_bytes
from localllm.engine.client.client import ENGINE_TIMEOUT_S, engine_build
from localllm.errors import EngineError
from localllm.machine import detect


@click.command(name="hardware")
@options.JSON
def command(as_json: bool) -> None:
    """What this machine has and what the engine can use."""
    info = _look()
    if as_json:
        print_json(document(info))
    else:
        _print(info)


def document(info: HardwareInfo) -> dict[str, object]:
    """Give the document of `--json` (docs/hardware.md says what each key means)."""
    return {
        "cpu": asdict(info.cpu),
        "ram": asdict(info.ram),
        "devices": [asdict(device) for device in info.devices],
        "engine": asdict(info.engine) if info.engine else None,
        "warnings": list(info.warnings),
    }


def table(info: HardwareInfo) -> Table:
    """Draw the machine as labels and facts."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Processor", literal(_cpu(info.cpu)))
    facts.add_row("", literal(", ".join(info.cpu.features) or "features unknown", "dim"))
    facts.add_row("Memory", literal(_memory(info.ram)))
    for device in info.devices:
        facts.add_row("GPU", literal(_device(device)))
        facts.add_row("", literal(_driver(device), "dim"))
    if not info.devices:
        facts.add_row("GPU", Text("none found"))
    facts.add_row("Engine", literal(_engine(info.engine)))
    return facts


def _look() -> HardwareInfo:
    try:
        return detect(asyncio.run(engine_build()))
    except EngineError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"The engine did not say what it is within {ENGINE_TIMEOUT_S:.0f} s."
    except OSError as error:
        reason = f"The engine's process cannot be started: {error}."
    info = detect(None)
    return replace(info, warnings=(reason, *info.warnings))


def _print(info: HardwareInfo) -> None:
    stdout().print(table(info))
    talk = stderr()
    for warning in info.warnings:
        # Not wrapped by us: a command in it can then be copied in one piece.
        text = Text.assemble(("\nWarning: ", "bold yellow"), literal(warning))
        talk.print(text, soft_wrap=True)


def _cpu(cpu: Cpu) -> str:
    cores = "unknown number of" if cpu.cores_physical is None else str(cpu.cores_physical)
    return f"{cpu.name}: {cores} cores, {cpu.cores_usable} usable"


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
    if device.unified:
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
    return f"llama-cpp-python {engine.version}{commit}: {backends}; {offload}"
