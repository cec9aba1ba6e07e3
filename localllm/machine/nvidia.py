"""NVIDIA devices through NVML. The only module that imports `pynvml` (package nvidia-ml-py).

NVML and not a CUDA runtime: it needs no CUDA build of anything, and its free memory is not lowered
by a context of our own. Every call may fail on some device (laptops, virtual GPUs, Jetson, old
drivers); what fails is None, and one sentence per device says which.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from localllm.core.hardware import Backend, DetectedDevices, Device, DeviceKind, Memory

Result = TypeVar("Result")


class NvmlMemory(Protocol):
    """`nvmlMemory_t`, bytes."""

    @property
    def total(self) -> int: ...

    @property
    def free(self) -> int: ...


class NvmlUtilization(Protocol):
    """`nvmlUtilization_t`, percent of the time since the last look."""

    @property
    def gpu(self) -> int: ...


class Nvml(Protocol):
    """The part of `pynvml` that is used; a test passes its own. Handles are opaque."""

    NVMLError: type[Exception]
    NVML_CLOCK_MEM: int
    NVML_DEVICE_MIG_ENABLE: int

    def nvmlInit(self) -> None: ...  # noqa: N802  # NVML's own names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlSystemGetDriverVersion(self) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> NvmlMemory: ...  # noqa: N802
    def nvmlDeviceGetCudaComputeCapability(  # noqa: N802
        self, handle: object
    ) -> tuple[int, int] | list[int]: ...
    def nvmlDeviceGetMaxClockInfo(self, handle: object, clock: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetMemoryBusWidth(self, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: object) -> tuple[int, int] | list[int]: ...  # noqa: N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: N802
        self, handle: object, index: int
    ) -> object: ...


_UNIFIED = re.compile(r"\b(GB10|Tegra|Orin|Xavier|Thor|nvgpu)\b", re.IGNORECASE)
"""Devices that compute in the system's own memory: DGX Spark (GB10) and the Jetson modules.

Grace Hopper is not one: its HBM is memory of its own (NVIDIA, "Grace Hopper Tuning Guide").
"""


class _CallFailed(Exception):
    """A call of NVML failed; the text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _CudaDevice:
    """A device as CUDA counts them: a whole GPU, or one MIG instance of it (then `gpu` is the
    handle of the whole)."""

    handle: object
    gpu: object
    identifier: str
    is_mig: bool


_DRIVER_FILES = ("nvidia", "nvhost", "nvgpu", "nvmap", "dxg")
"""How the files in /dev begin by which a program reaches a driver on Linux: that of a card, of a
Jetson module, and Windows' own below WSL."""


def has_driver(root: Path) -> bool:
    """Return True when an NVIDIA driver may be there, by its files in /dev: loading NVML takes
    longer. Also True where there is no /dev."""
    try:
        return any(each.name.startswith(_DRIVER_FILES) for each in (root / "dev").iterdir())
    except OSError:
        return True


def load_nvml() -> Nvml | None:
    """Import `pynvml`; None when the package is not there."""
    try:
        import pynvml
    except ImportError:
        return None
    return cast(Nvml, pynvml)


def read_nvidia(
    nvml: Nvml | None, environ: Mapping[str, str], ram: Memory, *, expected: int = 0
) -> DetectedDevices:
    """List the NVIDIA devices that CUDA would use here.

    `environ` is searched for CUDA_VISIBLE_DEVICES. `expected` is how many NVIDIA devices the bus
    shows: a driver that does not answer is worth a warning only where there is one to drive.
    """
    if nvml is None:
        return DetectedDevices(
            warnings=_no_driver("the Python package nvidia-ml-py is missing", expected)
        )
    try:
        _call(nvml, nvml.nvmlInit)
    except _CallFailed as error:
        return DetectedDevices(warnings=_no_driver(str(error), expected))
    try:
        return _read_all(nvml, environ, ram)
    except _CallFailed as error:
        return DetectedDevices(warnings=_no_driver(str(error), expected=max(expected, 1)))
    finally:
        _try_call(nvml, nvml.nvmlShutdown)


def memory_bandwidth(memory_clock_mhz: int, bus_width_bits: int) -> float:
    """Return the peak memory bandwidth in bytes/s: 2 x clock x width / 8.

    Two transfers a clock: the formula of NVIDIA's deviceQuery sample and of its "How to Implement
    Performance Metrics in CUDA C/C++" (2012). It holds for HBM, and also for GDDR5X, 6, 6X and 7,
    which send more in a clock, because NVML reports half the data rate of a pin as the clock:
    RTX 3090 9751 MHz x 384 bit = 936 GB/s, A100 1215 x 5120 = 1555, RTX 5090 14001 x 512 = 1792,
    as their data sheets say.
    """
    return 2.0 * memory_clock_mhz * 1e6 * bus_width_bits / 8


def _call(nvml: Nvml, call: Callable[..., Result], *arguments: object) -> Result:
    """Call NVML. Raises _CallFailed.

    Besides NVML's own errors: a library of the wrong kind (OSError), an older package of the same
    name that lacks the call (AttributeError), a name that is not UTF-8 (ValueError).
    """
    try:
        return call(*arguments)
    except (nvml.NVMLError, OSError, AttributeError, ValueError) as error:
        raise _CallFailed(str(error)) from error


def _try_call(nvml: Nvml, call: Callable[..., Result], *arguments: object) -> Result | None:
    try:
        return _call(nvml, call, *arguments)
    except _CallFailed:
        return None


def _no_driver(reason: str, expected: int) -> tuple[str, ...]:
    if not expected:
        return ()
    what = "An NVIDIA GPU is" if expected == 1 else f"{expected} NVIDIA GPUs are"
    return (
        f"{what} in this machine, but the NVIDIA driver does not answer ({reason}). Install or "
        "repair the driver and check that `nvidia-smi` works; a container must be started with "
        "--gpus all.",
    )


def _read_all(nvml: Nvml, environ: Mapping[str, str], ram: Memory) -> DetectedDevices:
    driver = _text(_try_call(nvml, nvml.nvmlSystemGetDriverVersion))
    warnings: list[str] = []
    devices = _cuda_devices(nvml, warnings)
    shown = visible_devices(environ, [device.identifier for device in devices])
    if environ.get("CUDA_VISIBLE_DEVICES") is None:
        shown = _one_mig_instance(devices, shown, warnings)
    elif len(shown) < len(devices):
        warnings.append(
            f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} leaves {len(shown)} of "
            f"{len(devices)} NVIDIA devices to this process; unset it to use all of them."
        )
    if order_is_uncertain(environ, [_name(nvml, device) for device in devices]):
        warnings.append(
            "CUDA_VISIBLE_DEVICES chooses by number among different GPUs, and CUDA may count them "
            "in another order than the driver does. Set CUDA_DEVICE_ORDER=PCI_BUS_ID to be sure."
        )
    found = tuple(_read_device(nvml, devices[n], driver, ram, warnings) for n in shown)
    return DetectedDevices(devices=found, warnings=tuple(warnings))


def _cuda_devices(nvml: Nvml, warnings: list[str]) -> list[_CudaDevice]:
    """List whole GPUs and, of GPUs in MIG mode, their instances. Raises _CallFailed."""
    devices: list[_CudaDevice] = []
    count = _call(nvml, nvml.nvmlDeviceGetCount)
    for index in range(count):
        try:
            gpu = _call(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        except _CallFailed as error:
            warnings.append(
                f"NVIDIA GPU {index} of {count} does not answer ({error}) and is left out."
            )
            continue
        instances = _mig_instances(nvml, gpu)
        handles = [gpu] if instances is None else instances
        if not handles:
            name = _text(_try_call(nvml, nvml.nvmlDeviceGetName, gpu)) or "An NVIDIA GPU"
            warnings.append(
                f"{name} is in MIG mode without an instance, so nothing can run on it. Make one "
                "with `nvidia-smi mig -cgi`, or leave MIG mode."
            )
        devices += [
            _CudaDevice(
                handle=handle,
                gpu=gpu,
                identifier=_text(_try_call(nvml, nvml.nvmlDeviceGetUUID, handle)) or "",
                is_mig=instances is not None,
            )
            for handle in handles
        ]
    return devices


def _mig_instances(nvml: Nvml, gpu: object) -> list[object] | None:
    """List the MIG instances of a GPU; None when it is not divided."""
    mode = _try_call(nvml, nvml.nvmlDeviceGetMigMode, gpu)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    slots = range(_try_call(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0)
    handles = (_try_call(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, n) for n in slots)
    return [handle for handle in handles if handle is not None]  # a free slot has no handle


def _one_mig_instance(
    devices: list[_CudaDevice], shown: tuple[int, ...], warnings: list[str]
) -> tuple[int, ...]:
    """Keep the first MIG instance: CUDA gives a process one (NVIDIA, MIG User Guide)."""
    instances = [n for n in shown if devices[n].is_mig]
    if len(instances) > 1:
        warnings.append(
            f"{len(instances)} MIG instances are here and a process gets one of them, the first. "
            f"Choose another with CUDA_VISIBLE_DEVICES={devices[instances[1]].identifier}."
        )
    return tuple(n for n in shown if n not in instances[1:])


def _read_device(
    nvml: Nvml, device: _CudaDevice, driver: str | None, ram: Memory, warnings: list[str]
) -> Device:
    name = _name(nvml, device)
    capability = _try_call(nvml, nvml.nvmlDeviceGetCudaComputeCapability, device.gpu)
    memory = _try_call(nvml, nvml.nvmlDeviceGetMemoryInfo, device.handle)
    # Devices that share the system's memory answer "not supported".
    unified = memory is None and _UNIFIED.search(name) is not None
    bandwidth = None if device.is_mig else _bandwidth(nvml, device.gpu)
    unknown = {
        "memory": memory is None and not unified,
        "compute capability": capability is None,
        # Nobody states what share of the bandwidth a MIG instance gets.
        "memory bandwidth": bandwidth is None and not device.is_mig,
    }
    if any(unknown.values()):
        missing = " and ".join(what for what, is_unknown in unknown.items() if is_unknown)
        warnings.append(f"The NVIDIA driver does not tell the {missing} of {name}.")
    return Device(
        kind=DeviceKind.IGPU if unified else DeviceKind.GPU,
        name=name,
        backend=Backend.CUDA,
        total_bytes=memory.total if memory else ram.total_bytes if unified else None,
        free_bytes=memory.free if memory else ram.available_bytes if unified else None,
        bandwidth_bytes_per_s=bandwidth,
        unified=unified,
        driver=driver,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
    )


def _bandwidth(nvml: Nvml, gpu: object) -> float | None:
    clock = _try_call(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_MEM)
    width = _try_call(nvml, nvml.nvmlDeviceGetMemoryBusWidth, gpu)
    return memory_bandwidth(clock, width) if clock and width else None


def _name(nvml: Nvml, device: _CudaDevice) -> str:
    name = _text(_try_call(nvml, nvml.nvmlDeviceGetName, device.handle))
    return name or _text(_try_call(nvml, nvml.nvmlDeviceGetName, device.gpu)) or "NVIDIA GPU"


def _text(value: str | bytes | None) -> str | None:
    """Decode a text of NVML: older versions of nvidia-ml-py return bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def visible_devices(environ: Mapping[str, str], identifiers: Sequence[str]) -> tuple[int, ...]:
    """Return the positions in `identifiers` ("GPU-...", "MIG-...") that CUDA shows, in its order.

    The rules of CUDA_VISIBLE_DEVICES are the CUDA programming guide's ("Environment Variables"): a
    list of positions or of identifiers that may be shortened; the first entry that names nothing
    ends the list, so "" and "-1" hide every device.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return tuple(range(len(identifiers)))
    chosen: list[int] = []
    for entry in value.split(","):
        position = _position(entry.strip(), identifiers)
        if position is None or position in chosen:
            break
        chosen.append(position)
    return tuple(chosen)


def order_is_uncertain(environ: Mapping[str, str], names: Sequence[str]) -> bool:
    """Return True when a number in CUDA_VISIBLE_DEVICES may mean another device than NVML's.

    CUDA counts the fastest device first unless CUDA_DEVICE_ORDER=PCI_BUS_ID; NVML counts in bus
    order. With equal devices it makes no difference.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES", "")
    by_number = any(entry.strip().isdecimal() for entry in value.split(","))
    return by_number and len(set(names)) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _position(entry: str, identifiers: Sequence[str]) -> int | None:
    if entry.isdecimal() and len(entry) < 10:
        return int(entry) if int(entry) < len(identifiers) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [n for n, identifier in enumerate(identifiers) if identifier.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


class NvmlOfLoad(Nvml, Protocol):
    """The part of `pynvml` that tells how busy a device is."""

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> NvmlUtilization: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: object) -> int: ...  # noqa: N802


def load_of_nvidia(nvml: NvmlOfLoad | None) -> tuple[float | None, float | None] | None:
    """Return the load and the power in watts of the busiest NVIDIA GPU; None without one.

    A GPU that does not tell its load (a part of a divided one, one that was lost) is left out.
    """
    if nvml is None:
        return None
    loads: list[tuple[float, float | None]] = []
    try:
        _call(nvml, nvml.nvmlInit)
        for index in range(_call(nvml, nvml.nvmlDeviceGetCount)):
            with suppress(_CallFailed):
                handle = _call(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
                used = _call(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
                watts = None
                with suppress(_CallFailed):
                    watts = _call(nvml, nvml.nvmlDeviceGetPowerUsage, handle) / 1000
                loads.append((used.gpu / 100, watts))
    except _CallFailed:
        pass
    finally:
        _try_call(nvml, nvml.nvmlShutdown)
    return max(loads, key=lambda each: each[0]) if loads else None
