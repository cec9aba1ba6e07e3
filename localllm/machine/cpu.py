"""The processor: its name, its cores, the cores this process may use, the instructions it has.

Threads of one core share the units that llama.cpp keeps busy, so cores are counted, not threads.
The cores that may be used are fewer than those that exist when the process is pinned
(`sched_setaffinity`) or when a control group rations processor time (a container's --cpus).
"""

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from localllm.core.hardware import Cpu
from localllm.machine.cgroup import groups, read_number

LINUX_FEATURES: Mapping[str, str] = {
    # x86: names of /proc/cpuinfo -> names as llama.cpp prints them (ggml-cpu.cpp, get_features)
    "ssse3": "SSSE3",
    "sse4_2": "SSE4_2",
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "bmi2": "BMI2",
    "avx2": "AVX2",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512bw": "AVX512BW",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx512_fp16": "AVX512_FP16",
    "amx_tile": "AMX_TILE",
    "amx_int8": "AMX_INT8",
    "amx_bf16": "AMX_BF16",
    # Arm
    "neon": "NEON",
    "asimd": "NEON",
    "asimdhp": "FP16_VA",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
}

APPLE_FEATURES: Mapping[str, str] = {
    # Intel: machdep.cpu.features and machdep.cpu.leaf7_features
    "SSSE3": "SSSE3",
    "SSE4.2": "SSE4_2",
    "AVX1.0": "AVX",
    "F16C": "F16C",
    "FMA": "FMA",
    "BMI2": "BMI2",
    "AVX2": "AVX2",
    "AVX512F": "AVX512",
    "AVX512BW": "AVX512BW",
    "AVX512VNNI": "AVX512_VNNI",
    # Apple silicon: keys of hw.optional that are 1
    "hw.optional.neon": "NEON",
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16_VA",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
    "hw.optional.arm.FEAT_BF16": "BF16",
    "hw.optional.arm.FEAT_SME": "SME",
}

WINDOWS_FEATURES: Mapping[int, str] = {
    # PF_* of winnt.h, the argument of IsProcessorFeaturePresent
    19: "NEON",  # PF_ARM_NEON_INSTRUCTIONS_AVAILABLE
    36: "SSSE3",
    38: "SSE4_2",
    39: "AVX",
    40: "AVX2",
    41: "AVX512",  # PF_AVX512F_INSTRUCTIONS_AVAILABLE
    43: "DOTPROD",  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
    46: "SVE",
}


_RELATION_PROCESSOR_CORE = 0  # LOGICAL_PROCESSOR_RELATIONSHIP (winnt.h)


def read_linux_cpu(
    root: Path,
    machine: str,
    allowed_cpus: Callable[[], frozenset[int] | None],
    physical_cores: Callable[[], int | None],
) -> Cpu:
    """Read the processor from /proc/cpuinfo, /sys topology, affinity and processor time quotas.

    `machine` ("x86_64") is the name of last resort. What cannot be read is None; the cores that
    may be used are at least 1.
    """
    info = _cpuinfo(root)
    cores = _cores(root)
    allowed = allowed_cpus()
    physical = len(cores) or physical_cores()
    usable = _usable(cores, allowed, physical)
    quota = _quota_cores(root)
    usable = min(usable, quota or usable)
    return Cpu(
        name=_linux_name(info, machine),
        cores_physical=physical or None,
        cores_usable=usable,
        features=_linux_features(info),
        cores_fast=_fast(cores, allowed, _fast_cpus(root), usable),
    )


def read_apple_cpu(sysctl: Mapping[str, str], physical_cores: Callable[[], int | None]) -> Cpu:
    """Read the processor from the values that sysctl printed."""
    physical = _number(sysctl.get("hw.physicalcpu")) or physical_cores()
    flags = (
        f"{sysctl.get('machdep.cpu.features', '')} {sysctl.get('machdep.cpu.leaf7_features', '')}"
    )
    present = {*flags.split(), *(key for key, value in sysctl.items() if value == "1")}
    return Cpu(
        name=sysctl.get("machdep.cpu.brand_string") or "Apple processor",
        cores_physical=physical,
        cores_usable=physical or 1,
        cores_fast=_number(sysctl.get("hw.perflevel0.physicalcpu"))
        if (_number(sysctl.get("hw.nperflevels")) or 1) > 1
        else None,
        features=_ordered(APPLE_FEATURES[flag] for flag in APPLE_FEATURES if flag in present),
    )


def read_windows_cpu(
    name: str,
    has_feature: Callable[[int], bool],
    allowed_cpus: Callable[[], frozenset[int] | None],
    physical_cores: Callable[[], int | None],
    core_information: bytes = b"",
) -> Cpu:
    """Describe the processor as Windows does; `has_feature` is IsProcessorFeaturePresent.

    `core_information` is what GetLogicalProcessorInformationEx(RelationProcessorCore) writes.
    """
    classes = parse_windows_cores(core_information)
    cores, allowed = tuple(classes), allowed_cpus()
    physical = len(cores) or physical_cores()
    usable = _usable(cores, allowed, physical)
    best = max(classes.values(), default=0)
    fast = frozenset().union(*(core for core, kind in classes.items() if kind == best))
    alike = len(set(classes.values())) < 2
    return Cpu(
        name=name,
        cores_physical=physical,
        cores_usable=usable,
        cores_fast=_fast(cores, allowed, None if alike else fast, usable),
        features=_ordered(name for code, name in WINDOWS_FEATURES.items() if has_feature(code)),
    )


def parse_windows_cores(raw: bytes) -> dict[frozenset[int], int]:
    """Read the records of GetLogicalProcessorInformationEx (winnt.h, PROCESSOR_RELATIONSHIP, 64
    bits): the processor threads of each core, and its efficiency class, which is higher for faster
    cores. A thread is numbered by its bit in the first group, as affinity masks are; a machine of
    several groups (more than 64 threads) has none here, nor has what is no such record.
    """
    cores: dict[frozenset[int], int] = {}
    position = 0
    while position + 48 <= len(raw):
        relationship, size = struct.unpack_from("<II", raw, position)
        if relationship != _RELATION_PROCESSOR_CORE or size < 48:
            return {}
        efficiency, groups = raw[position + 9], struct.unpack_from("<H", raw, position + 30)[0]
        mask, group = struct.unpack_from("<QH", raw, position + 32)
        if groups != 1 or group != 0:
            return {}
        cores[frozenset(bit for bit in range(64) if mask >> bit & 1)] = efficiency
        position += size
    return cores


def parse_sysctl(text: str) -> dict[str, str]:
    """Read what `sysctl NAME...` prints: "name: value" lines, or "name = value"."""
    pairs = (re.split(r": | = |:$", line, maxsplit=1) for line in text.splitlines())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _cpuinfo(root: Path) -> dict[str, str]:
    """Read the first value of each key of /proc/cpuinfo."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip(), value.strip())
    return values


def _linux_name(info: Mapping[str, str], machine: str) -> str:
    """Arm's cpuinfo has no name; some boards say "Hardware" or "Model"."""
    names = (info.get(key, "") for key in ("model name", "Model", "Hardware", "cpu model", "cpu"))
    return next((" ".join(name.split()) for name in names if name), f"{machine} processor")


def _linux_features(info: Mapping[str, str]) -> tuple[str, ...]:
    flags = set(f"{info.get('flags', '')} {info.get('Features', '')}".lower().split())
    isa = info.get("isa", "").split("_")[0]  # RISC-V: "rv64imafdcv_zicbom..."
    vector = ("RVV",) if isa.startswith("rv") and "v" in isa[4:] else ()
    return _ordered([*(name for flag, name in LINUX_FEATURES.items() if flag in flags), *vector])


def _cores(root: Path) -> tuple[frozenset[int], ...]:
    """Find the processor threads of each physical core, from the topology in /sys."""
    cores: set[frozenset[int]] = set()
    for topology in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        for name in ("core_cpus_list", "thread_siblings_list"):  # the second: before Linux 5.3
            try:
                cores.add(_cpu_list((topology / name).read_text(encoding="ascii")))
                break
            except (OSError, ValueError):
                continue
    return tuple(cores)


def _usable(
    cores: tuple[frozenset[int], ...], allowed: frozenset[int] | None, physical: int | None
) -> int:
    """Count the cores that have a thread this process may use; without a topology the smaller of
    threads and cores; at least 1."""
    if allowed and (reached := sum(bool(core & allowed) for core in cores)):
        return reached
    return min((count for count in (len(allowed or ()), physical) if count), default=1)


def _fast(
    cores: tuple[frozenset[int], ...],
    allowed: frozenset[int] | None,
    fast: frozenset[int] | None,
    usable: int,
) -> int | None:
    """Count the usable cores that are fast; None when no kinds are known, or only one may be
    used."""
    if fast is None or not cores:
        return None
    reached = [core for core in cores if allowed is None or core & allowed]
    count = sum(bool(core & fast) for core in reached)
    return min(count, usable) if 0 < count < len(reached) else None


def _fast_cpus(root: Path) -> frozenset[int] | None:
    """Find the processor threads of the fast cores, where the kernel knows two kinds.

    Intel's kinds are devices of perf (`cpu_core`, `cpu_atom`). Elsewhere the kernel has a capacity
    for each thread, 1024 for the fastest (its docs: sched-capacity):
    half of the largest is taken for fast, which parts Arm's big and middle cores (350 to 1024)
    from its little ones, and calls the two kinds of AMD's, which differ in clock alone, one.
    """
    devices = root / "sys/devices"
    core, atom = (_read_cpu_list(devices / name / "cpus") for name in ("cpu_core", "cpu_atom"))
    if core and atom:
        return core
    capacities: dict[int, int] = {}
    for file in (devices / "system/cpu").glob("cpu[0-9]*/cpu_capacity"):
        if (capacity := read_number(file)) is not None:
            capacities[int(file.parent.name.removeprefix("cpu"))] = capacity
    largest = max(capacities.values(), default=0)
    fast = frozenset(cpu for cpu, capacity in capacities.items() if 2 * capacity >= largest)
    return fast if len(fast) < len(capacities) else None


def _read_cpu_list(file: Path) -> frozenset[int]:
    try:
        return _cpu_list(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()


def _cpu_list(text: str) -> frozenset[int]:
    """Read a kernel list such as "0-3,8"."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _quota_cores(root: Path) -> int | None:
    """Return the whole cores that the tightest processor time quota allows, None without one.

    Rounded down: one thread too many is stopped by the kernel in every period, and with it all
    the threads that wait for it.
    """
    quotas = [quota for group in groups(root, "cpu") if (quota := _quota(group.directory))]
    return max(int(min(quotas)), 1) if quotas else None


def _quota(directory: Path) -> float | None:
    """Read cpu.max (version 2) or cpu.cfs_quota_us (version 1): processors' worth of time."""
    try:
        quota, period = (directory / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    quota_us = read_number(directory / "cpu.cfs_quota_us")
    period_us = read_number(directory / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us else None


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Drop repeats, keep the order."""
    return tuple(dict.fromkeys(names))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
