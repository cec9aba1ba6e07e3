"""AMD devices through the files of the `amdgpu` driver in /sys/class/drm; no ROCm is needed.

An APU computes in the system's memory: a carve-out that the firmware took away from the system
("VRAM") and pages that the driver may take from the rest ("GTT"). Both count. A card's GTT is
system memory behind the bus and does not.
"""

import re
from pathlib import Path

from localllm.core.hardware import Backend, DetectedDevices, Device, DeviceKind, Memory
from localllm.machine.cgroup import read_number
from localllm.machine.pci import AMD, product_name, read_hex

_APU_METRICS = (2, 3)
"""Format revisions of `gpu_metrics` that APUs write; cards write 1 (Linux, kgd_pp_interface.h)."""

_LARGEST_UNNAMED_CARVE_OUT = 1 << 30
"""Without gpu_metrics a device with at most 1 GiB is taken for an APU: no card that llama.cpp can
use has so little, and most firmware takes 512 MiB."""


def read_amd(root: Path, ram: Memory) -> DetectedDevices:
    """List the devices that the amdgpu driver drives."""
    cards = sorted(
        (
            card
            for card in (root / "sys/class/drm").glob("card*")
            if re.fullmatch(r"card\d+", card.name)
        ),
        key=lambda card: int(card.name[4:]),
    )
    driver = _driver(root)
    detected = [_read_card(root, card / "device", driver, ram) for card in cards]
    return DetectedDevices(
        devices=tuple(device for each in detected for device in each.devices),
        warnings=tuple(warning for each in detected for warning in each.warnings),
    )


def _read_card(root: Path, device: Path, driver: str, ram: Memory) -> DetectedDevices:
    if read_hex(device / "vendor") != AMD:
        return DetectedDevices()
    name = _name(root, device)
    vram, vram_used = _pair(device, "vram")
    gtt, gtt_used = _pair(device, "gtt")
    if vram is None:
        return DetectedDevices(
            warnings=(
                f"{name} is in this machine, but its driver does not tell its memory: it needs "
                "the kernel driver amdgpu.",
            )
        )
    carve_out, free = vram, _left(vram, vram_used)
    carve_out_free = free
    is_apu = _is_apu(device, vram)
    if is_apu and gtt is not None:
        vram += gtt
        shared = _left(gtt, gtt_used)
        if free is not None and shared is not None:
            free += min(shared, ram.available_bytes)
    found = Device(
        kind=DeviceKind.IGPU if is_apu else DeviceKind.GPU,
        name=name,
        backend=Backend.ROCM,
        total_bytes=vram,
        free_bytes=free,
        unified=is_apu,
        dedicated_bytes=carve_out if is_apu else None,
        dedicated_free_bytes=carve_out_free if is_apu else None,
        driver=driver,
    )
    return DetectedDevices(devices=(found,))


def _pair(device: Path, pool: str) -> tuple[int | None, int | None]:
    """Read a memory pool's total and used bytes."""
    return (
        read_number(device / f"mem_info_{pool}_total"),
        read_number(device / f"mem_info_{pool}_used"),
    )


def _left(total: int, used: int | None) -> int | None:
    return None if used is None else max(total - used, 0)


def _is_apu(device: Path, vram_bytes: int) -> bool:
    try:
        with (device / "gpu_metrics").open("rb") as metrics:
            header = metrics.read(4)  # u16 size, u8 format revision, u8 content revision
    except OSError:
        header = b""
    if len(header) == 4:
        return header[2] in _APU_METRICS
    return vram_bytes <= _LARGEST_UNNAMED_CARVE_OUT


def _name(root: Path, device: Path) -> str:
    """`product_name` is filled on server boards only; consumer cards are in pci.ids."""
    try:
        own = (device / "product_name").read_text(errors="replace").strip()
    except OSError:
        own = ""
    number = read_hex(device / "device")
    if own or number is None:
        return own or "AMD GPU"
    listed = product_name(root, AMD, number)
    return f"AMD {listed}" if listed else f"AMD GPU {number:#06x}"


def _driver(root: Path) -> str:
    """The version exists for AMD's packaged driver only; the kernel's own has none."""
    try:
        version = (root / "sys/module/amdgpu/version").read_text(errors="replace").strip()
    except OSError:
        return "amdgpu"
    return f"amdgpu {version}" if version else "amdgpu"
