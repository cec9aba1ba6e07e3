"""Headers of shared libraries of three systems, forged, real, cut off, and nonsense."""

import os
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.builds.candidates import chosen_candidate
from localllm.engine.builds.image import Image, image_problem, read_image


def elf(machine: int = 62, *, sections: int = 4096, count: int = 10) -> bytes:
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, machine, 1)
    head += struct.pack("<QQQIHHHHHH", 0, 64, sections, 0, 64, 56, 5, 64, count, 1)
    return head + bytes(sections + count * 64 - len(head))


def big_endian_elf() -> bytes:
    head = b"\x7fELF\x02\x02\x01" + bytes(9) + struct.pack(">HHI", 3, 22, 1)
    return head + struct.pack(">QQQIHHHHHH", 0, 64, 64, 0, 64, 56, 5, 64, 0, 1)


def elf32() -> bytes:
    head = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 40, 1)
    return head + struct.pack("<IIIIHHHHHH", 0, 52, 52, 0, 52, 32, 5, 40, 0, 1)


def pe(machine: int = 0x8664, *, data: int = 1024) -> bytes:
    coff = struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, 16, 0)
    section = struct.pack("<8sIIIIIIHHI", b".text", data, 0, data, 512, 0, 0, 0, 0, 0)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + bytes(16) + section
    return head + bytes(512 - len(head)) + bytes(data)


def macho(machine: int = 0x0100000C, *, data: int = 1000) -> bytes:
    segment = struct.pack("<II16sQQQQIIII", 0x19, 72, b"__TEXT", 0, data, 0, data, 0, 0, 0, 0)
    head = struct.pack("<IIIIIIII", 0xFEEDFACF, machine, 0, 6, 1, len(segment), 0, 0)
    return (head + segment).ljust(data, b"\0")


def fat(*machines: int) -> bytes:
    slices = b"".join(
        struct.pack(">IIIII", machine, 0, 4096 * (i + 1), 1000, 12)
        for i, machine in enumerate(machines)
    )
    head = struct.pack(">II", 0xCAFEBABE, len(machines)) + slices
    return head.ljust(4096 * len(machines) + 1000, b"\0")


def written(directory: Path, data: bytes) -> Path:
    path = directory / "libx.so"
    path.write_bytes(data)
    return path


X86 = Image(kind="ELF", machines=frozenset({"x86-64"}), size_bytes=0)


@pytest.mark.parametrize(
    ("data", "kind", "machines"),
    [
        (elf(), "ELF", {"x86-64"}),
        (elf(183), "ELF", {"arm64"}),
        (elf32(), "ELF", {"arm"}),
        (big_endian_elf(), "ELF", {"s390x"}),
        (elf(4711), "ELF", {"processor type 4711"}),
        (pe(), "PE", {"x86-64"}),
        (pe(0xAA64), "PE", {"arm64"}),
        (macho(), "Mach-O", {"arm64"}),
        (fat(0x01000007, 0x0100000C), "Mach-O", {"x86-64", "arm64"}),
    ],
)
def test_a_header_states_system_processor_and_length(
    data: bytes, kind: str, machines: set[str], tmp_path: Path
) -> None:
    path = written(tmp_path, data)
    image = read_image(path)
    assert image is not None
    assert image == Image(kind=kind, machines=frozenset(machines), size_bytes=len(data))
    assert image_problem(path, image) is None
    written(tmp_path, data[:-1])
    assert "truncated" in str(image_problem(path, image))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "libx.so is empty"),
        (b"#!/bin/sh\necho I am no library\n", "libx.so is not a shared library"),
        (b"\x7fELF", "libx.so is not a shared library"),
        (b"MZ" + bytes(100), "libx.so is not a shared library"),
        (b"\xca\xfe\xba\xbe\x00\x00\x00\x41", "libx.so is not a shared library"),  # Java 21
        (elf(183), "libx.so is for arm64, and this Python runs on x86-64"),
        (pe(), "libx.so is for Windows, not for Linux"),
        (macho(), "libx.so is for macOS, not for Linux"),
        (elf()[:3000], "libx.so is truncated: it has 3000 of at least 4736 bytes"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_the_reason(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    assert image_problem(written(tmp_path, data), X86) == problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "libx.so")
    assert image_problem(tmp_path / "libx.so", X86) == "libx.so is not a file"


def test_a_file_that_is_not_there_is_a_problem_and_no_error(tmp_path: Path) -> None:
    assert "cannot be read" in str(image_problem(tmp_path / "none.so", X86))


@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda head, rest: head + rest,
            st.sampled_from([b"\x7fELF\x02\x01", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"]),
            st.binary(max_size=200),
        ),
    )
)
def test_no_bytes_are_an_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    image_problem(written(tmp_path_factory.getbasetemp(), data), X86)


def test_the_engine_and_this_python_are_for_the_same_machine() -> None:
    python = read_image(Path(sys.executable))
    assert python is not None
    for path in chosen_candidate().files().libraries.values():
        assert image_problem(path, python) is None
