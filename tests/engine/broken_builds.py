"""Copies of the engine with one thing wrong, made by changing bytes of its libraries."""

import ctypes
import os
import shutil
import struct
from pathlib import Path

from localllm.engine.builds.candidates import Candidate
from localllm.engine.worker.binding.libraries import loaded

ILLEGAL = b"\x0f\x0b"  # ud2 (x86-64)
RETURN = b"\xc3"


def copy_of_engine(directory: Path) -> Path:
    """Copy the libraries of the engine, with its modules beside them."""
    files = loaded().candidate.files()
    modules = [p for p in files.all_files() if p.parent == files.modules and _is_cpu(p)]
    for path in (*files.libraries.values(), *modules):
        shutil.copyfile(path, directory / path.name)
    return directory


def _is_cpu(path: Path) -> bool:
    return "ggml-cpu" in path.name


def backend(directory: Path) -> Path:
    """Return the copy of the processor's backend."""
    return next(filter(_is_cpu, sorted(directory.iterdir())))


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def candidate(directory: Path) -> Candidate:
    return Candidate(name=str(directory), directory=directory)


def library(directory: Path, role: str) -> Path:
    """Return the copy of the library of a role."""
    return directory / loaded().candidate.files().libraries[role].name


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def replace_function(directory: Path, role: str, name: str, code: bytes) -> None:
    """Let a function of a copy begin with other instructions."""
    write_at(library(directory, role), _place(role, name)[1], code)


def jump(role: str, source: str, target: str) -> bytes:
    """Return the instruction (x86-64) that goes from the beginning of one function to another."""
    distance = _place(role, target)[0] - (_place(role, source)[0] + 5)
    return b"\xe9" + struct.pack("<i", distance)


def _place(role: str, name: str) -> tuple[int, int]:
    """Return where a function is: in this process, and in its file (Linux)."""
    function = loaded().handles[role][name]
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, *_ = line.split()
        start, end = (int(each, 16) for each in span.split("-"))
        if start <= address < end:
            return address, address - start + int(offset, 16)
    raise AssertionError(f"{name} is in no file")


def rename_function(directory: Path, role: str, name: str) -> None:
    """Let a library export a function under another name of the same length."""
    path = library(directory, role)
    data = path.read_bytes()
    old = b"\0" + name.encode() + b"\0"
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, old[:-2] + b"Z\0"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
