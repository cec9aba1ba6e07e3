"""System memory: its size, the limits on this process, and the part that is really free.

Free memory is not the machine's: a container or a control group may allow less, and what a group
has "used" includes files in the page cache that the kernel gives back when asked. That part
(inactive file pages) is not counted as used; counting it refuses the second load of a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localllm.core.hardware import Memory
from localllm.core.units import format_bytes
from localllm.machine.cgroup import UNLIMITED, Group, groups, read_fields, read_number


class SystemMemory(Protocol):
    """The part of `psutil.virtual_memory()` that is used."""

    @property
    def total(self) -> int: ...

    @property
    def available(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit on memory: `left_bytes` is the unused part, `source` its origin in words, `remedy`
    a sentence on raising it."""

    limit_bytes: int
    left_bytes: int
    source: str
    remedy: str


def read_memory(
    root: Path,
    system_memory: Callable[[], SystemMemory],
    address_space_limit: Callable[[], int | None],
) -> tuple[Memory, tuple[str, ...]]:
    """Measure system memory and its limits; the second value is warnings.

    Raises OSError when the size of the system's memory cannot be read.
    """
    system = system_memory()
    limits = [*_group_limits(root), *_address_space(address_space_limit)]
    limits = [limit for limit in limits if limit.limit_bytes < system.total]
    left = min([system.available, *(limit.left_bytes for limit in limits)])
    tightest = min(limits, key=lambda limit: limit.limit_bytes, default=None)
    memory = Memory(
        total_bytes=system.total,
        available_bytes=max(left, 0),
        limit_bytes=tightest.limit_bytes if tightest else None,
    )
    return memory, _warnings(system.total, tightest)


def _group_limits(root: Path) -> list[Limit]:
    limits = (_group_limit(group, root) for group in groups(root, "memory"))
    return [limit for limit in limits if limit is not None]


def _group_limit(group: Group, root: Path) -> Limit | None:
    """Read one group's limit and the unused part of it.

    `memory.high` counts as a limit: beyond it the kernel slows a process down until it hardly
    moves (kernel documentation, cgroup-v2, "Memory Interface Files").
    """
    directory = group.directory
    names: tuple[str, ...]
    if group.version == 2:
        names = ("memory.max", "memory.high")
        used_name, inactive_name = "memory.current", "inactive_file"
    else:
        names = ("memory.limit_in_bytes",)
        # total_*: the children's pages too, which the usage counts as well.
        used_name, inactive_name = "memory.usage_in_bytes", "total_inactive_file"
    found = [(n, name) for name in names if (n := read_number(directory / name)) is not None]
    stat = read_fields(directory / "memory.stat")
    # Version 1 only: the tightest limit of all ancestors, those outside a container included.
    inherited = stat.get("hierarchical_memory_limit", UNLIMITED)
    if inherited < UNLIMITED:
        found.append((inherited, "memory.stat"))
    if not found:
        return None
    limit, name = min(found)
    used = read_number(directory / used_name) or 0
    left = limit - max(used - stat.get(inactive_name, 0), 0)
    where = Path("/") / (directory / name).relative_to(root)
    return Limit(
        limit_bytes=limit,
        left_bytes=left,
        source=f"the control group's {where}",
        remedy="Raise that limit (for a container: --memory) to run larger models.",
    )


def _address_space(address_space_limit: Callable[[], int | None]) -> list[Limit]:
    """Read RLIMIT_AS, which a new process inherits whole: nothing of it is used yet."""
    limit = address_space_limit()
    if limit is None:
        return []
    return [
        Limit(
            limit_bytes=limit,
            left_bytes=limit,
            source="the address space limit (RLIMIT_AS)",
            remedy="Start it after `ulimit -v unlimited` to run larger models.",
        )
    ]


def _warnings(total_bytes: int, tightest: Limit | None) -> tuple[str, ...]:
    if tightest is None or tightest.limit_bytes * 2 > total_bytes:
        return ()
    return (
        f"This process may use {format_bytes(tightest.limit_bytes)} of the machine's "
        f"{format_bytes(total_bytes)} of memory: {tightest.source} says so. {tightest.remedy}",
    )
