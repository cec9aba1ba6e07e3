"""Intel's graphics cards on the PCI bus, so that a card the engine cannot use is noticed.

Their memory is known to the engine's own list only (`vulkan.py`). Integrated graphics are left to
that list altogether: nearly every laptop has one, and llama.cpp gains little from it.
"""

from pathlib import Path

from localllm.core.hardware import Backend, Device, DeviceKind
from localllm.machine.pci import INTEL, PciDisplay, product_name
from localllm.machine.reading import Reading

_INTEGRATED = "0000:00:02.0"
"""Where every integrated Intel GPU sits (Intel, "Processor Graphics" programming manuals: bus 0,
device 2, function 0); cards are behind a bridge."""


def read_intel(root: Path, displays: tuple[PciDisplay, ...]) -> Reading:
    """List Intel's graphics cards among the display controllers."""
    cards = (d for d in displays if d.vendor == INTEL and d.address != _INTEGRATED)
    return Reading(
        devices=tuple(
            Device(kind=DeviceKind.GPU, name=_name(root, card), backend=Backend.VULKAN)
            for card in cards
        )
    )


def _name(root: Path, card: PciDisplay) -> str:
    listed = product_name(root, INTEL, card.device)
    return f"Intel {listed}" if listed else f"Intel GPU {card.device:#06x}"
