"""A stacked bar of memory: who uses it, against what this machine has.

Pure: bytes in, cells out. The line of the machine's limit stands in the bar; what lies right of it
has no room. Each part has a sign of its own, so that nothing is said by colour alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from types import MappingProxyType
from typing import Final

from localllm.core.hardware import HardwareInfo
from localllm.core.sizing.placement import Budget, DeviceShare
from localllm.translation import N_


class MemoryUse(StrEnum):
    """The users of memory in a bar, from left to right; the value is the style's name too."""

    OTHERS = "others"
    WEIGHTS = "weights"
    KV = "kv"
    COMPUTE = "compute"
    RESERVE = "reserve"
    FREE = "free"
    LIMIT = "limit"
    NOTHING = "nothing"


SIGNS: Final[Mapping[MemoryUse, str]] = MappingProxyType(
    {
        MemoryUse.OTHERS: "▓",
        MemoryUse.WEIGHTS: "▒",
        MemoryUse.KV: "▚",
        MemoryUse.COMPUTE: "▞",
        MemoryUse.RESERVE: "◌",
        MemoryUse.FREE: "░",
        MemoryUse.LIMIT: "│",
        MemoryUse.NOTHING: " ",
    }
)
LABELS: Final[Mapping[MemoryUse, str]] = MappingProxyType(
    {
        MemoryUse.OTHERS: N_("others"),
        MemoryUse.WEIGHTS: N_("weights"),
        MemoryUse.KV: N_("KV"),
        MemoryUse.COMPUTE: N_("compute"),
        MemoryUse.RESERVE: N_("reserve"),
        MemoryUse.FREE: N_("free"),
    }
)
STACKED: Final = (
    MemoryUse.OTHERS,
    MemoryUse.WEIGHTS,
    MemoryUse.KV,
    MemoryUse.COMPUTE,
    MemoryUse.RESERVE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMemory:
    """The memory of all devices that a load can use, together: what there is, what others use, and
    what is kept free."""

    total_bytes: int
    others_bytes: int
    reserve_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMemory:
    """The memory of one load, as a bar shows it; `compute_bytes` with the engine's own."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    fits: bool

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


def machine_memory(hardware: HardwareInfo, budget: Budget, reserve_bytes: int) -> MachineMemory:
    """Sum what a machine has and what is used of it. A device's memory that is the system's own is
    counted once."""
    ram = hardware.ram
    by_name = {device.name: device for device in hardware.devices}
    total = min(ram.total_bytes, ram.limit_bytes or ram.total_bytes)
    free, reserved = max(0, budget.host_bytes), reserve_bytes
    for gpu in budget.gpus:
        device = by_name.get(gpu.name)
        if gpu.unified:
            total += (device.dedicated_bytes or 0) if device is not None else gpu.dedicated_bytes
        else:
            total += (device.total_bytes or gpu.free_bytes) if device else gpu.free_bytes
            reserved += reserve_bytes
        free += gpu.own_bytes
    reserved = min(reserved, max(0, total - free))
    return MachineMemory(
        total_bytes=total,
        others_bytes=max(0, total - free - reserved),
        reserve_bytes=reserved,
    )


def load_memory(devices: Sequence[DeviceShare], *, fits: bool) -> LoadMemory:
    """Sum the shares of a load over its devices. Adapters and encoders count as weights."""
    return LoadMemory(
        weights_bytes=sum(share.weights_bytes + share.encoder_bytes for share in devices),
        kv_bytes=sum(share.kv_bytes for share in devices),
        compute_bytes=sum(share.compute_bytes + share.overhead_bytes for share in devices),
        fits=fits,
    )


def stacked_ends(
    sizes: Sequence[int], *, limit_bytes: int, inside: int, beyond: int, fits: bool
) -> tuple[int, ...]:
    """Return the cell at which each part ends, of `inside` cells up to the limit and `beyond` cells
    after it.

    Each end never moves to the left when a part grows. A part that is not empty has a cell, as long
    as there are cells. What fits ends before the limit, and what does not behind it.
    """
    ends, end, total = [], 0, 0
    most = inside if fits else inside + beyond
    for number, size in enumerate(sizes):
        total += size
        exact = round(total * inside / limit_bytes) if limit_bytes > 0 else inside
        end = max(exact, end + (size > 0))
        if number == len(sizes) - 1 and not fits:
            end = max(end, inside + 1)
        end = min(end, most)
        ends.append(end)
    return tuple(ends)


def bar_cells(
    machine: MachineMemory, load: LoadMemory | None, *, inside: int, beyond: int
) -> tuple[MemoryUse, ...]:
    """Return the use of each of the `inside + 1 + beyond` cells of a bar: the limit has one."""
    sizes = (
        machine.others_bytes,
        load.weights_bytes if load is not None else 0,
        load.kv_bytes if load is not None else 0,
        load.compute_bytes if load is not None else 0,
        machine.reserve_bytes,
    )
    ends = stacked_ends(
        sizes,
        limit_bytes=machine.total_bytes,
        inside=inside,
        beyond=beyond,
        fits=load is None or load.fits,
    )
    cells: list[MemoryUse] = []
    for use, end in zip(STACKED, ends, strict=True):
        cells += [use] * (end - len(cells))
    cells += [MemoryUse.FREE] * (inside - len(cells))
    cells += [MemoryUse.NOTHING] * (inside + beyond - len(cells))
    return (*cells[:inside], MemoryUse.LIMIT, *cells[inside:])


def runs(cells: Sequence[MemoryUse]) -> Iterator[tuple[MemoryUse, str]]:
    """Yield each run of like cells with its text."""
    for use, group in groupby(cells):
        yield use, SIGNS[use] * len(tuple(group))
