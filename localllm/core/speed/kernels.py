"""What this processor and this engine make of each quant type: measured, not looked up.

llama.cpp has kernels of different quality for each type and instruction set, and rearranges
("repacks") the weights of some types on some processors when it loads them. Which ones is a matter
of its build, so it is measured with the build that runs (`engine/worker/kernels.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from localllm.core.model.quants import GgmlType
from localllm.core.speed import constants
from localllm.core.speed.workload import bytes_per_element


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKernel:
    """The cost of one type: seconds of one core for one weight of one token, beyond reading it.

    `buffer` is llama.cpp's name of the buffer into which it rearranged the weights ("CPU_REPACK"),
    None where it computes with them as they are in the file.
    """

    decode_s: float
    buffer: str | None = None

    @property
    def repacked(self) -> bool:
        return self.buffer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKernels:
    """The kernels of a processor and an engine. Without measurements (`measured` empty), and for
    types that were not measured, those of the reference processor."""

    measured: Mapping[GgmlType, CpuKernel] = field(default_factory=dict, hash=False)

    def decode_s(self, kind: GgmlType) -> float:
        """Return the seconds of one core for one weight of one token, beyond streaming it."""
        known = self.measured.get(kind)
        return constants.cpu_decode_s(kind) if known is None else known.decode_s

    def repacked(self, kind: GgmlType) -> bool:
        """Return True for a type that was seen to be rearranged."""
        known = self.measured.get(kind)
        return known is not None and known.repacked


REFERENCE_KERNELS = CpuKernels()
"""Those of the reference processor alone."""


def weight_s(
    kind: GgmlType,
    kernels: CpuKernels,
    *,
    cores: int,
    bandwidth_bytes_per_s: float,
    size_bytes: float | None = None,
) -> float:
    """Return the seconds that a token takes for one weight on the processor: multiplying and
    reading it, of `size_bytes` on average (None: those of the type)."""
    size = bytes_per_element(kind) if size_bytes is None else size_bytes
    return kernels.decode_s(kind) / cores + size / bandwidth_bytes_per_s
