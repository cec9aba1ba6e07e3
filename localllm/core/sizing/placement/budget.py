"""The free memory of a machine: of the host and of each device that the installed engine drives."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from localllm.core.hardware import (
    Backend,
    Device,
    DeviceKind,
    EngineBuild,
    EngineDevice,
    HardwareInfo,
)

_PREFIXES: Mapping[Backend, tuple[str, ...]] = MappingProxyType(
    {
        Backend.CUDA: ("cuda",),
        Backend.ROCM: ("rocm", "hip"),
        Backend.METAL: ("mtl", "metal"),
        Backend.VULKAN: ("vulkan",),
        Backend.SYCL: ("sycl",),
    }
)
"""How ggml's backends name their devices ("CUDA0", "MTL0", before 2025-11 "Metal")."""

NO_BYTES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBudget:
    """The free memory of one accelerator. `unified`: the bytes are the host's own, all but
    `dedicated_bytes`, which are set aside for the device and fill first.

    `engine_name` is the engine's name of it ("CUDA0"), None when the engine named none.
    `max_buffer_bytes` is the largest single tensor that its backend takes (about 4 GiB on some
    Vulkan, SYCL and Metal devices), None when unknown.
    """

    name: str
    backend: Backend
    free_bytes: int
    unified: bool = False
    dedicated_bytes: int = 0
    engine_name: str | None = None
    max_buffer_bytes: int | None = None

    def host_bytes_of(self, size_bytes: int) -> int:
        """Return how many of the bytes that a load puts here are taken from the host."""
        return max(0, size_bytes - self.dedicated_bytes) if self.unified else 0

    @property
    def own_bytes(self) -> int:
        """The free bytes that are not the host's."""
        return self.dedicated_bytes if self.unified else self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Free bytes now, the reserve already taken off. `gpus` holds only devices that the
    installed engine can use, in the engine's order: layers are split in that order."""

    host_bytes: int
    gpus: tuple[GpuBudget, ...] = ()

    def minus(self, size_bytes: int) -> "Budget":
        """Take as many bytes off every device: they will be used on one of them, unknown which."""
        return Budget(
            host_bytes=self.host_bytes - size_bytes,
            gpus=tuple(
                replace(
                    gpu,
                    free_bytes=max(0, gpu.free_bytes - size_bytes),
                    dedicated_bytes=max(0, gpu.dedicated_bytes - size_bytes),
                )
                for gpu in self.gpus
            ),
        )


def budget_of(
    hardware: HardwareInfo,
    *,
    reserve_bytes: int = 0,
    returned_bytes: int = 0,
    returned_gpu_bytes: Mapping[str, int] = NO_BYTES,
) -> Budget:
    """Work out what a machine has free for the installed engine.

    `reserve_bytes` stay free on every device. The model that is to be unloaded first gives back
    `returned_bytes` of system memory and `returned_gpu_bytes` of each device, by the engine's name
    of it.
    """
    gpus = []
    for device, listed in _used_devices(hardware):
        name = listed.name if listed is not None else None
        back = returned_gpu_bytes.get(name, 0) if name is not None else 0
        free = max(0, (device.free_bytes or 0) + back - reserve_bytes)
        dedicated = device.dedicated_free_bytes or 0
        if device.unified:
            into_dedicated = min(back, max(0, (device.dedicated_bytes or 0) - dedicated))
            dedicated += into_dedicated
            returned_bytes += back - into_dedicated
        gpus.append(
            GpuBudget(
                name=device.name,
                backend=device.backend,
                free_bytes=free,
                unified=device.unified,
                dedicated_bytes=min(dedicated, free),
                engine_name=name,
                max_buffer_bytes=listed.max_buffer_bytes if listed is not None else None,
            )
        )
    return Budget(
        host_bytes=hardware.ram.available_bytes - reserve_bytes + returned_bytes,
        gpus=tuple(gpus),
    )


def _used_devices(hardware: HardwareInfo) -> list[tuple[Device, EngineDevice | None]]:
    """Pick the devices that the engine will use, with its own entry for each.

    Integrated ones only when there is no other (`llama_prepare_model_devices`, `src/llama.cpp`).
    A device whose free memory is unknown is not planned on.
    """
    engine = hardware.engine
    if engine is None or not engine.gpu_offload:
        return []
    devices = [device for device in hardware.devices if device.free_bytes is not None]
    found: list[tuple[Device, EngineDevice | None]] = [(device, None) for device in devices]
    if engine.devices:
        found = list(_paired(devices, engine))
    discrete = [pair for pair in found if pair[0].kind is DeviceKind.GPU]
    return discrete or found


def _paired(
    devices: list[Device], engine: EngineBuild
) -> Iterator[tuple[Device, EngineDevice | None]]:
    """Pair the engine's list, in its order, with the devices that were found: the same backend,
    the same name rather than another, the nearest in memory."""
    left = list(devices)
    for listed in engine.devices:
        if listed.kind not in ("gpu", "igpu"):
            continue
        same = [device for device in left if _drives(listed.name, device.backend)]
        if not same:
            continue
        total = listed.total_bytes or 0
        device = min(
            same,
            key=lambda d: (d.name != listed.description, abs((d.total_bytes or 0) - total)),
        )
        left.remove(device)
        yield device, listed


def _drives(listed: str, backend: Backend) -> bool:
    lowered = listed.lower()
    known = _PREFIXES.get(backend)
    if known is not None:
        return lowered.startswith(known)
    return not any(lowered.startswith(prefixes) for prefixes in _PREFIXES.values())
