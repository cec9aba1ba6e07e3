from pathlib import Path

import pytest

from localllm.core.hardware import Backend, DetectedDevices, Device, DeviceKind, Memory
from localllm.machine.nvidia import (
    Nvml,
    has_driver,
    load_nvml,
    memory_bandwidth,
    read_nvidia,
    visible_devices,
)
from tests.machine.fake_nvml import GIB, FakeGpu, FakeMemory, FakeNvml, Refused

RAM = Memory(total_bytes=64 * GIB, available_bytes=40 * GIB)


def read(nvml: Nvml | None, expected: int = 0, **environ: str) -> DetectedDevices:
    return read_nvidia(nvml, environ, RAM, expected=expected)


def test_everything_nvml_knows_is_in_the_device() -> None:
    nvml = FakeNvml(FakeGpu())
    detected = read(nvml)
    assert detected.warnings == ()
    (device,) = detected.devices
    assert device == Device(
        kind=DeviceKind.GPU,
        name="NVIDIA GeForce RTX 3090",
        backend=Backend.CUDA,
        total_bytes=24 * GIB,
        free_bytes=23 * GIB,
        bandwidth_bytes_per_s=2.0 * 9751e6 * 384 / 8,
        driver="550.54.14",
        compute_capability="8.6",
    )
    assert not nvml.open  # shut down again


def test_bytes_of_old_packages_become_text() -> None:
    gpu = FakeGpu(name=b"Tesla T4", uuid=b"GPU-1")
    (device,) = read(FakeNvml(gpu, driver=b"470.1")).devices
    assert (device.name, device.driver) == ("Tesla T4", "470.1")


@pytest.mark.parametrize(
    ("clock", "bits", "gb_per_s"),
    # NVML's maximum memory clock and bus width, and the data sheet's bandwidth
    [
        (9751, 384, 936),  # RTX 3090, GDDR6X
        (1215, 5120, 1555),  # A100 40 GB, HBM2
        (2619, 5120, 3350),  # H100 SXM, HBM3
        (14001, 512, 1792),  # RTX 5090, GDDR7
        (5505, 352, 484),  # GTX 1080 Ti, GDDR5X
        (5001, 256, 320),  # T4, GDDR6
    ],
)
def test_bandwidth_is_the_data_sheets(clock: int, bits: int, gb_per_s: int) -> None:
    assert memory_bandwidth(clock, bits) == pytest.approx(gb_per_s * 1e9, rel=0.003)


def test_each_call_may_fail_alone() -> None:
    cases = {
        "memory": FakeGpu(memory=None),
        "compute capability": FakeGpu(capability=None),
        "memory bandwidth": FakeGpu(bus_bits=None),
    }
    for what, gpu in cases.items():
        detected = read(FakeNvml(gpu))
        (device,) = detected.devices
        (warning,) = detected.warnings
        assert f"the {what} of NVIDIA GeForce RTX 3090." in warning
        assert (device.total_bytes is None) == (what == "memory")
        assert (device.compute_capability is None) == (what == "compute capability")
        assert (device.bandwidth_bytes_per_s is None) == (what == "memory bandwidth")


def test_a_device_that_answers_nothing_is_still_a_device() -> None:
    gpu = FakeGpu(name=None, uuid=None, memory=None, capability=None, clock_mhz=None)
    detected = read(FakeNvml(gpu, driver=None))
    (device,) = detected.devices
    assert (device.name, device.driver, device.total_bytes) == ("NVIDIA GPU", None, None)
    assert len(detected.warnings) == 1


def test_a_lost_device_is_left_out_and_said_so() -> None:
    detected = read(FakeNvml(FakeGpu(lost=True), FakeGpu(name="NVIDIA A100", uuid="GPU-1")))
    assert [device.name for device in detected.devices] == ["NVIDIA A100"]
    assert "GPU 0 of 2 does not answer (GPU is lost)" in detected.warnings[0]


def test_no_driver_where_there_is_no_nvidia_device_is_silence() -> None:
    assert read(FakeNvml(broken=Refused("NVML Shared Library Not Found"))) == DetectedDevices()
    assert read(None) == DetectedDevices()


@pytest.mark.parametrize(
    "broken",
    [Refused("Driver/library version mismatch"), OSError("bad ELF"), AttributeError("nvmlInit")],
)
def test_a_broken_driver_beside_a_card_is_a_warning(broken: Exception) -> None:
    detected = read(FakeNvml(broken=broken), expected=2)
    assert detected.devices == ()
    assert "2 NVIDIA GPUs are in this machine" in detected.warnings[0]
    assert str(broken) in detected.warnings[0]
    assert "nvidia-smi" in detected.warnings[0]


def test_a_missing_package_beside_a_card_is_a_warning() -> None:
    assert "nvidia-ml-py" in read(None, expected=1).warnings[0]


def test_a_driver_that_cannot_count_is_a_warning() -> None:
    class Uncountable(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:  # noqa: N802  # NVML's own name
            raise Refused("Insufficient Permissions")

    nvml = Uncountable()
    assert "Insufficient Permissions" in read(nvml).warnings[0]
    assert not nvml.open


def test_a_jetson_shares_the_systems_memory() -> None:
    gpu = FakeGpu(name="Orin (nvgpu)", memory=None, clock_mhz=None)
    detected = read(FakeNvml(gpu))
    (device,) = detected.devices
    assert device.unified
    assert device.kind is DeviceKind.IGPU
    assert (device.total_bytes, device.free_bytes) == (RAM.total_bytes, RAM.available_bytes)
    assert "memory bandwidth" in detected.warnings[0]


@pytest.mark.parametrize(
    ("name", "unified"), [("NVIDIA GB10", True), ("NVIDIA GH200 480GB", False)]
)
def test_grace_is_unified_only_without_memory_of_its_own(name: str, unified: bool) -> None:
    memory = None if unified else FakeMemory(total=96 * GIB, free=95 * GIB)
    (device,) = read(FakeNvml(FakeGpu(name=name, memory=memory))).devices
    assert device.unified is unified


TWO = (FakeGpu(uuid="GPU-aaa"), FakeGpu(uuid="GPU-abb"))


@pytest.mark.parametrize(
    ("value", "positions"),
    [
        ("0,1", (0, 1)),
        ("1,0", (1, 0)),
        ("1", (1,)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", (0,)),
        ("0,7,1", (0,)),
        ("0,0", (0,)),
        ("GPU-ab", (1,)),
        ("GPU-a", ()),
        ("GPU-x", ()),
        ("none", ()),
        pytest.param("9" * 5000, (), id="huge"),
        (" 1 , 0 ", (1, 0)),
    ],
)
def test_visible_devices_are_chosen_as_cuda_does(value: str, positions: tuple[int, ...]) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": value}, ["GPU-aaa", "GPU-abb"]) == positions


def test_a_hidden_device_is_said_to_be_hidden() -> None:
    detected = read(FakeNvml(*TWO), CUDA_VISIBLE_DEVICES="1")
    assert len(detected.devices) == 1
    assert "CUDA_VISIBLE_DEVICES=1 leaves 1 of 2" in detected.warnings[0]


def test_numbers_among_different_devices_are_uncertain() -> None:
    gpus = FakeNvml(FakeGpu(name="NVIDIA T4"), FakeGpu(name="NVIDIA A100"))
    assert any("CUDA_DEVICE_ORDER" in w for w in read(gpus, CUDA_VISIBLE_DEVICES="0").warnings)
    ordered = read(gpus, CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert not any("CUDA_DEVICE_ORDER" in w for w in ordered.warnings)


def instance(n: int) -> FakeGpu:
    memory = FakeMemory(total=10 * GIB, free=9 * GIB)
    return FakeGpu(name="NVIDIA A100 MIG 2g.10gb", uuid=f"MIG-{n}", memory=memory, capability=None)


def test_a_process_gets_one_mig_instance() -> None:
    divided = FakeGpu(name="NVIDIA A100", capability=(8, 0), instances=(instance(0), instance(1)))
    detected = read(FakeNvml(divided))
    (device,) = detected.devices
    assert device.name == "NVIDIA A100 MIG 2g.10gb"
    assert device.total_bytes == 10 * GIB
    assert device.compute_capability == "8.0"  # the GPU's: instances do not tell
    assert device.bandwidth_bytes_per_s is None
    assert detected.warnings == (
        "2 MIG instances are here and a process gets one of them, the first. Choose another "
        "with CUDA_VISIBLE_DEVICES=MIG-1.",
    )


def test_a_mig_instance_is_chosen_by_its_identifier() -> None:
    divided = FakeGpu(instances=(instance(0), instance(1)))
    (device,) = read(FakeNvml(divided), CUDA_VISIBLE_DEVICES="MIG-1").devices
    assert device.total_bytes == 10 * GIB


def test_a_divided_gpu_without_instances_is_no_device() -> None:
    detected = read(FakeNvml(FakeGpu(instances=())))
    assert detected.devices == ()
    assert "nvidia-smi mig" in detected.warnings[0]


def test_the_real_library_on_this_machine_never_raises() -> None:
    detected = read(load_nvml())
    assert all(device.backend is Backend.CUDA for device in detected.devices)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("null", "nvme0", "nvram"), False),
        (("null", "nvidiactl", "nvidia0"), True),
        (("nvhost-gpu",), True),  # Jetson
        (("dxg",), True),  # WSL
    ],
)
def test_a_driver_is_known_by_its_device_files(
    tmp_path: Path, names: tuple[str, ...], found: bool
) -> None:
    (tmp_path / "dev").mkdir()
    for name in names:
        (tmp_path / "dev" / name).touch()
    assert has_driver(tmp_path) is found


def test_where_there_is_no_dev_the_driver_itself_is_asked(tmp_path: Path) -> None:
    assert has_driver(tmp_path)
