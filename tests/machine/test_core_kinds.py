"""Processors with two kinds of cores, as their systems describe them."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.hardware import FEWEST_THREADS, Cpu
from localllm.machine.cpu import (
    parse_sysctl,
    parse_windows_cores,
    read_apple_cpu,
    read_linux_cpu,
    read_windows_cpu,
)
from tests.machine.trees import V2_MOUNT, write_tree

CPU = "sys/devices/system/cpu"


def siblings(*cores: str) -> dict[str, str]:
    """The topology of cores, each given as the kernel's list of its threads."""
    files = {}
    for core in cores:
        first, _, last = core.partition("-")
        for cpu in range(int(first), int(last or first) + 1):
            files[f"{CPU}/cpu{cpu}/topology/core_cpus_list"] = f"{core}\n"
    return files


def intel(performance: int, efficient: int) -> dict[str, str]:
    """Intel's hybrid processors number the threads of performance cores first, two a core."""
    first = 2 * performance
    cores = [f"{2 * n}-{2 * n + 1}" for n in range(performance)]
    cores += [str(first + n) for n in range(efficient)]
    return {
        **siblings(*cores),
        "sys/devices/cpu_core/cpus": f"0-{first - 1}\n",
        "sys/devices/cpu_atom/cpus": f"{first}-{first + efficient - 1}\n",
    }


def arm(*capacities: int) -> dict[str, str]:
    return siblings(*(str(n) for n in range(len(capacities)))) | {
        f"{CPU}/cpu{n}/cpu_capacity": f"{capacity}\n" for n, capacity in enumerate(capacities)
    }


def read(root: Path, files: dict[str, str], *, allowed: frozenset[int] | None = None) -> Cpu:
    return read_linux_cpu(write_tree(root, files), "x86_64", lambda: allowed, lambda: None)


@pytest.mark.parametrize(
    ("files", "cores", "fast", "threads"),
    [
        (intel(8, 16), 24, 8, 8),  # i9-13900K
        (intel(4, 8), 12, 4, 4),  # i7-1260P
        (intel(6, 10), 16, 6, 6),  # Core Ultra 7 155H, with its two cores of low power
        (intel(2, 8), 10, 2, FEWEST_THREADS),  # i5-1235U
        (intel(1, 4), 5, 1, FEWEST_THREADS),  # i5-L16G7
        (arm(414, 414, 414, 414, 1024, 1024, 1024, 1024), 8, 4, 4),  # RK3588
        (arm(325, 325, 325, 325, 828, 828, 828, 1024), 8, 4, 4),  # little, middle, prime
        (arm(512, 512, 1024, 1024), 4, None, 4),  # half as fast is fast enough
        (arm(*[1024] * 12), 12, None, 12),  # Snapdragon X Elite
        (siblings("0-1", "2-3"), 2, None, 2),
    ],
)
def test_threads_are_for_fast_cores_and_never_for_siblings(
    files: dict[str, str], cores: int, fast: int | None, threads: int, tmp_path: Path
) -> None:
    cpu = read(tmp_path, files)
    assert (cpu.cores_physical, cpu.cores_fast, cpu.threads) == (cores, fast, threads)


def test_a_kind_that_may_not_be_used_does_not_count(tmp_path: Path) -> None:
    slow_alone = read(tmp_path, intel(4, 8), allowed=frozenset(range(8, 16)))
    assert (slow_alone.cores_fast, slow_alone.threads) == (None, 8)
    some = read(tmp_path, intel(4, 8), allowed=frozenset({0, 1, 2, 8, 9, 10, 11}))
    assert (some.cores_usable, some.cores_fast, some.threads) == (6, 2, 4)
    fast_alone = read(tmp_path, intel(4, 8), allowed=frozenset(range(8)))
    assert (fast_alone.cores_fast, fast_alone.threads) == (None, 4)


def test_a_quota_goes_before_every_kind(tmp_path: Path) -> None:
    quota = {
        "proc/self/mountinfo": V2_MOUNT,
        "proc/self/cgroup": "0::/a\n",
        "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
    }
    assert read(tmp_path, intel(8, 16) | quota).threads == 3


@pytest.mark.parametrize("broken", ["", "x-y\n", "7-3\n"])
def test_nonsense_of_the_kernel_is_no_kind(broken: str, tmp_path: Path) -> None:
    files = intel(4, 8) | {"sys/devices/cpu_core/cpus": broken}
    assert read(tmp_path, files).threads == 12


def test_apples_performance_cores_are_fast() -> None:
    text = "hw.physicalcpu: 10\nhw.nperflevels: 2\nhw.perflevel0.physicalcpu: 8\n"
    assert read_apple_cpu(parse_sysctl(text), lambda: None).threads == 8
    intel_mac = "hw.physicalcpu: 6\nhw.nperflevels: 1\nhw.perflevel0.physicalcpu: 6\n"
    assert read_apple_cpu(parse_sysctl(intel_mac), lambda: None).cores_fast is None
    assert read_apple_cpu(parse_sysctl("hw.physicalcpu: 6\n"), lambda: None).threads == 6


def windows(*cores: tuple[int, int], group: int = 0) -> bytes:
    """Records of 48 bytes, as winnt.h has them: (efficiency class, mask)."""
    return b"".join(
        struct.pack("<IIBB20xHQH6x", 0, 48, int(mask.bit_count() > 1), kind, 1, mask, group)
        for kind, mask in cores
    )


def read_windows(raw: bytes, allowed: frozenset[int] | None = None) -> Cpu:
    return read_windows_cpu("CPU", lambda _: False, lambda: allowed, lambda: 7, raw)


def test_windows_efficiency_classes_are_kinds() -> None:
    raw = windows(*((1, 3 << 2 * n) for n in range(4)), *((0, 1 << n) for n in range(8, 16)))
    cpu = read_windows(raw)
    assert (cpu.cores_physical, cpu.cores_usable, cpu.cores_fast, cpu.threads) == (12, 12, 4, 4)
    pinned = read_windows(raw, frozenset(range(8, 16)))
    assert (pinned.cores_usable, pinned.cores_fast) == (8, None)
    alike = read_windows(windows((0, 3), (0, 12)))
    assert (alike.cores_physical, alike.cores_fast, alike.threads) == (2, None, 2)


def test_what_windows_says_of_large_machines_is_left_to_psutil() -> None:
    assert read_windows(windows((0, 1), group=1)).cores_physical == 7
    assert read_windows(b"").cores_physical == 7
    assert parse_windows_cores(windows((0, 1))[:40]) == {}


@given(st.binary(max_size=300))
def test_any_bytes_are_cores_or_none(raw: bytes) -> None:
    for core, kind in parse_windows_cores(raw).items():
        assert all(0 <= cpu < 64 for cpu in core)
        assert 0 <= kind < 256


@given(
    st.integers(1, 64),
    st.none() | st.integers(1, 64),
    st.none() | st.integers(1, 64),
)
def test_threads_are_never_more_than_cores(
    usable: int, physical: int | None, fast: int | None
) -> None:
    cpu = Cpu(name="", cores_physical=physical, cores_usable=usable, cores_fast=fast)
    assert 1 <= cpu.threads <= min(usable, physical or usable)
