from pathlib import Path

import pytest

from localllm.core.hardware import Backend, Device, DeviceKind, Memory
from localllm.machine.amd import read_amd
from tests.machine.trees import GIB, MIB, write_tree

RAM = Memory(total_bytes=32 * GIB, available_bytes=10 * GIB)
CARD_METRICS = bytes([120, 0, 1, 3])
APU_METRICS = bytes([136, 0, 2, 2])


def card(
    number: int,
    *,
    vram: int,
    vram_used: int = 0,
    gtt: int = 16 * GIB,
    gtt_used: int = 0,
    metrics: bytes | None = CARD_METRICS,
    device: str = "0x744c",
) -> dict[str, str | bytes]:
    base = f"sys/class/drm/card{number}/device"
    files: dict[str, str | bytes] = {
        f"{base}/vendor": "0x1002\n",
        f"{base}/device": f"{device}\n",
        f"{base}/product_name": "\n",
        f"{base}/mem_info_vram_total": f"{vram}\n",
        f"{base}/mem_info_vram_used": f"{vram_used}\n",
        f"{base}/mem_info_gtt_total": f"{gtt}\n",
        f"{base}/mem_info_gtt_used": f"{gtt_used}\n",
    }
    if metrics is not None:
        files[f"{base}/gpu_metrics"] = metrics + bytes(32)
    return files


def test_a_cards_memory_is_its_vram_alone(tmp_path: Path) -> None:
    root = write_tree(tmp_path, card(0, vram=24 * GIB, vram_used=2 * GIB))
    detected = read_amd(root, RAM)
    assert detected.warnings == ()
    assert detected.devices == (
        Device(
            kind=DeviceKind.GPU,
            name="AMD GPU 0x744c",
            backend=Backend.ROCM,
            total_bytes=24 * GIB,
            free_bytes=22 * GIB,
            driver="amdgpu",
        ),
    )


def test_an_apu_has_its_carve_out_and_gtt(tmp_path: Path) -> None:
    files = card(
        1, vram=4 * GIB, vram_used=GIB, gtt=14 * GIB, gtt_used=2 * GIB, metrics=APU_METRICS
    )
    (device,) = read_amd(write_tree(tmp_path, files), RAM).devices
    assert device.unified
    assert device.kind is DeviceKind.IGPU
    assert device.total_bytes == 18 * GIB
    # 3 of the carve-out, and of 12 GTT only what the system really has left
    assert device.free_bytes == 13 * GIB
    # the carve-out is no part of the system's memory
    assert (device.dedicated_bytes, device.dedicated_free_bytes) == (4 * GIB, 3 * GIB)


def test_a_carve_out_larger_than_the_systems_memory_is_all_there(tmp_path: Path) -> None:
    ram = Memory(total_bytes=31 * GIB, available_bytes=25 * GIB)
    files = card(
        1, vram=96 * GIB, vram_used=GIB, gtt=16 * GIB, metrics=bytes([8, 1, 3, 0]), device="0x1586"
    )
    (device,) = read_amd(write_tree(tmp_path, files), ram).devices
    assert (device.total_bytes, device.free_bytes) == (112 * GIB, 111 * GIB)
    assert (device.dedicated_bytes, device.dedicated_free_bytes) == (96 * GIB, 95 * GIB)


def test_without_metrics_a_small_carve_out_tells_an_apu(tmp_path: Path) -> None:
    files = {**card(0, vram=512 * MIB, metrics=None), **card(1, vram=8 * GIB, metrics=None)}
    kinds = [device.kind for device in read_amd(write_tree(tmp_path, files), RAM).devices]
    assert kinds == [DeviceKind.IGPU, DeviceKind.GPU]


def test_cards_come_in_numeric_order_and_connectors_are_not_cards(tmp_path: Path) -> None:
    files = {
        **card(10, vram=10 * GIB),
        **card(2, vram=2 * GIB),
        "sys/class/drm/card2-DP-1/device/vendor": "0x1002",
        "sys/class/drm/renderD128/device/vendor": "0x1002",
    }
    totals = [d.total_bytes for d in read_amd(write_tree(tmp_path, files), RAM).devices]
    assert totals == [2 * GIB, 10 * GIB]


def test_other_vendors_are_left_to_their_readers(tmp_path: Path) -> None:
    files = {"sys/class/drm/card0/device/vendor": "0x8086\n"}
    assert read_amd(write_tree(tmp_path, files), RAM).devices == ()


def test_a_server_board_names_itself(tmp_path: Path) -> None:
    files = {
        **card(0, vram=64 * GIB),
        "sys/class/drm/card0/device/product_name": "AMD Instinct MI210\n",
        "sys/module/amdgpu/version": "6.7.0\n",
    }
    (device,) = read_amd(write_tree(tmp_path, files), RAM).devices
    assert (device.name, device.driver) == ("AMD Instinct MI210", "amdgpu 6.7.0")


def test_a_consumer_card_is_named_from_the_list_of_pci_devices(tmp_path: Path) -> None:
    listing = (
        "# comment\n1001  Other\n\t744c  Not this\n1002  Advanced Micro Devices\n"
        "\t7448  Navi 31 PRO\n\t\t744c 1234  Not this either\n\t744c  Navi 31 [RX 7900]\n"
        "1003  Next\n"
    )
    files = {**card(0, vram=24 * GIB), "usr/share/misc/pci.ids": listing}
    (device,) = read_amd(write_tree(tmp_path, files), RAM).devices
    assert device.name == "AMD Navi 31 [RX 7900]"


def test_a_card_without_the_amdgpu_driver_is_a_warning(tmp_path: Path) -> None:
    files = {
        "sys/class/drm/card0/device/vendor": "0x1002",
        "sys/class/drm/card0/device/device": "0x6738",
    }
    detected = read_amd(write_tree(tmp_path, files), RAM)
    assert detected.devices == ()
    assert "AMD GPU 0x6738" in detected.warnings[0]
    assert "amdgpu" in detected.warnings[0]


@pytest.mark.parametrize("used", ["", "lots", "-5"])
def test_an_unreadable_use_leaves_free_unknown(tmp_path: Path, used: str) -> None:
    files = {**card(0, vram=8 * GIB), "sys/class/drm/card0/device/mem_info_vram_used": used}
    (device,) = read_amd(write_tree(tmp_path, files), RAM).devices
    assert (device.total_bytes, device.free_bytes) == (8 * GIB, None)


def test_without_sys_there_is_no_device(tmp_path: Path) -> None:
    assert read_amd(tmp_path, RAM).devices == ()
