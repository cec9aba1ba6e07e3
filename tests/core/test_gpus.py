"""Device names as drivers, shops and people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.hardware import Backend
from localllm.core.speed.gpu_table import DEVICES
from localllm.core.speed.gpus import GIB, Generation, generation, lookup


@pytest.mark.parametrize(
    ("name", "gib", "gb_per_s"),
    [
        ("RTX 4060", 8, 272),
        ("rtx4060", 8, 272),
        ("NVIDIA GeForce RTX 4060", 8, 272),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", 8, 256),
        ("GeForce RTX 4060 Ti 16GB", 16, 288),
        ("RTX 4060Ti", 8, 288),
        ("GTX 1060 3GB", 3, 192),
        ("NVIDIA RTX 6000 Ada Generation", 48, 960),
        ("NVIDIA RTX A6000", 48, 768),
        ("Quadro RTX 8000", 48, 672),
        ("Tesla T4", 16, 320),
        ("Tesla V100-SXM2-16GB", 16, 900),
        ("NVIDIA A100-SXM4-80GB", 80, 2039),
        ("NVIDIA A100-PCIE-40GB", 40, 1555),
        ("NVIDIA H200", 141, 4800),
        ("AMD Radeon RX 7900 XTX", 24, 960),
        ("RX7900XTX", 24, 960),
        ("AMD Radeon(TM) PRO W7900", 48, 864),
        ("Intel(R) Arc(TM) B580 Graphics", 12, 456),
        ("NVIDIA RTX A2000 12GB", 12, 288),
        ("NVIDIA RTX A2000 Laptop GPU", 4, 192),
        ("NVIDIA RTX A2000 8GB Laptop GPU", 8, 224),
        ("NVIDIA RTX A1000 6GB Laptop GPU", 6, 132),
        ("NVIDIA RTX 2000 Ada Generation Laptop GPU", 8, 256),
        ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", 6, 168),
        ("NVIDIA GeForce RTX 3050 Ti Laptop GPU", 4, 192),
        ("NVIDIA GeForce RTX 2050", 4, 112),
        ("NVIDIA GeForce RTX 2070 Super with Max-Q Design", 8, 352),
        ("NVIDIA GeForce MX450", 2, 64),
        ("GeForce MX150", 2, 40),
        ("GTX 1650 Mobile", 4, 128),
        ("Quadro T2000", 4, 128),
        ("NVIDIA T500", 4, 80),
        ("Quadro P620", 2, 80),
        ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", 12, 672),
        ("AMD Radeon RX 6700M", 10, 320),
        ("Radeon RX 6800S", 8, 256),
        ("AMD Radeon RX 7600M XT", 8, 288),
        ("Intel(R) Arc(TM) A770M Graphics", 16, 512),
        ("Intel(R) Arc(TM) Pro A40 Graphics", 6, 192),
    ],
)
def test_a_device_is_found_however_it_is_spelled(name: str, gib: int, gb_per_s: float) -> None:
    gpu = lookup(name)
    assert gpu is not None
    assert gpu.memory_bytes == gib * GIB
    assert gpu.bandwidth_bytes_per_s == gb_per_s * 1e9
    assert not gpu.unified


@pytest.mark.parametrize(
    "name",
    [
        "Apple M2 Ultra (76-core GPU)",
        "Radeon 8060S Graphics (RADV GFX1151)",
        "NVIDIA GB10",
        "780M",
        "AMD Radeon(TM) 780M Graphics",
        "Radeon 610M",
        "Intel(R) Arc(TM) 130V GPU",
        "Arc 130T",
        "Intel(R) Iris(R) Xe Graphics",
    ],
)
def test_memory_shared_with_the_system_is_said_to_be_so(name: str) -> None:
    gpu = lookup(name)
    assert gpu is not None
    assert gpu.unified
    assert gpu.memory_bytes is None


@pytest.mark.parametrize(
    "name",
    ["", "   ", "GeForce", "RTX 9999", "RTX 4060 Max-P", "RTX 4090 D", "[/INST]", "🦙" * 500],
)
def test_a_device_that_no_table_has_is_unknown(name: str) -> None:
    assert lookup(name) is None


def test_a_part_sold_with_several_sizes_counts_as_the_smallest_unless_the_name_says() -> None:
    gpu = lookup("RTX 5060 Ti")
    assert gpu is not None
    assert gpu.memory_options == (8 * GIB, 16 * GIB)
    assert gpu.memory_bytes == 8 * GIB


def test_a_stated_size_that_nobody_sells_is_not_believed_when_it_is_larger() -> None:
    gpu = lookup("GeForce RTX 4060 480GB")
    assert gpu is not None
    assert gpu.memory_bytes == 8 * GIB


def test_of_tables_that_disagree_the_median_is_taken() -> None:
    gpu = lookup("RTX 5060")
    assert gpu is not None
    assert gpu.bandwidth_options == (256e9, 336e9, 448e9)
    assert gpu.bandwidth_bytes_per_s == 448e9  # three of five tables


def test_tables_that_agree_say_nothing() -> None:
    gpu = lookup("RTX 4090")
    assert gpu is not None
    assert len(gpu.bandwidth_options) == 1


def test_a_size_in_the_name_settles_which_bandwidth_is_meant() -> None:
    gpu = lookup("A100 80GB")
    assert gpu is not None
    assert len(gpu.bandwidth_options) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 5090", Generation.NVIDIA_BLACKWELL),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q", Generation.NVIDIA_BLACKWELL),
        ("NVIDIA L40S", Generation.NVIDIA_ADA),
        ("NVIDIA A40", Generation.NVIDIA_AMPERE),
        ("NVIDIA A30", Generation.NVIDIA_HBM),
        ("NVIDIA GeForce GTX 1660 SUPER", Generation.NVIDIA_TURING),
        ("NVIDIA Tesla P40", Generation.NVIDIA_PASCAL),
        ("NVIDIA Tesla K80 (one GPU)", Generation.NVIDIA_MAXWELL),
        ("AMD Instinct MI50 32GB", Generation.AMD_HBM),
        ("AMD Radeon RX 9070 XT", Generation.AMD_RDNA),
        ("Intel Arc A770", Generation.INTEL_ARC),
        ("Apple M1 Pro", Generation.APPLE_M1_M2),
        ("Apple M4 (10-core GPU)", Generation.APPLE_M3_M4),
        ("Apple M5 Max", Generation.APPLE_M5),
        ("Matrox Millennium", None),
        ("NVIDIA GeForce MX450", Generation.NVIDIA_TURING),
        ("NVIDIA GeForce MX150", Generation.NVIDIA_PASCAL),
        ("NVIDIA GeForce MX130", Generation.NVIDIA_MAXWELL),
        ("NVIDIA GeForce MX570", Generation.NVIDIA_AMPERE),
        ("NVIDIA GeForce RTX 2050", Generation.NVIDIA_AMPERE),
        ("NVIDIA RTX A500 Laptop GPU", Generation.NVIDIA_AMPERE),
        ("NVIDIA T1200 Laptop GPU", Generation.NVIDIA_TURING),
        ("Quadro P2200", Generation.NVIDIA_PASCAL),
        ("AMD Radeon RX 6700M", Generation.AMD_RDNA),
        ("AMD Radeon 780M Graphics", Generation.AMD_RDNA),
        ("Intel Arc 140V", Generation.INTEL_ARC),
        ("Intel Arc Pro A40", Generation.INTEL_ARC),
    ],
)
def test_a_name_tells_its_generation(name: str, expected: Generation | None) -> None:
    assert generation(name) is expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("8.9", Generation.NVIDIA_ADA),
        ("8.6", Generation.NVIDIA_AMPERE),
        ("8.0", Generation.NVIDIA_HBM),
        ("7.5", Generation.NVIDIA_TURING),
        ("9.0", Generation.NVIDIA_HBM),
        ("12.0", Generation.NVIDIA_BLACKWELL),
        ("6.1", Generation.NVIDIA_PASCAL),
    ],
)
def test_a_compute_capability_tells_the_generation_of_any_name(
    capability: str, expected: Generation
) -> None:
    assert generation("NVIDIA Graphics Device", compute_capability=capability) is expected


@pytest.mark.parametrize("capability", ["", "x", "99.0", "8", "٨.٩"])
def test_a_capability_that_is_none_falls_back_to_the_name(capability: str) -> None:
    assert generation("RTX 4090", compute_capability=capability) is Generation.NVIDIA_ADA


def test_each_generation_belongs_to_a_backend() -> None:
    assert Generation.NVIDIA_ADA.backend is Backend.CUDA
    assert Generation.APPLE_M5.backend is Backend.METAL
    assert Generation.AMD_HBM.backend is Backend.ROCM
    assert Generation.INTEL_ARC.backend is Backend.VULKAN


@given(st.text())
def test_no_name_is_too_strange_to_look_up(name: str) -> None:
    gpu = lookup(name)
    assert gpu is None or gpu.bandwidth_bytes_per_s > 0
    generation(name, compute_capability=name)


def test_every_row_of_the_table_is_found_and_has_a_generation() -> None:
    for line in DEVICES.strip().splitlines():
        name = line.split("|")[0].strip()
        gpu = lookup(name)
        assert gpu is not None, name
        assert gpu.name == name
        assert gpu.generation is not None, name
        assert not (gpu.unified and name.endswith("laptop")), name


def test_the_stated_size_has_its_own_bandwidth_though_the_larger_is_the_slower() -> None:
    small, large = lookup("RTX 3050 4GB Laptop GPU"), lookup("RTX 3050 6GB Laptop GPU")
    assert small is not None
    assert large is not None
    assert small.bandwidth_bytes_per_s > large.bandwidth_bytes_per_s
    assert lookup("RTX 3050 Laptop GPU") == small


def test_an_integrated_gpu_that_names_its_share_of_the_memory_still_shares_it() -> None:
    gpu = lookup("Intel(R) Arc(TM) 140V GPU (16GB)")
    assert gpu is not None
    assert gpu.unified
    assert gpu.bandwidth_bytes_per_s == 136.5e9
