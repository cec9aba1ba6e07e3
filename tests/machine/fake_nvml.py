"""An NVML without a driver: what each device answers, and what it refuses, is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

GIB = 1 << 30
Value = TypeVar("Value")


class Refused(Exception):
    """Stands in for pynvml.NVMLError."""


@dataclass(frozen=True, kw_only=True)
class FakeMemory:
    total: int
    free: int


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """One device; None is refused with "Not Supported"."""

    name: str | bytes | None = "NVIDIA GeForce RTX 3090"
    uuid: str | bytes | None = "GPU-0"
    memory: FakeMemory | None = field(
        default_factory=lambda: FakeMemory(total=24 * GIB, free=23 * GIB)
    )
    capability: tuple[int, int] | None = (8, 6)
    clock_mhz: int | None = 9751
    bus_bits: int | None = 384
    instances: Sequence["FakeGpu"] | None = None  # MIG; None: not divided
    lost: bool = False
    load_percent: int | None = None
    power_mw: int | None = None


@dataclass(frozen=True, kw_only=True)
class FakeUtilization:
    gpu: int


class FakeNvml:
    """Obeys `nvidia.Nvml`. `broken` refuses the start, `driver` None the version."""

    NVMLError: type[Exception] = Refused
    NVML_CLOCK_MEM = 2
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(
        self,
        *gpus: FakeGpu,
        broken: Exception | None = None,
        driver: str | bytes | None = "550.54.14",
    ) -> None:
        self.gpus = gpus
        self.broken = broken
        self.driver = driver
        self.open = False

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's own names
        if self.broken is not None:
            raise self.broken
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlSystemGetDriverVersion(self) -> str | bytes:  # noqa: N802
        return _text(self.driver)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        if self.gpus[index].lost:
            raise Refused("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: object) -> str | bytes:  # noqa: N802
        return _text(_gpu(handle).name)

    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes:  # noqa: N802
        return _text(_gpu(handle).uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> FakeMemory:  # noqa: N802
        return _given(_gpu(handle).memory)

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:  # noqa: N802
        return _given(_gpu(handle).capability)

    def nvmlDeviceGetMaxClockInfo(self, handle: object, clock: int) -> int:  # noqa: N802
        assert clock == self.NVML_CLOCK_MEM
        return _given(_gpu(handle).clock_mhz)

    def nvmlDeviceGetMemoryBusWidth(self, handle: object) -> int:  # noqa: N802
        return _given(_gpu(handle).bus_bits)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> FakeUtilization:  # noqa: N802
        return FakeUtilization(gpu=_given(_gpu(handle).load_percent))

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        return _given(_gpu(handle).power_mw)

    def nvmlDeviceGetMigMode(self, handle: object) -> tuple[int, int]:  # noqa: N802
        return (1, 1) if _gpu(handle).instances is not None else (0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int) -> object:  # noqa: N802
        instances = _gpu(handle).instances or ()
        if index >= len(instances):
            raise Refused("Not Found")
        return instances[index]


def _gpu(handle: object) -> FakeGpu:
    assert isinstance(handle, FakeGpu)
    return handle


def _given(value: Value | None) -> Value:
    if value is None:
        raise Refused("Not Supported")
    return value


def _text(value: str | bytes | None) -> str | bytes:
    if value is None:
        raise Refused("Not Supported")
    return value
