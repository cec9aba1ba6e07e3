"""The description of a machine, which `machine.detect()` fills and every plan starts from.

`None` always means "could not be known", never zero.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """The llama.cpp backend that drives a device."""

    CUDA = "cuda"
    METAL = "metal"
    ROCM = "rocm"
    VULKAN = "vulkan"
    SYCL = "sycl"
    OTHER = "other"


class DeviceKind(StrEnum):
    """GPU has memory of its own; IGPU shares the system's."""

    GPU = "gpu"
    IGPU = "igpu"


_SOFTWARE = re.compile(r"llvmpipe|lavapipe|softpipe|swiftshader", re.IGNORECASE)
"""Drivers that compute on the processor: Mesa's three, Google's."""

FEWEST_THREADS = 4
"""Threads below which slow cores help: two fast cores of a laptop beside eight slow ones are less
than four of any kind, even if each of the four is only as fast as the slowest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor: cores that exist and cores this process may run on.

    `cores_fast`: those of `cores_usable` that are fast, where a processor has two kinds (Intel's
    performance cores, Arm's big ones); None where all are of one kind or nothing is known.
    """

    name: str
    cores_physical: int | None
    cores_usable: int
    features: tuple[str, ...] = ()
    cores_fast: int | None = None

    @property
    def threads(self) -> int:
        """The engine's threads when nothing else is set: one for each fast core that may be used.

        Two threads on the halves of one core wait for each other at every step of the graph, so
        cores count, never more than this process may run on. All threads wait for the slowest one
        as well, so slow cores are left out, as llama.cpp itself does (`cpu_get_num_math`), but for
        a processor with fewer than FEWEST_THREADS fast ones.
        """
        cores = max(1, min(self.cores_usable, self.cores_physical or self.cores_usable))
        if self.cores_fast is None:
            return cores
        return min(cores, max(self.cores_fast, FEWEST_THREADS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """System memory in bytes. `limit_bytes` is the tightest cgroup or rlimit, if any.

    `available_bytes` already respects the limit: it is what a new process can really take.
    `installed_bytes` is what is built in, with what the firmware keeps for itself and for an
    integrated GPU; only Windows says it.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None
    installed_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator. `unified` memory is the system's own and must be counted once, all but
    `dedicated_bytes` of it (`dedicated_free_bytes` are free): those the firmware took away from the
    system for an integrated GPU. A card's memory is its own and neither is set."""

    kind: DeviceKind
    name: str
    backend: Backend
    total_bytes: int | None = None
    free_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    unified: bool = False
    dedicated_bytes: int | None = None
    dedicated_free_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevice:
    """One device as the installed llama.cpp build names it (`ggml_backend_dev_*`).

    `max_buffer_bytes` is the largest single tensor that it takes, None where there is no limit or
    none is known. `driver` names its driver with the version, None where nobody says.
    `test_device`: it counts as a GPU although it is computed on the processor (docs/gpu.md).
    """

    name: str
    description: str
    kind: str  # "cpu", "gpu", "igpu" or "accel"
    total_bytes: int | None = None
    free_bytes: int | None = None
    max_buffer_bytes: int | None = None
    driver: str | None = None
    test_device: bool = False

    @property
    def is_gpu(self) -> bool:
        """True for a GPU; not for one that a driver imitates on the processor, which computes
        slower than the processor's own backend."""
        software = not self.test_device and _SOFTWARE.search(self.description)
        return self.kind in ("gpu", "igpu") and not software


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAccess:
    """The result of trying to open network sockets in the engine's process.

    `blocked`: none could be opened. `detail` says by what, or why they can.
    """

    blocked: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """The llama.cpp build that is the engine, and the devices that it can use.

    `name` is that of the package that carries it, or else its directory; `version` the package's.
    `network`: what its process can reach; None where that was not tried. `reason`: why it is the
    engine, in one sentence. `digest` changes when a file of it does.
    """

    version: str
    commit: str | None
    backends: tuple[str, ...]
    gpu_offload: bool
    devices: tuple[EngineDevice, ...] = ()
    system_info: str = ""
    name: str = "llama-cpp-python"
    network: NetworkAccess | None = None
    reason: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareInfo:
    """All that is known of this machine; `warnings` are sentences a person can act on."""

    cpu: Cpu
    ram: Memory
    devices: tuple[Device, ...] = ()
    engine: EngineBuild | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedDevices:
    """The devices that one reader of `machine/` found, in its order, and sentences about what it
    could not read. A missing device is no device, never an error."""

    devices: tuple[Device, ...] = ()
    warnings: tuple[str, ...] = ()


# --- what a device computes ---

TEXT_TOKENS = 32
"""Tokens of the text that is computed on both."""

WORST_KL = 100.0
"""The divergence of a row that cannot be compared, or is further away than it matters, in nats."""

MOST_MEAN_KL = 0.25
LEAST_AGREEMENT = 0.75
"""A device fails beyond either. docs/gpu.md has the measurements behind both: what was measured of
working devices is far inside them, and what a faulty one computes far outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTest:
    """A device's logits against the processor's, at `rows` positions of one text.

    `mean_kl`: the mean Kullback-Leibler divergence of the processor's distribution from the
    device's, in nats, each at most WORST_KL. `agreement`: the share of positions at which both
    find the same token most likely.
    """

    rows: int
    mean_kl: float
    agreement: float

    @property
    def passed(self) -> bool:
        """True for a device that computes what the processor does, but for rounding."""
        return self.mean_kl <= MOST_MEAN_KL and self.agreement >= LEAST_AGREEMENT

    @property
    def numbers(self) -> str:
        """The figures in words, with what they should be."""
        return (
            f"KL divergence {self.mean_kl:.3g} (at most {MOST_MEAN_KL:g}), the same most likely "
            f"token at {self.agreement:.0%} of {self.rows} positions (at least "
            f"{LEAST_AGREEMENT:.0%})"
        )
