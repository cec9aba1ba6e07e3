"""This machine as a short list of facts."""

from collections.abc import Iterator

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from localllm.core.hardware import Cpu, Device, EngineBuild, HardwareInfo, Memory, NetworkAccess
from localllm.core.units import format_bandwidth, format_bytes
from localllm.tui import literal
from localllm.tui.widgets.labels import Bar, Fact


class MachinePanel(Vertical):
    """The machine; empty until `show` is called."""

    def compose(self) -> ComposeResult:
        yield Static("This machine", classes="heading")
        with Vertical(id="facts"):
            yield Fact("reading", "the hardware and the engine…")

    async def show(self, hardware: HardwareInfo) -> None:
        """Replace what is shown."""
        facts = self.query_one("#facts", Vertical)
        async with facts.batch():
            await facts.remove_children()
            await facts.mount_all(_facts(hardware))


def _facts(hardware: HardwareInfo) -> Iterator[Horizontal | Static]:
    yield Fact("cpu", _cpu(hardware.cpu))
    yield Fact("memory", _ram(hardware.ram), classes="-barred")
    yield MemoryBar(hardware.ram)
    if hardware.ram.limit_bytes is not None:
        yield Fact("limit", f"{format_bytes(hardware.ram.limit_bytes)} for this process")
    for device in hardware.devices:
        yield Fact("gpu", _device(device))
    if not hardware.devices:
        yield Fact("gpu", "none found")
    yield Fact("engine", _engine(hardware.engine))
    if hardware.engine is not None and hardware.engine.reason:
        yield Fact("", f"{hardware.engine.name}: {hardware.engine.reason}")
    if hardware.engine is not None and hardware.engine.network is not None:
        yield Fact("network", _network(hardware.engine.network))
    for warning in hardware.warnings:
        yield Static(literal.line(f"! {warning}"), classes="warning")


class MemoryBar(Horizontal):
    """Under the memory: how much of it is taken."""

    def __init__(self, ram: Memory) -> None:
        super().__init__()
        self._ram = ram

    def compose(self) -> ComposeResult:
        yield Static("", classes="fact-label")
        bar = Bar(classes="fact-value")
        total_bytes = self._ram.limit_bytes or self._ram.total_bytes
        if total_bytes > 0:
            bar.fraction = 1 - self._ram.available_bytes / total_bytes
            bar.set_class(bar.fraction > 0.85, "-high")
        yield bar


def _cpu(cpu: Cpu) -> str:
    cores = f"{cpu.cores_usable} usable"
    if cpu.cores_physical is not None:
        cores = f"{cpu.cores_physical} cores, {cores}"
    return f"{cpu.name} · {cores}"


def _ram(ram: Memory) -> str:
    return f"{format_bytes(ram.available_bytes)} free of {format_bytes(ram.total_bytes)}"


def _device(device: Device) -> str:
    parts = [device.name]
    if device.unified and not device.dedicated_bytes:
        parts.append("shares the system's memory")
    elif device.total_bytes is not None:
        total = format_bytes(device.total_bytes)
        free = "?" if device.free_bytes is None else format_bytes(device.free_bytes)
        parts.append(f"{free} free of {total}")
    if device.bandwidth_bytes_per_s is not None:
        parts.append(format_bandwidth(device.bandwidth_bytes_per_s))
    return " · ".join(parts)


def _engine(build: EngineBuild | None) -> str:
    if build is None:
        return "llama.cpp is not usable here"
    where = ", ".join(build.backends) or "CPU"
    return f"{build.name} {build.version} · {where}"


def _network(access: NetworkAccess) -> str:
    """Say what was tried in the engine's own process, not what is meant to hold."""
    if access.blocked:
        return f"the process that sees your prompts cannot open a socket: {access.detail}"
    return f"the process that sees your prompts is {access.detail}"
