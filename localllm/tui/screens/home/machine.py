"""This machine as a picture: who uses its memory, its devices, the engine and what it can use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from localllm.core.units import format_bandwidth, format_bytes
from localllm.translation import _
from localllm.tui import literal
from localllm.tui.screens.home.stacked_bar import FREE, OTHERS, OURS, StackedBar, memory_parts
from localllm.tui.widgets.labels import Fact

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.core.hardware import (
        Cpu,
        Device,
        EngineBuild,
        HardwareInfo,
        Memory,
        NetworkAccess,
    )
    from localllm.machine.readings import RamUse, Readings


class MachinePanel(Vertical):
    """The machine; empty until `show` is called."""

    def compose(self) -> ComposeResult:
        yield Static(_("This machine"), classes="heading")
        with Vertical(id="facts"):
            yield Fact(_("reading"), _("the hardware and the engine…"))

    async def show(
        self,
        hardware: "HardwareInfo",
        readings: "Readings | None" = None,
    ) -> None:
        """Replace what is shown."""
        facts = self.query_one("#facts", Vertical)
        async with facts.batch():
            await facts.remove_children()
            await facts.mount_all(_facts(hardware))
        if readings is not None:
            self.show_readings(readings)

    def show_readings(self, readings: "Readings") -> None:
        """Show what has changed since."""
        for bar in self.query(MemoryBar):
            bar.show(readings.memory)
        for line in self.query(StateLine):
            line.show(readings)


def _facts(hardware: "HardwareInfo") -> Iterator[Widget]:
    yield Fact(_("cpu"), _cpu(hardware.cpu))
    yield Fact(_("memory"), _ram(hardware.ram), classes="-barred")
    yield MemoryBar()
    if hardware.ram.limit_bytes is not None:
        limit = format_bytes(hardware.ram.limit_bytes)
        yield Fact(_("limit"), _("{size} for this process").format(size=limit))
    for device in hardware.devices:
        yield Fact(_("gpu"), _device(device), classes="-barred")
        if (parts := _device_memory(device)) is not None:
            yield DeviceBar(*parts)
    if not hardware.devices:
        yield Fact(_("gpu"), _("none found"))
    yield Fact(_("engine"), _engine(hardware.engine))
    if hardware.engine is not None and hardware.engine.reason:
        reason = f"{hardware.engine.name}: {hardware.engine.reason}"
        yield Fact("", reason, classes="-detail")
    if hardware.engine is not None and hardware.engine.network is not None:
        yield Fact(_("network"), _network(hardware.engine.network), classes="-detail")
    yield StateLine()
    for warning in hardware.warnings:
        yield Static(literal.line(f"! {warning}"), classes="warning")


class MemoryBar(Container):
    """Under the memory: a bar of who uses it, and the numbers to its signs."""

    def compose(self) -> ComposeResult:
        yield StackedBar(classes="memory-bar")
        for part in ("others", "ours", "free"):
            yield Static(Content(), classes=f"memory-legend -{part}")

    def show(self, use: "RamUse | None") -> None:
        """Show the memory; None: not known."""
        self.display = use is not None
        if use is None:
            return
        self.query_one(StackedBar).parts = memory_parts(
            others=use.others_bytes, ours=use.ours_bytes, free=use.free_bytes
        )
        for part, text in (
            (
                "others",
                _("{sign} others {size}").format(sign=OTHERS, size=format_bytes(use.others_bytes)),
            ),
            (
                "ours",
                _("{sign} localllm {size}").format(sign=OURS, size=format_bytes(use.ours_bytes)),
            ),
            ("free", _("{sign} free").format(sign=FREE)),
        ):
            self.query_one(f".-{part}", Static).update(Content(text))


class DeviceBar(StackedBar):
    """Under a GPU: what of its memory is taken."""

    def __init__(self, total_bytes: int, free_bytes: int) -> None:
        super().__init__(classes="memory-bar")
        self.set_reactive(
            StackedBar.parts,
            memory_parts(others=total_bytes - free_bytes, ours=0, free=free_bytes),
        )


class StateLine(Horizontal):
    """Disk, temperature and battery, where the system tells them."""

    def compose(self) -> ComposeResult:
        yield Static(Content(_("state")), classes="fact-label")
        yield Static(Content(), classes="fact-value")

    def on_mount(self) -> None:
        self.display = False

    def show(self, readings: "Readings") -> None:
        """Show what is known; hidden when it is nothing."""
        text = state_text(readings)
        self.display = bool(text)
        self.query_one(".fact-value", Static).update(Content(text))


def state_text(readings: "Readings") -> str:
    """Write the disk, the temperature and the battery, as far as they are known."""
    parts = []
    if readings.disk_free_bytes is not None:
        free = format_bytes(readings.disk_free_bytes)
        parts.append(_("{size} of disk free").format(size=free))
    if readings.temperature_c is not None:
        parts.append(f"{readings.temperature_c:.0f} °C")
    if readings.battery_percent is not None:
        percent = f"{readings.battery_percent:.0f} %"
        if readings.on_battery:
            parts.append(_("on battery, {percent}: slower").format(percent=percent))
        else:
            parts.append(_("plugged in, battery {percent}").format(percent=percent))
    return " · ".join(parts)


def _device_memory(device: "Device") -> tuple[int, int] | None:
    if device.unified or device.total_bytes is None or device.free_bytes is None:
        return None
    return device.total_bytes, min(device.free_bytes, device.total_bytes)


def _cpu(cpu: "Cpu") -> str:
    cores = _("{count} usable").format(count=cpu.cores_usable)
    if cpu.cores_physical is not None:
        cores = _("{count} cores, {usable}").format(count=cpu.cores_physical, usable=cores)
    return f"{cpu.name} · {cores}"


def _ram(ram: "Memory") -> str:
    return _("{free} free of {total}").format(
        free=format_bytes(ram.available_bytes), total=format_bytes(ram.total_bytes)
    )


def _device(device: "Device") -> str:
    parts = [device.name]
    if device.unified and not device.dedicated_bytes:
        parts.append(_("shares the system's memory"))
    elif device.total_bytes is not None:
        total = format_bytes(device.total_bytes)
        free = "?" if device.free_bytes is None else format_bytes(device.free_bytes)
        parts.append(_("{free} free of {total}").format(free=free, total=total))
    if device.bandwidth_bytes_per_s is not None:
        parts.append(format_bandwidth(device.bandwidth_bytes_per_s))
    return " · ".join(parts)


def _engine(build: "EngineBuild | None") -> str:
    if build is None:
        return _("llama.cpp is not usable here")
    where = ", ".join(build.backends) or "CPU"
    return f"{build.name} {build.version} · {where}"


def _network(access: "NetworkAccess") -> str:
    """Say what was tried in the engine's own process, not what is meant to hold."""
    if access.blocked:
        return _("the process that sees your prompts cannot open a socket: {detail}").format(
            detail=access.detail
        )
    return _("the process that sees your prompts is {detail}").format(detail=access.detail)
