from collections.abc import Sequence

import pytest

from localllm.core.hardware import Backend, Device, DeviceKind, Memory
from localllm.machine.apple import read_apple, read_sysctl, working_set
from tests.machine.trees import GIB


@pytest.mark.parametrize(
    ("memory_gib", "wired_mb", "expected"),
    [
        (16, "0", 16 * GIB * 2 // 3),
        (32, "", 32 * GIB * 2 // 3),
        (36, "0", 27 * GIB),
        (64, "0", 48 * GIB),
        (128, "114688", 112 * GIB),
        (64, "999999", 64 * GIB),
        (64, "-1", 48 * GIB),
    ],
)
def test_the_working_set_is_the_owners_limit_or_a_share(
    memory_gib: int, wired_mb: str, expected: int
) -> None:
    assert working_set(memory_gib * GIB, wired_mb) == expected


def test_an_apple_chip_has_one_unified_gpu() -> None:
    sysctl = {"machdep.cpu.brand_string": "Apple M2 Max", "iogpu.wired_limit_mb": "0"}
    ram = Memory(total_bytes=64 * GIB, available_bytes=20 * GIB)
    assert read_apple(sysctl, ram).devices == (
        Device(
            kind=DeviceKind.IGPU,
            name="Apple M2 Max",
            backend=Backend.METAL,
            total_bytes=48 * GIB,
            free_bytes=20 * GIB,
            unified=True,
        ),
    )


@pytest.mark.parametrize("name", ["Intel(R) Core(TM) i7", ""])
def test_an_intel_mac_has_no_gpu_that_is_used(name: str) -> None:
    ram = Memory(total_bytes=16 * GIB, available_bytes=8 * GIB)
    assert read_apple({"machdep.cpu.brand_string": name}, ram).devices == ()


def test_sysctl_is_asked_once_and_may_be_silent() -> None:
    calls: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str | None:
        calls.append(command)
        return "hw.physicalcpu: 8\nsysctl: unknown oid 'x'\nnonsense\n" if len(calls) == 1 else None

    assert read_sysctl(run)["hw.physicalcpu"] == "8"
    assert read_sysctl(run) == {}
    assert all(command[0] == "/usr/sbin/sysctl" for command in calls)
