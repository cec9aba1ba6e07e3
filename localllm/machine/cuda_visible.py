"""Which devices CUDA_VISIBLE_DEVICES leaves to a process.

The rules are the CUDA programming guide's ("Environment Variables"): a list of positions or of
identifiers that may be shortened; the first entry that names nothing ends the list, so "" and "-1"
hide every device.
"""

from collections.abc import Mapping, Sequence


def visible(environ: Mapping[str, str], identifiers: Sequence[str]) -> tuple[int, ...]:
    """Give the positions in `identifiers` ("GPU-...", "MIG-...") that CUDA shows, in its order."""
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return tuple(range(len(identifiers)))
    chosen: list[int] = []
    for entry in value.split(","):
        position = _position(entry.strip(), identifiers)
        if position is None or position in chosen:
            break
        chosen.append(position)
    return tuple(chosen)


def order_is_uncertain(environ: Mapping[str, str], names: Sequence[str]) -> bool:
    """Say whether a number in CUDA_VISIBLE_DEVICES may mean another device than NVML's.

    CUDA counts the fastest device first unless CUDA_DEVICE_ORDER=PCI_BUS_ID; NVML counts in bus
    order. With equal devices it makes no difference.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES", "")
    by_number = any(entry.strip().isdecimal() for entry in value.split(","))
    return by_number and len(set(names)) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _position(entry: str, identifiers: Sequence[str]) -> int | None:
    if entry.isdecimal() and len(entry) < 10:
        return int(entry) if int(entry) < len(identifiers) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [n for n, identifier in enumerate(identifiers) if identifier.startswith(entry)]
    return matches[0] if len(matches) == 1 else None
