import sys
from pathlib import Path

import psutil
import pytest

from localllm.core.hardware import Cpu
from localllm.machine.cpu import parse_sysctl, read_apple_cpu, read_linux_cpu, read_windows_cpu
from localllm.machine.sources import Sources
from tests.machine.trees import V1_CPU_MOUNT, V2_MOUNT, write_tree

RYZEN = """\
processor	: 0
vendor_id	: AuthenticAMD
model name	: AMD Ryzen 9 7950X  16-Core Processor
flags		: fpu sse4_2 ssse3 avx f16c fma bmi2 avx2 avx512f avx512bw avx512vbmi avx512_vnni

processor	: 1
model name	: another name
"""
GRAVITON = """\
processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd evtstrm aes asimdhp asimddp sve i8mm bf16 sve2
CPU implementer	: 0x41
CPU part	: 0xd4f
"""
RISCV = "processor	: 0\nisa		: rv64imafdcv_zicbom_zicboz\n"
SAPPHIRE = "model name : Xeon\nflags : avx2 avx_vnni avx512f amx_bf16 amx_tile amx_int8\n"

M2_MAX = """\
hw.memsize: 34359738368
hw.physicalcpu: 12
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.neon: 1
iogpu.wired_limit_mb: 0
machdep.cpu.brand_string: Apple M2 Max
"""


def topology(threads: int, per_core: int) -> dict[str, str]:
    cores = threads // per_core
    return {
        f"sys/devices/system/cpu/cpu{n}/topology/core_cpus_list": ",".join(
            str(n % cores + cores * k) for k in range(per_core)
        )
        + "\n"
        for n in range(threads)
    }


def read(root: Path, *, allowed: frozenset[int] | None = None, physical: int | None = None) -> Cpu:
    return read_linux_cpu(root, "x86_64", lambda: allowed, lambda: physical)


def test_name_and_features_come_from_the_first_processor(tmp_path: Path) -> None:
    cpu = read(write_tree(tmp_path, {"proc/cpuinfo": RYZEN}))
    assert cpu.name == "AMD Ryzen 9 7950X 16-Core Processor"
    assert {"AVX2", "FMA", "F16C", "AVX512", "AVX512_VBMI", "AVX512_VNNI"} <= set(cpu.features)
    assert "AMX_INT8" not in cpu.features


def test_amx_and_vnni_are_seen(tmp_path: Path) -> None:
    cpu = read(write_tree(tmp_path, {"proc/cpuinfo": SAPPHIRE}))
    assert {"AVX_VNNI", "AMX_TILE", "AMX_INT8", "AMX_BF16"} <= set(cpu.features)


def test_arm_features_have_llama_cpps_names(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/cpuinfo": GRAVITON})
    cpu = read_linux_cpu(root, "aarch64", lambda: None, lambda: 8)
    assert cpu.name == "aarch64 processor"
    assert cpu.features == ("NEON", "FP16_VA", "DOTPROD", "MATMUL_INT8", "BF16", "SVE", "SVE2")


def test_the_vector_extension_of_risc_v_is_seen(tmp_path: Path) -> None:
    assert read(write_tree(tmp_path, {"proc/cpuinfo": RISCV})).features == ("RVV",)


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    cpu = read(write_tree(tmp_path, topology(16, 2)), allowed=frozenset(range(16)))
    assert (cpu.cores_physical, cpu.cores_usable) == (8, 8)


def test_a_pinned_process_may_use_the_cores_of_its_threads(tmp_path: Path) -> None:
    # Threads 0 and 8 are one core.
    cpu = read(write_tree(tmp_path, topology(16, 2)), allowed=frozenset({0, 8, 1}))
    assert (cpu.cores_physical, cpu.cores_usable) == (8, 2)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("400000 100000", 4), ("350000 100000", 3), ("50000 100000", 1)],
)
def test_a_version_2_quota_is_whole_cores(tmp_path: Path, quota: str, cores: int) -> None:
    files = {
        **topology(16, 2),
        "proc/self/mountinfo": V2_MOUNT,
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/cpu.max": f"{quota}\n",
    }
    assert read(write_tree(tmp_path, files)).cores_usable == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2)])
def test_a_version_1_quota_counts(tmp_path: Path, quota: str, cores: int) -> None:
    files = {
        **topology(8, 1),
        "proc/self/mountinfo": V1_CPU_MOUNT,
        "proc/self/cgroup": "1:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
    }
    assert read(write_tree(tmp_path, files)).cores_usable == cores


def test_without_a_topology_affinity_and_psutil_decide(tmp_path: Path) -> None:
    cpu = read(tmp_path, allowed=frozenset(range(16)), physical=8)
    assert (cpu.cores_physical, cpu.cores_usable) == (8, 8)
    cpu = read(tmp_path, allowed=frozenset({3}), physical=8)
    assert cpu.cores_usable == 1


def test_affinity_unknown_means_every_core(tmp_path: Path) -> None:
    assert read(tmp_path, physical=8).cores_usable == 8


def test_without_proc_and_sys_one_core_is_certain(tmp_path: Path) -> None:
    cpu = read(tmp_path)
    assert cpu == Cpu(name="x86_64 processor", cores_physical=None, cores_usable=1, features=())


def test_a_mangled_topology_is_left_out(tmp_path: Path) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/topology/core_cpus_list": "zero",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0-1",
        "sys/devices/system/cpu/cpu1/topology/core_cpus_list": "",
    }
    assert read(write_tree(tmp_path, files)).cores_physical == 1


def test_an_apple_chip_is_read_from_sysctl() -> None:
    cpu = read_apple_cpu(parse_sysctl(M2_MAX), lambda: None)
    assert cpu == Cpu(
        name="Apple M2 Max",
        cores_physical=12,
        cores_usable=12,
        features=("NEON", "DOTPROD", "BF16"),
    )


def test_an_intel_mac_is_read_from_sysctl() -> None:
    text = (
        "machdep.cpu.brand_string: Intel(R) Core(TM) i7\n"
        "machdep.cpu.features: FPU SSE4.2 AVX1.0 F16C FMA\n"
        "machdep.cpu.leaf7_features: BMI2 AVX2\nhw.physicalcpu: 6\n"
    )
    cpu = read_apple_cpu(parse_sysctl(text), lambda: None)
    assert cpu.features == ("SSE4_2", "AVX", "F16C", "FMA", "BMI2", "AVX2")


def test_a_mac_whose_sysctl_is_silent_still_has_a_processor() -> None:
    cpu = read_apple_cpu({}, lambda: 4)
    assert (cpu.cores_physical, cpu.cores_usable, cpu.features) == (4, 4, ())


def test_windows_is_asked_by_feature_number() -> None:
    cpu = read_windows_cpu("Ryzen", {39, 40}.__contains__, lambda: frozenset({0, 1}), lambda: 8)
    assert cpu == Cpu(name="Ryzen", cores_physical=8, cores_usable=2, features=("AVX", "AVX2"))


def test_a_silent_windows_has_one_core() -> None:
    assert read_windows_cpu("?", lambda _: False, lambda: None, lambda: None).cores_usable == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_agrees_with_psutil() -> None:
    sources = Sources.of_this_machine()
    cpu = read_linux_cpu(
        sources.root, sources.machine, sources.allowed_cpus, sources.physical_cores
    )
    assert cpu.cores_physical == psutil.cpu_count(logical=False)
    assert 1 <= cpu.cores_usable <= len(psutil.Process().cpu_affinity() or ())
