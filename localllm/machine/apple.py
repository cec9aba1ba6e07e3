"""Apple silicon: one memory for processor and GPU, of which Metal lets the GPU keep a part.

The part is Metal's `recommendedMaxWorkingSetSize`. Only Metal knows it, and the engine's own device
list brings it when the build has Metal; until then it is the limit the owner set
(`iogpu.wired_limit_mb`), else the share below.
"""

from collections.abc import Callable, Mapping, Sequence

from localllm.core.hardware import Backend, DetectedDevices, Device, DeviceKind, Memory
from localllm.machine.cpu import parse_sysctl

RunCommand = Callable[[Sequence[str]], str | None]
"""Runs a program and gives its standard output, whatever its status; None when it cannot run."""

SYSCTL_NAMES = (
    *(
        "hw.memsize",
        "hw.physicalcpu",
        "hw.nperflevels",
        "hw.perflevel0.physicalcpu",
        "hw.optional",
        "iogpu.wired_limit_mb",
    ),
    *("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features"),
)

_SMALL = 32 << 30  # up to here 2/3 of the memory, above 3/4


def read_sysctl(run: RunCommand) -> Mapping[str, str]:
    """Run `sysctl`; empty when it cannot run. It leaves out the names that it does not know."""
    return parse_sysctl(run(("/usr/sbin/sysctl", *SYSCTL_NAMES)) or "")


def read_apple(sysctl: Mapping[str, str], ram: Memory) -> DetectedDevices:
    """Describe the GPU of an Apple chip; a Mac with an Intel processor has none that is used."""
    name = sysctl.get("machdep.cpu.brand_string", "")
    if not name.startswith("Apple"):
        return DetectedDevices()
    total = working_set(ram.total_bytes, sysctl.get("iogpu.wired_limit_mb", ""))
    return DetectedDevices(
        devices=(
            Device(
                kind=DeviceKind.IGPU,
                name=name,
                backend=Backend.METAL,
                total_bytes=total,
                free_bytes=min(total, ram.available_bytes),
                unified=True,
            ),
        )
    )


def working_set(memory_bytes: int, wired_limit_mb: str) -> int:
    """Return the bytes that the GPU may keep, without Metal.

    `iogpu.wired_limit_mb` is in MiB, 0 meaning macOS's own choice. That is what llama.cpp logged as
    recommendedMaxWorkingSetSize on macOS 13 and 14: 2/3 of the memory up to 32 GiB (21.3 of 32) and
    3/4 above (27 of 36, 48 of 64). macOS 26 allows more (107.5 of 128): this is on the safe side.
    """
    if wired_limit_mb.isdecimal() and int(wired_limit_mb) > 0:
        return min(int(wired_limit_mb) << 20, memory_bytes)
    return memory_bytes * 2 // 3 if memory_bytes <= _SMALL else memory_bytes * 3 // 4
