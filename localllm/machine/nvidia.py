"""NVIDIA devices through NVML. The only module that imports `pynvml` (package nvidia-ml-py).

The driver's library is asked, not a CUDA runtime: it needs no CUDA build of anything, and its free
memory is not lowered by a context of our own. Every call may fail on some device (laptops, virtual
GPUs, Jetson, old drivers); what fails is None, and one sentence per device says which.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from localllm.core.hardware import Backend, Device, DeviceKind, Memory
from localllm.machine.cuda_visible import order_is_uncertain, visible
from localllm.machine.reading import Reading

Answer = TypeVar("Answer")


class NvmlMemory(Protocol):
    """`nvmlMemory_t`, bytes."""

    @property
    def total(self) -> int: ...

    @property
    def free(self) -> int: ...


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


class _NoAnswer(Exception):
    """NVML did not answer one question; the text is its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A device as CUDA counts them: a whole GPU, or one MIG instance of it."""

    handle: object
    gpu: object  # the handle of the GPU it is part of
    identifier: str
    is_mig: bool


_DRIVER_FILES = ("nvidia", "nvhost", "nvgpu", "nvmap", "dxg")
"""How the files in /dev begin by which a program reaches a driver on Linux: that of a card, of a
Jetson module, and Windows' own below WSL."""


def has_driver(root: Path) -> bool:
    """Whether NVML could have something to say: loading it takes longer than looking. Where there
    is no /dev to look at it could."""
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
) -> Reading:
    """List the NVIDIA devices that CUDA would use here.

    `environ` is searched for CUDA_VISIBLE_DEVICES. `expected` is how many NVIDIA devices the bus
    shows: a driver that does not answer is worth a warning only where there is one to drive.
    """
    if nvml is None:
        return Reading(warnings=_no_driver("the Python package nvidia-ml-py is missing", expected))
    try:
        _ask(nvml, nvml.nvmlInit)
    except _NoAnswer as error:
        return Reading(warnings=_no_driver(str(error), expected))
    try:
        return _read_all(nvml, environ, ram)
    except _NoAnswer as error:
        return Reading(warnings=_no_driver(str(error), expected=max(expected, 1)))
    finally:
        _maybe(nvml, nvml.nvmlShutdown)


def memory_bandwidth(memory_clock_mhz: int, bus_width_bits: int) -> float:
    """Give the peak memory bandwidth in bytes/s: 2 x clock x width / 8.

    Two transfers a clock: the formula of NVIDIA's deviceQuery sample and of its "How to Implement
    Performance Metrics in CUDA C/C++" (2012). It holds for HBM, and also for GDDR5X, 6, 6X and 7,
    which send more in a clock, because NVML reports half the data rate of a pin as the clock:
    RTX 3090 9751 MHz x 384 bit = 936 GB/s, A100 1215 x 5120 = 1555, RTX 5090 14001 x 512 = 1792,
    as their data sheets say.
    """
    return 2.0 * memory_clock_mhz * 1e6 * bus_width_bits / 8


def _ask(nvml: Nvml, call: Callable[..., Answer], *arguments: object) -> Answer:
    """Put one question to NVML. Raises _NoAnswer.

    Besides NVML's own errors: a library of the wrong kind (OSError), an older package of the same
    name that lacks the call (AttributeError), a name that is not UTF-8 (ValueError).
    """
    try:
        return call(*arguments)
    except (nvml.NVMLError, OSError, AttributeError, ValueError) as error:
        raise _NoAnswer(str(error)) from error


def _maybe(nvml: Nvml, call: Callable[..., Answer], *arguments: object) -> Answer | None:
    try:
        return _ask(nvml, call, *arguments)
    except _NoAnswer:
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


def _read_all(nvml: Nvml, environ: Mapping[str, str], ram: Memory) -> Reading:
    driver = _text(_maybe(nvml, nvml.nvmlSystemGetDriverVersion))
    warnings: list[str] = []
    parts = _parts(nvml, warnings)
    shown = visible(environ, [part.identifier for part in parts])
    if environ.get("CUDA_VISIBLE_DEVICES") is None:
        shown = _one_mig_instance(parts, shown, warnings)
    elif len(shown) < len(parts):
        warnings.append(
            f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} leaves {len(shown)} of "
            f"{len(parts)} NVIDIA devices to this process; unset it to use all of them."
        )
    if order_is_uncertain(environ, [_name(nvml, part) for part in parts]):
        warnings.append(
            "CUDA_VISIBLE_DEVICES chooses by number among different GPUs, and CUDA may count them "
            "in another order than the driver does. Set CUDA_DEVICE_ORDER=PCI_BUS_ID to be sure."
        )
    devices = tuple(_read_device(nvml, parts[n], driver, ram, warnings) for n in shown)
    return Reading(devices=devices, warnings=tuple(warnings))


def _parts(nvml: Nvml, warnings: list[str]) -> list[_Part]:
    """List whole GPUs and, of GPUs in MIG mode, their instances. Raises _NoAnswer."""
    parts: list[_Part] = []
    count = _ask(nvml, nvml.nvmlDeviceGetCount)
    for index in range(count):
        try:
            gpu = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        except _NoAnswer as error:
            warnings.append(
                f"NVIDIA GPU {index} of {count} does not answer ({error}) and is left out."
            )
            continue
        instances = _mig_instances(nvml, gpu)
        handles = [gpu] if instances is None else instances
        if not handles:
            warnings.append(
                f"{_text(_maybe(nvml, nvml.nvmlDeviceGetName, gpu)) or 'An NVIDIA GPU'} is in MIG "
                "mode without an instance, so nothing can run on it. Make one with "
                "`nvidia-smi mig -cgi`, or leave MIG mode."
            )
        parts += [
            _Part(
                handle=handle,
                gpu=gpu,
                identifier=_text(_maybe(nvml, nvml.nvmlDeviceGetUUID, handle)) or "",
                is_mig=instances is not None,
            )
            for handle in handles
        ]
    return parts


def _mig_instances(nvml: Nvml, gpu: object) -> list[object] | None:
    """List the MIG instances of a GPU; None when it is not divided."""
    mode = _maybe(nvml, nvml.nvmlDeviceGetMigMode, gpu)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    slots = range(_maybe(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0)
    handles = (_maybe(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, n) for n in slots)
    return [handle for handle in handles if handle is not None]  # a free slot has no handle


def _one_mig_instance(
    parts: list[_Part], shown: tuple[int, ...], warnings: list[str]
) -> tuple[int, ...]:
    """Keep the first MIG instance: CUDA gives a process one (NVIDIA, MIG User Guide)."""
    instances = [n for n in shown if parts[n].is_mig]
    if len(instances) > 1:
        warnings.append(
            f"{len(instances)} MIG instances are here and a process gets one of them, the first. "
            f"Choose another with CUDA_VISIBLE_DEVICES={parts[instances[1]].identifier}."
        )
    return tuple(n for n in shown if n not in instances[1:])


def _read_device(
    nvml: Nvml, part: _Part, driver: str | None, ram: Memory, warnings: list[str]
) -> Device:
    name = _name(nvml, part)
    capability = _maybe(nvml, nvml.nvmlDeviceGetCudaComputeCapability, part.gpu)
    memory = _maybe(nvml, nvml.nvmlDeviceGetMemoryInfo, part.handle)
    # Devices that share the system's memory answer "not supported".
    unified = memory is None and _UNIFIED.search(name) is not None
    bandwidth = None if part.is_mig else _bandwidth(nvml, part.gpu)
    unknown = {
        "memory": memory is None and not unified,
        "compute capability": capability is None,
        # Nobody states what share of the bandwidth a MIG instance gets.
        "memory bandwidth": bandwidth is None and not part.is_mig,
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
    clock = _maybe(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_MEM)
    width = _maybe(nvml, nvml.nvmlDeviceGetMemoryBusWidth, gpu)
    return memory_bandwidth(clock, width) if clock and width else None


def _name(nvml: Nvml, part: _Part) -> str:
    name = _text(_maybe(nvml, nvml.nvmlDeviceGetName, part.handle))
    return name or _text(_maybe(nvml, nvml.nvmlDeviceGetName, part.gpu)) or "NVIDIA GPU"


def _text(value: str | bytes | None) -> str | None:
    """Older versions of nvidia-ml-py give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
