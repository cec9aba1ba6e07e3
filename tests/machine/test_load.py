"""How busy the machine is, read from files and devices that are given."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from localllm.machine.load import LoadReader, load_of_amd
from localllm.machine.nvidia import load_of_nvidia
from localllm.machine.readings import Battery, read_battery
from tests.machine.fake_nvml import FakeGpu, FakeNvml, Refused
from tests.machine.trees import write_tree

ENERGY = "sys/class/powercap/intel-rapl:0/energy_uj"


def test_the_busiest_nvidia_gpu_counts_and_silent_ones_are_left_out() -> None:
    nvml = FakeNvml(
        FakeGpu(lost=True),
        FakeGpu(),  # as a MIG device: no load, no power
        FakeGpu(load_percent=30, power_mw=90_000),
        FakeGpu(load_percent=97),
    )
    assert load_of_nvidia(nvml) == (0.97, None)
    assert not nvml.open
    assert load_of_nvidia(FakeNvml(FakeGpu(load_percent=5, power_mw=31_500))) == (0.05, 31.5)
    assert load_of_nvidia(FakeNvml(FakeGpu())) is None
    assert load_of_nvidia(FakeNvml(broken=Refused("Driver Not Loaded"))) is None
    assert load_of_nvidia(None) is None


def test_the_load_and_power_of_amd_gpus_are_those_of_their_files(tmp_path: Path) -> None:
    assert load_of_amd(tmp_path) == (None, None)
    drm = "sys/class/drm"
    root = write_tree(
        tmp_path,
        {
            f"{drm}/card0/device/gpu_busy_percent": "12\n",
            f"{drm}/card1/device/gpu_busy_percent": "88\n",
            f"{drm}/card1/device/hwmon/hwmon3/power1_average": "45000000\n",
            f"{drm}/card2/device/gpu_busy_percent": "damaged\n",
        },
    )
    assert load_of_amd(root) == (0.88, 45.0)


def test_the_power_of_the_processor_is_energy_by_time(tmp_path: Path) -> None:
    now_s = 100.0
    reader = LoadReader(tmp_path, clock=lambda: now_s)
    assert reader.read(gpu=False).cpu_watts is None  # there is no counter
    write_tree(tmp_path, {ENERGY: "1000000\n"})
    assert reader.read(gpu=False).cpu_watts is None  # the first look
    now_s = 102.0
    write_tree(tmp_path, {ENERGY: "31000000\n"})
    load = reader.read(gpu=False)
    assert load.cpu_watts == pytest.approx(15.0)
    assert load.cpu is not None
    assert 0 <= load.cpu <= 1
    assert (load.gpu, load.gpu_watts) == (None, None)
    write_tree(tmp_path, {ENERGY: "5\n"})
    assert reader.read(gpu=False).cpu_watts is None  # the counter began again


@pytest.mark.parametrize(
    ("found", "battery"),
    [
        (None, Battery()),
        (SimpleNamespace(percent=80, power_plugged=True), Battery(percent=80, on_battery=False)),
        (SimpleNamespace(percent=9, power_plugged=False), Battery(percent=9, on_battery=True)),
        (SimpleNamespace(percent=50, power_plugged=None), Battery(percent=50)),
    ],
)
def test_a_battery_is_known_as_far_as_the_system_knows_it(
    found: object, battery: Battery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: found, raising=False)
    assert read_battery() == battery


def test_a_system_without_a_reader_of_batteries_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert read_battery() == Battery()
