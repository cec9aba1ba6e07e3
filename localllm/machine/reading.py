"""What a reader of devices hands back: devices, and sentences about what it could not read."""

from dataclasses import dataclass

from localllm.core.hardware import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Devices in the reader's order; a missing device is no device, never an error."""

    devices: tuple[Device, ...] = ()
    warnings: tuple[str, ...] = ()
