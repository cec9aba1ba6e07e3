"""The header of a shared library: which system and processor it is for, and whether it is whole.

Read before it is loaded, because the system's own words are poor ("cannot open shared object file:
No such file or directory" for a library of another processor), and because a truncated one ends
the process that maps it with SIGBUS. Formats after elf.h, Microsoft's PE specification and Apple's
mach-o/loader.h.
"""

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

_ELF_MACHINES = MappingProxyType(
    {3: "x86", 40: "arm", 62: "x86-64", 183: "arm64", 243: "riscv", 21: "ppc64", 22: "s390x"}
)
_PE_MACHINES = MappingProxyType({0x14C: "x86", 0x8664: "x86-64", 0xAA64: "arm64", 0x1C4: "arm"})
_MACHO_MACHINES = MappingProxyType({7: "x86", 0x01000007: "x86-64", 12: "arm", 0x0100000C: "arm64"})

_ELF, _PE, _MACHO = "ELF", "PE", "Mach-O"
_SYSTEMS = MappingProxyType({_ELF: "Linux", _PE: "Windows", _MACHO: "macOS"})
_MACHO_SEGMENT_64 = 0x19
_MOST_COMMANDS, _MOST_SECTIONS = 4096, 96  # PE's own limit; a library has some dozens of commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a header states. `size_bytes` is the least length of the whole file."""

    kind: str
    machines: frozenset[str]
    size_bytes: int


def read_image(path: Path) -> Image | None:
    """Read a library's header; None for a file that is none, or whose header is cut off.

    Raises OSError.
    """
    with path.open("rb") as file:
        try:
            return _image(file, 0)
        except (struct.error, IndexError):
            return None


def image_problem(path: Path, like: Image | None) -> str | None:
    """Say why the library cannot be loaded into a process whose program is `like`; None when
    nothing speaks against it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a named pipe would be waited for
            return f"{path.name} is not a file"
        size, image = status.st_size, read_image(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if size == 0:
        return f"{path.name} is empty"
    if image is None:
        return f"{path.name} is not a shared library"
    if size < image.size_bytes:
        return f"{path.name} is truncated: it has {size} of at least {image.size_bytes} bytes"
    if like is not None and image.kind != like.kind:
        return f"{path.name} is for {_SYSTEMS[image.kind]}, not for {_SYSTEMS[like.kind]}"
    if like is not None and not image.machines & like.machines:
        return f"{path.name} is for {_names(image)}, and this Python runs on {_names(like)}"
    return None


def _names(image: Image) -> str:
    return " and ".join(sorted(image.machines)) or "another processor"


def _image(file: BinaryIO, start: int) -> Image | None:
    file.seek(start)
    magic = file.read(4)
    if magic == b"\x7fELF":
        return _elf(file)
    if magic[:2] == b"MZ":
        return _pe(file)
    if magic == b"\xcf\xfa\xed\xfe":  # MH_MAGIC_64, little-endian
        return _macho(file, start)
    if magic == b"\xca\xfe\xba\xbe":  # FAT_MAGIC
        return _fat(file)
    return None


def _elf(file: BinaryIO) -> Image | None:
    """The section headers stand at the end of a file: it is as long as where they end."""
    file.seek(0)
    ident = file.read(16)
    order = {1: "<", 2: ">"}.get(ident[5])
    if order is None:
        return None
    wide = ident[4] == 2
    _, machine, _ = struct.unpack(f"{order}HHI", file.read(8))
    file.seek(0x28 if wide else 0x20)
    (sections,) = struct.unpack(f"{order}Q" if wide else f"{order}I", file.read(8 if wide else 4))
    file.seek(0x3A if wide else 0x2E)
    entry, count = struct.unpack(f"{order}HH", file.read(4))
    return Image(
        kind=_ELF,
        machines=_machines(_ELF_MACHINES, machine),
        size_bytes=sections + entry * count,
    )


def _pe(file: BinaryIO) -> Image | None:
    file.seek(0x3C)
    (at,) = struct.unpack("<I", file.read(4))
    file.seek(at)
    if file.read(4) != b"PE\0\0":
        return None
    machine, sections, optional = struct.unpack("<HH12xH2x", file.read(20))
    file.seek(at + 24 + optional)
    ends = [0]
    for _ in range(min(sections, _MOST_SECTIONS)):
        size, offset = struct.unpack("<16xII16x", file.read(40))
        ends.append(offset + size)
    return Image(kind=_PE, machines=_machines(_PE_MACHINES, machine), size_bytes=max(ends))


def _macho(file: BinaryIO, start: int) -> Image:
    file.seek(start + 4)
    machine, commands = struct.unpack("<I8xI12x", file.read(28))
    at, ends = start + 32, [0]
    for _ in range(min(commands, _MOST_COMMANDS)):
        file.seek(at)
        command, length = struct.unpack("<II", file.read(8))
        if command == _MACHO_SEGMENT_64:
            offset, size = struct.unpack("<32xQQ", file.read(48))
            ends.append(start + offset + size)
        at += length
    return Image(kind=_MACHO, machines=_machines(_MACHO_MACHINES, machine), size_bytes=max(ends))


def _fat(file: BinaryIO) -> Image | None:
    """Several images in one file, each for a processor."""
    (count,) = struct.unpack(">I", file.read(4))
    if not 0 < count < 20:  # the magic is also that of a Java class, where this is its version
        return None
    machines, ends = set[str](), [0]
    for _ in range(count):
        machine, offset, size = struct.unpack(">I4xII4x", file.read(20))
        machines |= _machines(_MACHO_MACHINES, machine)
        ends.append(offset + size)
    return Image(kind=_MACHO, machines=frozenset(machines), size_bytes=max(ends))


def _machines(names: Mapping[int, str], machine: int) -> frozenset[str]:
    return frozenset({names.get(machine, f"processor type {machine}")})
