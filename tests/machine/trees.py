"""Recorded machines: writes the files of /proc and /sys that a reader looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMemory:
    """Stands in for psutil's virtual memory."""

    total: int = 32 * GIB
    available: int = 24 * GIB

    def __call__(self) -> "SystemMemory":
        return self


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below `root`; names are as on the machine, without the first slash."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content)
    return root


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MEMORY_MOUNT = "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_CPU_MOUNT = "32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
