"""The engine's own device list, joined with what the readers found.

Intel's and other vendors' GPUs are known only to llama.cpp (through Vulkan, SYCL, OpenCL). The same
list says of every GPU whether the installed build can use it. One card may be in it twice, once for
each backend that drives it: it is counted once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from localllm.core.hardware import Backend, Device, DeviceKind, EngineBuild, EngineDevice, Memory

_BACKENDS = (
    # Registry and device names of ggml's backends: "CUDA0", "MTL0" (before 2025-11 "Metal"), ...
    ("CUDA", Backend.CUDA),
    ("ROCm", Backend.ROCM),
    ("HIP", Backend.ROCM),
    ("MTL", Backend.METAL),
    ("Metal", Backend.METAL),
    ("Vulkan", Backend.VULKAN),
    ("SYCL", Backend.SYCL),
)

_VENDORS = (
    ("nvidia", re.compile(r"nvidia|geforce|quadro|tesla|\brtx\b|\bgtx\b", re.IGNORECASE)),
    ("amd", re.compile(r"\bamd\b|radeon|instinct|\bati\b", re.IGNORECASE)),
    ("apple", re.compile(r"apple", re.IGNORECASE)),
    ("intel", re.compile(r"intel|\barc\b|\biris\b", re.IGNORECASE)),
)

_NATIVE = {Backend.CUDA: "nvidia", Backend.ROCM: "amd", Backend.METAL: "apple"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """All devices, the readers' first; `unused` are those that the engine does not drive."""

    devices: tuple[Device, ...]
    unused: tuple[Device, ...]


def join(found: tuple[Device, ...], engine: EngineBuild | None, ram: Memory) -> Joined:
    """Mark the found devices that the engine drives and add those that only it knows."""
    devices = list(found)
    drivers: list[set[Backend]] = [set() for _ in found]
    for listed in _gpus(engine):
        backend = backend_of(listed.name)
        position = _match(listed, backend, devices, drivers)
        if position is None:
            devices.append(_new_device(listed, backend, ram))
            drivers.append({backend})
        else:
            device = _completed(devices[position], listed, backend, ram)
            first = not drivers[position]
            devices[position] = replace(device, backend=backend) if first else device
            drivers[position].add(backend)
    unused = (device for device, used in zip(devices, drivers, strict=True) if not used)
    return Joined(devices=tuple(devices), unused=tuple(unused))


def backend_of(name: str) -> Backend:
    """Find the backend by a ggml device or registry name ("Vulkan1")."""
    lowered = name.lower()
    matches = (backend for prefix, backend in _BACKENDS if lowered.startswith(prefix.lower()))
    return next(matches, Backend.OTHER)


def _gpus(engine: EngineBuild | None) -> Iterable[EngineDevice]:
    return (device for device in (engine.devices if engine else ()) if device.is_gpu)


def _match(
    listed: EngineDevice, backend: Backend, devices: list[Device], drivers: list[set[Backend]]
) -> int | None:
    """Find the device that `listed` is: same vendor, best the same name, nearest in memory.

    A device is matched once for each backend; two equal cards are two devices.
    """
    vendor = _vendor(listed.description, backend)
    candidates = [
        n
        for n, device in enumerate(devices)
        if backend not in drivers[n]
        and vendor == _vendor(device.name, device.backend)
        # Of a card known from the bus alone there is only its kind to go by.
        and (device.total_bytes is not None or device.kind == listed.kind)
    ]
    if vendor is None:
        candidates = [
            n for n in candidates if _words(devices[n].name) == _words(listed.description)
        ]
    return min(candidates, key=lambda n: _distance(listed, devices[n]), default=None)


def _vendor(name: str, backend: Backend) -> str | None:
    if backend in _NATIVE:
        return _NATIVE[backend]
    return next((vendor for vendor, pattern in _VENDORS if pattern.search(name)), None)


def _distance(listed: EngineDevice, device: Device) -> tuple[int, int]:
    """Order candidates: unlike words of the names first, then the difference in memory."""
    unlike = len(_words(listed.description) ^ _words(device.name))
    if listed.total_bytes is None or device.total_bytes is None:
        return unlike, 0
    return unlike, abs(listed.total_bytes - device.total_bytes)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


def _new_device(listed: EngineDevice, backend: Backend, ram: Memory) -> Device:
    """An integrated GPU takes the system's memory: no more is free than the system has free, and
    what the firmware set aside for it."""
    unified = listed.kind == "igpu"
    free = listed.free_bytes
    dedicated = _set_aside(listed, backend, ram) if unified else None
    dedicated_free = None
    if unified and free is not None:
        used = max(0, (listed.total_bytes or free) - free)
        dedicated_free = max(0, (dedicated or 0) - used)  # what is used fills this first
        free = dedicated_free + min(max(0, free - dedicated_free), ram.available_bytes)
    return Device(
        kind=DeviceKind.IGPU if unified else DeviceKind.GPU,
        name=listed.description or listed.name,
        backend=backend,
        total_bytes=listed.total_bytes,
        free_bytes=free,
        unified=unified,
        dedicated_bytes=dedicated,
        dedicated_free_bytes=dedicated_free if dedicated is not None else None,
        driver=listed.driver,
    )


def _set_aside(listed: EngineDevice, backend: Backend, ram: Memory) -> int | None:
    """Work out how much of an AMD APU's memory the firmware took away from the system, from the
    engine's sum of both; None where nothing is known of it.

    What it has beyond all of the system's memory is surely not the system's. Windows also says how
    much is built in, and lends a GPU at most half of the system's memory (Microsoft, "Calculating
    graphics memory"). Other makers' integrated GPUs have nothing worth counting set aside.
    """
    if listed.total_bytes is None or _vendor(listed.description, backend) != "amd":
        return None
    surely = max(0, listed.total_bytes - ram.total_bytes)
    if ram.installed_bytes is None:
        return surely
    kept_back = max(0, ram.installed_bytes - ram.total_bytes)
    return max(surely, min(kept_back, max(0, listed.total_bytes - ram.total_bytes // 2)))


def _completed(device: Device, listed: EngineDevice, backend: Backend, ram: Memory) -> Device:
    """Fill what the reader could not know, and correct what the device's driver knows better.

    The reader's memory figures win, because the engine's include its own context. Two are the
    engine's: Metal's working set, and the memory of a device that turns out to be integrated.
    """
    shared = _new_device(listed, backend, ram)
    if listed.description and _vendor(device.name, device.backend) in ("amd", "intel"):
        device = replace(device, name=listed.description)  # the bus names a chip, not the product
    total, free = device.total_bytes, device.free_bytes
    dedicated, dedicated_free = device.dedicated_bytes, device.dedicated_free_bytes
    if backend is Backend.METAL or (shared.unified and not device.unified):
        total, free = shared.total_bytes or total, shared.free_bytes or free
        dedicated, dedicated_free = shared.dedicated_bytes, shared.dedicated_free_bytes
        if free is not None:
            free = min(free, (dedicated_free or 0) + ram.available_bytes)
    unified = device.unified or shared.unified
    return replace(
        device,
        kind=DeviceKind.IGPU if unified else device.kind,
        unified=unified,
        dedicated_bytes=dedicated,
        dedicated_free_bytes=dedicated_free,
        total_bytes=listed.total_bytes if total is None else total,
        free_bytes=listed.free_bytes if free is None else free,
        driver=device.driver or listed.driver,
    )
