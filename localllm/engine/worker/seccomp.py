"""The worker's seccomp filter: the process that reads prompts cannot open a network socket.

The filter is a classic BPF program that the Linux kernel runs before each system call (seccomp(2)).
It is pure data made by `filter_program`; `restrict` hands it to the kernel for every thread, and no
thread or child process can take it off again.
Windows and macOS have nothing that a process can impose on itself without being packaged for it
(AppContainer, App Sandbox): there the worker is not restricted, and says so.
"""

import ctypes
import platform
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from localllm.core.hardware import NetworkAccess

AF_UNIX = 1

# linux/filter.h, linux/bpf_common.h
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data (linux/seccomp.h). Arguments are 64 bits wide, little-endian.
SYSCALL_NUMBER = 0
ARCHITECTURE = 4
FIRST_ARGUMENT = 16

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
EPERM = 1
REFUSE = 0x00050000 | EPERM  # SECCOMP_RET_ERRNO

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1  # for the threads that native libraries have started already


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallTable:
    """The numbers of one architecture's system calls (asm/unistd.h).

    `sockets` are allowed for AF_UNIX alone; `refused` never: they make sockets or reach into
    another process, which might have one. Numbers from `foreign_from` belong to another calling
    convention of the same processor (x32), whose calls would pass by their other numbers.
    """

    audit_arch: int  # AUDIT_ARCH_* (linux/audit.h)
    seccomp: int
    sockets: tuple[int, ...]  # socket, socketpair
    refused: tuple[int, ...]
    foreign_from: int | None = None


_IO_URING = (425, 426, 427)  # io_uring_setup, _enter, _register: opens sockets by itself
_PIDFD_GETFD = (438,)  # copies a descriptor out of another process

TABLES = {
    "x86_64": SyscallTable(
        audit_arch=0xC000003E,
        seccomp=317,
        sockets=(41, 53),
        # ptrace, process_vm_readv, process_vm_writev
        refused=(101, 310, 311, *_IO_URING, *_PIDFD_GETFD),
        foreign_from=0x40000000,
    ),
    "aarch64": SyscallTable(
        audit_arch=0xC00000B7,
        seccomp=277,
        sockets=(198, 199),
        refused=(117, 270, 271, *_IO_URING, *_PIDFD_GETFD),
    ),
}
"""By `platform.machine()`."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """struct sock_filter. A jump skips `if_true` or `if_false` of the next instructions."""

    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0

    def encode(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.operand)


def filter_program(table: SyscallTable) -> tuple[Instruction, ...]:
    """Write the filter of one architecture; a call that it does not name is allowed.

    Calls by the convention of another architecture (32-bit ones on a 64-bit kernel) are refused as
    a whole: their numbers mean something else.
    """
    foreign = [] if table.foreign_from is None else [table.foreign_from]
    # The positions of the last five instructions, where the jumps go.
    allowed = 3 + len(foreign) + len(table.refused) + len(table.sockets)
    argument, refuse = allowed + 1, allowed + 4
    program = [
        Instruction(LOAD_WORD, ARCHITECTURE),
        Instruction(JUMP_EQUAL, table.audit_arch, if_false=refuse - 2),
        Instruction(LOAD_WORD, SYSCALL_NUMBER),
    ]
    for number in foreign:
        program.append(Instruction(JUMP_AT_LEAST, number, if_true=refuse - len(program) - 1))
    for number in table.refused:
        program.append(Instruction(JUMP_EQUAL, number, if_true=refuse - len(program) - 1))
    for number in table.sockets:
        program.append(Instruction(JUMP_EQUAL, number, if_true=argument - len(program) - 1))
    program += [
        Instruction(RETURN, ALLOW),
        Instruction(LOAD_WORD, FIRST_ARGUMENT),
        Instruction(JUMP_EQUAL, AF_UNIX, if_false=1),
        Instruction(RETURN, ALLOW),
        Instruction(RETURN, REFUSE),
    ]
    return tuple(program)


def restrict(system: str = sys.platform, machine: str | None = None) -> None:
    """Install the filter for all threads of this process, where there is one for it.

    Never raises: a kernel that refuses the filter leaves the process as it was, and
    `network_access` says so.
    """
    table = TABLES.get(machine or platform.machine())
    if not system.startswith("linux") or table is None or sys.byteorder != "little":
        return
    program = filter_program(table)
    instructions = ctypes.create_string_buffer(b"".join(each.encode() for each in program))
    header = _SockFprog(len(program), ctypes.addressof(instructions))
    with suppress(OSError, AttributeError):  # no C library, or one without these functions
        libc = ctypes.CDLL(None)
        # Without it only root may install a filter; and no setuid program gets its rights back.
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            libc.syscall(
                ctypes.c_long(table.seccomp),
                ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER),
                ctypes.c_ulong(_SECCOMP_FILTER_FLAG_TSYNC),
                ctypes.byref(header),
            )


def network_access(
    open_socket: Callable[[int], None] | None = None, system: str = sys.platform
) -> NetworkAccess:
    """Try to open network sockets in this process, and report what came of it."""
    unrestricted = _UNRESTRICTED.get(system)
    if unrestricted is not None:
        return NetworkAccess(blocked=False, detail=unrestricted)
    opened = [
        name
        for name, family in (("IPv4", socket.AF_INET), ("IPv6", socket.AF_INET6))
        if not _refused(family, open_socket or _open_socket)
    ]
    if opened:
        return NetworkAccess(
            blocked=False,
            detail=f"not restricted: this process can open {' and '.join(opened)} sockets, for "
            "there is no seccomp filter for this kernel or processor",
        )
    return NetworkAccess(blocked=True, detail="socket() refused by the kernel (seccomp)")


_UNRESTRICTED = {
    "win32": "not restricted: Windows has no filter that a process can put on itself",
    "darwin": "not restricted: macOS has no supported filter that a process can put on itself",
}


def _open_socket(family: int) -> None:
    socket.socket(family, socket.SOCK_STREAM).close()


def _refused(family: int, open_socket: Callable[[int], None]) -> bool:
    """Return True only for the filter's own refusal: a machine without IPv6 refuses it too, with
    another error, and may allow it later."""
    try:
        open_socket(family)
    except OSError as error:
        return error.errno == EPERM
    return False


class _SockFprog(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))
