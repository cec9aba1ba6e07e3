from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from localllm.core.hardware import Memory
from localllm.machine.memory import read_memory
from localllm.machine.sources import Sources
from tests.machine.trees import GIB, MIB, V1_MEMORY_MOUNT, V2_MOUNT, SystemMemory, write_tree


def read(
    root: Path, *, system: SystemMemory | None = None, ulimit: int | None = None
) -> tuple[Memory, tuple[str, ...]]:
    return read_memory(root, system or SystemMemory(), lambda: ulimit)


def v2(root: Path, path: str, files: Mapping[str, str]) -> Path:
    return write_tree(
        root,
        {
            "proc/self/mountinfo": V2_MOUNT,
            "proc/self/cgroup": f"0::{path}\n",
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        },
    )


def v1(root: Path, path: str, files: Mapping[str, str], mount: str = V1_MEMORY_MOUNT) -> Path:
    return write_tree(
        root,
        {
            "proc/self/mountinfo": mount,
            "proc/self/cgroup": f"9:name=systemd:/\n4:memory:{path}\n0::/\n",
            **{f"sys/fs/cgroup/memory/{name}": text for name, text in files.items()},
        },
    )


def test_without_a_limit_what_is_available_is_free(tmp_path: Path) -> None:
    memory, warnings = read(tmp_path)
    assert memory == Memory(total_bytes=32 * GIB, available_bytes=24 * GIB, limit_bytes=None)
    assert warnings == ()


def test_a_version_2_limit_bounds_what_is_available(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        "/app",
        {
            "app/memory.max": f"{20 * GIB}\n",
            "app/memory.current": f"{6 * GIB}\n",
            "app/memory.stat": "anon 1\ninactive_file 0\n",
        },
    )
    memory, warnings = read(root)
    assert memory.limit_bytes == 20 * GIB
    assert memory.available_bytes == 14 * GIB
    assert warnings == ()


def test_inactive_page_cache_is_not_counted_as_used(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        "/app",
        {
            "app/memory.max": str(8 * GIB),
            "app/memory.current": str(7 * GIB),
            "app/memory.stat": f"anon {GIB}\ninactive_file {6 * GIB}\nactive_file 0\n",
        },
    )
    assert read(root)[0].available_bytes == 7 * GIB


def test_active_page_cache_is_free_as_far_as_nobody_uses_it(tmp_path: Path) -> None:
    # a container of 8 GiB in which a file of 6 GiB was copied, hashed and read: active, unmapped
    stat = {
        "anon": GIB,
        "inactive_file": GIB,
        "active_file": 5 * GIB,
        "file_mapped": 0,
        "file_dirty": 0,
        "file_writeback": 0,
    }
    v2(tmp_path, "/app", {"app/memory.max": str(8 * GIB), "app/memory.current": str(7 * GIB)})

    def left(**changed: int) -> int:
        lines = (f"{name} {value}\n" for name, value in (stat | changed).items())
        (tmp_path / "sys/fs/cgroup/app/memory.stat").write_text("".join(lines))
        return read(tmp_path)[0].available_bytes

    assert left() == 7 * GIB
    assert left(file_mapped=3 * GIB) == 4 * GIB  # another server's model
    assert left(file_dirty=GIB, file_writeback=GIB) == 5 * GIB
    assert left(file_mapped=9 * GIB) == 2 * GIB  # what is inactive is given back in any case


def test_active_page_cache_counts_alike_in_version_1(tmp_path: Path) -> None:
    files = {
        "app/memory.limit_in_bytes": str(8 * GIB),
        "app/memory.usage_in_bytes": str(7 * GIB),
        "app/memory.stat": f"active_file 1\ntotal_inactive_file {GIB}\n"
        f"total_active_file {4 * GIB}\ntotal_mapped_file {GIB}\n",
    }
    assert read(v1(tmp_path, "/app", files))[0].available_bytes == 5 * GIB


def arc(root: Path, size: object, c_min: object) -> Path:
    text = (
        "13 1 0x01 147 39984 8128472344 65432109876\n"
        "name                            type data\n"
        f"c_min                           4    {c_min}\n"
        f"c_max                           4    {16 * GIB}\n"
        f"size                            4    {size}\n"
    )
    return write_tree(root, {"proc/spl/kstat/zfs/arcstats": text})


def test_the_cache_of_zfs_is_free_above_its_least_size(tmp_path: Path) -> None:
    root = arc(tmp_path, 6 * GIB, GIB)
    busy = SystemMemory(available=3 * GIB)
    assert read(root, system=busy)[0].available_bytes == 8 * GIB
    # never more than there is, and never beyond a control group's limit
    assert read(root, system=SystemMemory(available=30 * GIB))[0].available_bytes == 32 * GIB
    limited = {"app/memory.max": str(4 * GIB), "app/memory.current": str(GIB)}
    assert read(v2(root, "/app", limited), system=busy)[0].available_bytes == 3 * GIB


@pytest.mark.parametrize(("size", "c_min"), [(GIB, 2 * GIB), ("-1", 0), ("x", 0), ("9" * 30, 0)])
def test_a_cache_of_zfs_that_gives_nothing_back_or_makes_no_sense_counts_nothing(
    tmp_path: Path, size: object, c_min: object
) -> None:
    busy = SystemMemory(available=3 * GIB)
    assert read(arc(tmp_path, size, c_min), system=busy)[0].available_bytes == 3 * GIB


def test_in_a_container_with_a_meminfo_of_its_own_the_hosts_zfs_cache_does_not_count(
    tmp_path: Path,
) -> None:
    root = arc(tmp_path, 6 * GIB, GIB)
    mount = "36 25 0:31 /proc/meminfo /proc/meminfo rw,nosuid - fuse.lxcfs lxcfs rw\n"
    write_tree(root, {"proc/self/mountinfo": mount})
    busy = SystemMemory(available=3 * GIB)
    assert read(root, system=busy)[0].available_bytes == 3 * GIB


def test_the_tightest_ancestor_decides(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        "/slice/app/inner",
        {
            "slice/memory.max": str(12 * GIB),
            "slice/memory.current": str(10 * GIB),
            "slice/app/memory.max": str(4 * GIB),
            "slice/app/memory.current": str(1 * GIB),
            "slice/app/inner/memory.max": "max",
        },
    )
    memory, _ = read(root)
    assert memory.limit_bytes == 4 * GIB  # the smallest limit
    assert memory.available_bytes == 2 * GIB  # the least room: the slice is nearly full


def test_memory_high_counts_as_a_limit(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        "/app",
        {
            "app/memory.max": str(16 * GIB),
            "app/memory.high": str(10 * GIB),
            "app/memory.current": "0",
        },
    )
    assert read(root)[0].limit_bytes == 10 * GIB


def test_a_full_group_leaves_nothing_and_never_less(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        "/app",
        {"app/memory.max": str(GIB), "app/memory.current": str(GIB + MIB)},
    )
    assert read(root)[0].available_bytes == 0


def test_a_version_1_limit_counts_the_pages_of_children(tmp_path: Path) -> None:
    root = v1(
        tmp_path,
        "/docker/abc",
        {
            "memory.limit_in_bytes": "9223372036854771712",
            "docker/abc/memory.limit_in_bytes": str(10 * GIB),
            "docker/abc/memory.usage_in_bytes": str(9 * GIB),
            "docker/abc/memory.stat": f"inactive_file 1\ntotal_inactive_file {3 * GIB}\n",
        },
    )
    memory, _ = read(root)
    assert memory.limit_bytes == 10 * GIB
    assert memory.available_bytes == 4 * GIB


def test_version_1_without_a_limit_has_none(tmp_path: Path) -> None:
    root = v1(tmp_path, "/", {"memory.limit_in_bytes": "9223372036854771712"})
    assert read(root)[0].limit_bytes is None


def test_version_1_tells_of_ancestors_outside_the_container(tmp_path: Path) -> None:
    root = v1(
        tmp_path,
        "/",
        {
            "memory.limit_in_bytes": "9223372036854771712",
            "memory.usage_in_bytes": str(GIB),
            "memory.stat": f"hierarchical_memory_limit {6 * GIB}\ntotal_inactive_file 0\n",
        },
    )
    memory, _ = read(root)
    assert (memory.limit_bytes, memory.available_bytes) == (6 * GIB, 5 * GIB)


def test_a_mount_that_starts_at_the_group_is_the_group(tmp_path: Path) -> None:
    mount = "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    files = {"memory.limit_in_bytes": str(3 * GIB), "memory.usage_in_bytes": "0"}
    root = v1(tmp_path, "/docker/abc", files, mount)
    assert read(root)[0].limit_bytes == 3 * GIB


def test_a_path_outside_the_namespace_is_the_mount_point(tmp_path: Path) -> None:
    root = v2(tmp_path, "/../../sibling", {"memory.max": str(5 * GIB), "memory.current": "0"})
    assert read(root)[0].limit_bytes == 5 * GIB


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    root = v2(tmp_path, "/app", {"app/memory.max": str(64 * GIB), "app/memory.current": "0"})
    assert read(root)[0].limit_bytes is None


def test_an_address_space_limit_counts(tmp_path: Path) -> None:
    memory, warnings = read(tmp_path, ulimit=2 * GIB)
    assert (memory.limit_bytes, memory.available_bytes) == (2 * GIB, 2 * GIB)
    assert "ulimit -v" in warnings[0]


def test_a_limit_far_below_the_machine_is_a_warning_that_names_its_file(tmp_path: Path) -> None:
    root = v2(tmp_path, "/app", {"app/memory.max": str(4 * GIB), "app/memory.current": "0"})
    _, warnings = read(root)
    (warning,) = warnings
    assert "4.0 GiB of the machine's 32.0 GiB" in warning
    assert "/sys/fs/cgroup/app/memory.max" in warning


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "\x00\xff nonsense", "proc/self/mountinfo": "a b c\n - \n"},
        {"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": "30 23 0:26 / - cgroup2\n"},
        {"proc/self/cgroup": "", "proc/self/mountinfo": V2_MOUNT},
        {
            "proc/self/cgroup": "0::/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/app/memory.max": "lots",
            "sys/fs/cgroup/app/memory.stat": f"a b c\nx\ninactive_file -1\ny {'9' * 5000}",
        },
    ],
)
def test_garbage_in_proc_and_sys_means_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert read(write_tree(tmp_path, files))[0].limit_bytes is None


def test_this_machine_agrees_with_psutil() -> None:
    sources = Sources.of_this_machine()
    memory, _ = read_memory(sources.root, sources.system_memory, sources.address_space_limit)
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.available_bytes <= memory.total_bytes
