"""System memory: its size, the limits on this process, and the part that is really free.

Free memory is not the machine's: a container or a control group may allow less, and what a group
has "used" includes files in the page cache that the kernel gives back when asked. That part is not
counted as used; counting it refuses the second load of a model. The cache of ZFS is given back as
well, and Linux counts it as used.
"""

from collections.abc import Callable, Mapping
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
    installed_bytes: Callable[[], int | None] = lambda: None,
) -> tuple[Memory, tuple[str, ...]]:
    """Measure system memory and its limits; the second value is warnings.

    Raises OSError when the size of the system's memory cannot be read.
    """
    system = system_memory()
    available = min(system.total, system.available + _zfs_cache_bytes(root))
    limits = [*_group_limits(root), *_address_space(address_space_limit)]
    limits = [limit for limit in limits if limit.limit_bytes < system.total]
    left = min([available, *(limit.left_bytes for limit in limits)])
    tightest = min(limits, key=lambda limit: limit.limit_bytes, default=None)
    memory = Memory(
        total_bytes=system.total,
        available_bytes=max(left, 0),
        limit_bytes=tightest.limit_bytes if tightest else None,
        installed_bytes=installed_bytes(),
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
        used_name = "memory.current"
    else:
        names = ("memory.limit_in_bytes",)
        used_name = "memory.usage_in_bytes"
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
    left = limit - max(used - _given_back_bytes(stat, group.version), 0)
    where = Path("/") / (directory / name).relative_to(root)
    return Limit(
        limit_bytes=limit,
        left_bytes=left,
        source=f"the control group's {where}",
        remedy="Raise that limit (for a container: --memory) to run larger models.",
    )


_FILE_PAGES = {
    2: (("inactive_file", "active_file"), ("file_mapped", "file_dirty", "file_writeback")),
    # total_*: the children's pages too, which the usage counts as well.
    1: (
        ("total_inactive_file", "total_active_file"),
        ("total_mapped_file", "total_dirty", "total_writeback"),
    ),
}
"""By version: the fields of memory.stat with a group's file pages, and those with the ones in
use."""


def _given_back_bytes(stat: Mapping[str, int], version: int) -> int:
    """Count the file pages that the kernel gives back to a group that needs memory: all that are
    inactive, and of the active ones (files that were read twice) those that no process has mapped
    and that are not to be written first."""
    files, in_use = _FILE_PAGES[version]
    inactive, active = (stat.get(name, 0) for name in files)
    return inactive + max(0, active - sum(stat.get(name, 0) for name in in_use))


_ARC_STATISTICS = "proc/spl/kstat/zfs/arcstats"


def _zfs_cache_bytes(root: Path) -> int:
    """Count what ZFS gives back of its cache (ARC) when memory is short: all above `c_min`
    (OpenZFS, module parameters, `zfs_arc_min`). 0 without ZFS.

    Also 0 where /proc/meminfo is a container's own (lxcfs): the cache is the host's.
    """
    try:
        lines = (root / _ARC_STATISTICS).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    columns = (line.split() for line in lines)  # name, type, value
    values = {each[0]: int(each[2]) for each in columns if len(each) == 3 and _is_size(each[2])}
    if _has_own_meminfo(root):
        return 0
    return max(0, values.get("size", 0) - values.get("c_min", values.get("size", 0)))


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(2**64))


def _has_own_meminfo(root: Path) -> bool:
    try:
        mounts = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split()[4:5] == ["/proc/meminfo"] for line in mounts)


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
