"""What changes from minute to minute: memory by who uses it, temperature, battery.

Cheap to read, and nothing here wakes a GPU.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class RamUse:
    """System memory in bytes: of other programs, of localllm and its engines, and free. What a
    model's file is mapped to counts as localllm's, although the system could take it back."""

    others_bytes: int
    ours_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.others_bytes + self.ours_bytes + self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One look at the machine; None is not known.

    `temperature_c` is the hottest of the processor's sensors. `battery_percent` None: there is
    none. `on_battery`: no power comes in.
    """

    memory: RamUse | None = None
    temperature_c: float | None = None
    battery_percent: float | None = None
    on_battery: bool = False
    disk_free_bytes: int | None = None


def ram_use(
    *, total_bytes: int, available_bytes: int, ours_bytes: int, ours_mapped_bytes: int
) -> RamUse:
    """Divide the memory. `ours_mapped_bytes` of `ours_bytes` are pages of files, which the system
    counts as available."""
    used_bytes = max(0, total_bytes - available_bytes)
    others_bytes = max(0, used_bytes - (ours_bytes - ours_mapped_bytes))
    ours_bytes = min(ours_bytes, total_bytes - others_bytes)
    return RamUse(
        others_bytes=others_bytes,
        ours_bytes=ours_bytes,
        free_bytes=total_bytes - others_bytes - ours_bytes,
    )


def read_machine(directory: Path | None = None) -> Readings:
    """Look at the machine now, and at the disk that `directory` is or will be on; takes some
    milliseconds."""
    battery = read_battery()
    return Readings(
        memory=_memory(),
        temperature_c=_temperature(),
        battery_percent=battery.percent,
        on_battery=battery.on_battery is True,
        disk_free_bytes=None if directory is None else _disk_free_bytes(directory),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """The charge in percent, and whether the machine runs on it; None: there is no battery, or it
    is not known."""

    percent: float | None = None
    on_battery: bool | None = None


def read_battery() -> Battery:
    """Read the battery, where the system has a reader of it and there is one."""
    try:
        found = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError, psutil.Error):  # not on every system
        return Battery()
    if found is None:
        return Battery()
    plugged = found.power_plugged
    return Battery(
        percent=float(found.percent), on_battery=None if plugged is None else not plugged
    )


def _disk_free_bytes(directory: Path) -> int | None:
    for each in (directory, *directory.parents):
        with suppress(OSError):
            return shutil.disk_usage(each).free
    return None


def _memory() -> RamUse | None:
    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError):
        return None
    ours_bytes = mapped_bytes = 0
    for process in _own_processes():
        with suppress(psutil.Error):
            info = process.memory_info()
            ours_bytes += int(info.rss)
            mapped_bytes += int(getattr(info, "shared", 0))  # Linux alone says it
    return ram_use(
        total_bytes=int(memory.total),
        available_bytes=int(memory.available),
        ours_bytes=ours_bytes,
        ours_mapped_bytes=min(mapped_bytes, ours_bytes),
    )


def _own_processes() -> tuple[psutil.Process, ...]:
    try:
        own = psutil.Process()
        return (own, *own.children(recursive=True))
    except psutil.Error:
        return ()


class _Sensor(Protocol):
    @property
    def current(self) -> float: ...


PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Of Linux's drivers, those of processors; the first that is there is read."""


def hottest(sensors: Mapping[str, Sequence[_Sensor]]) -> float | None:
    """Choose the highest temperature of the processor, in degrees Celsius."""
    for name in PROCESSOR_SENSORS:
        found = [each.current for each in sensors.get(name, ()) if 0 < each.current < 150]
        if found:
            return max(found)
    return None


def _temperature() -> float | None:
    reader = getattr(psutil, "sensors_temperatures", None)  # Linux and FreeBSD
    if reader is None:
        return None
    with suppress(OSError, RuntimeError):
        return hottest(reader())
    return None
