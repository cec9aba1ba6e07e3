"""Graphics devices on the PCI bus, as Linux shows them with or without a driver.

This is how a GPU is noticed whose driver is missing or broken, and where a card gets a name when
its driver has none for it. Intel's cards are read from here alone: their memory is known to the
engine's own list only (`vulkan.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localllm.core.hardware import Backend, DetectedDevices, Device, DeviceKind

NVIDIA = 0x10DE
AMD = 0x1002
INTEL = 0x8086

_DISPLAY_CLASS = 0x03  # PCI base class "display controller": VGA, 3D, other
_NAME_LISTS = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDisplay:
    """One display controller; `address` is "0000:01:00.0"."""

    address: str
    vendor: int
    device: int


def read_displays(root: Path) -> tuple[PciDisplay, ...]:
    """List display controllers in bus order; () where /sys does not show the bus."""
    entries = sorted((root / "sys/bus/pci/devices").glob("*"))
    displays = (_display(entry) for entry in entries)
    return tuple(display for display in displays if display is not None)


def read_hex(file: Path) -> int | None:
    """Read a file that holds one hexadecimal number ("0x10de")."""
    try:
        return int(file.read_text(encoding="ascii").strip(), 16)
    except (OSError, ValueError):
        return None


def product_name(root: Path, vendor: int, device: int) -> str | None:
    """Look a device up in the system's copy of pci.ids (pci-ids.ucw.cz), if it has one."""
    for name in _NAME_LISTS:
        try:
            with (root / name).open(encoding="utf-8", errors="replace") as lines:
                return _find_name(lines, vendor, device)
        except OSError:
            continue
    return None


def _display(entry: Path) -> PciDisplay | None:
    device_class = read_hex(entry / "class")
    vendor, device = read_hex(entry / "vendor"), read_hex(entry / "device")
    if device_class is None or vendor is None or device is None:
        return None
    if device_class >> 16 != _DISPLAY_CLASS:
        return None
    return PciDisplay(address=entry.name, vendor=vendor, device=device)


def _find_name(lines: Iterable[str], vendor: int, device: int) -> str | None:
    """Walk "vendor", "<tab>device name" lines; subsystems ("<tab><tab>") are skipped."""
    inside = False
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith("\t"):
            if inside:
                return None
            inside = line[:4].lower() == f"{vendor:04x}"
        elif inside and not line.startswith("\t\t") and line[1:5].lower() == f"{device:04x}":
            return line[5:].strip()
    return None


_INTEGRATED_INTEL = "0000:00:02.0"
"""The address of every integrated Intel GPU (Intel, "Processor Graphics" programming manuals: bus
0, device 2, function 0); cards are behind a bridge."""


def read_intel(root: Path, displays: tuple[PciDisplay, ...]) -> DetectedDevices:
    """List Intel's graphics cards, so that one the engine cannot use is noticed.

    Integrated graphics are left to the engine's list: nearly every laptop has one, and llama.cpp
    gains little from it.
    """
    cards = (d for d in displays if d.vendor == INTEL and d.address != _INTEGRATED_INTEL)
    return DetectedDevices(
        devices=tuple(
            Device(kind=DeviceKind.GPU, name=_name(root, card), backend=Backend.VULKAN)
            for card in cards
        )
    )


def _name(root: Path, card: PciDisplay) -> str:
    listed = product_name(root, INTEL, card.device)
    return f"Intel {listed}" if listed else f"Intel GPU {card.device:#06x}"
