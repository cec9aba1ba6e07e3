"""The worker's seccomp filter: as data in an interpreter, and in the kernel of this machine."""

import errno
import json
import platform
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.client.client import ProcessEngine
from localllm.engine.worker.seccomp import (
    ALLOW,
    JUMP_AT_LEAST,
    JUMP_EQUAL,
    LOAD_WORD,
    REFUSE,
    RETURN,
    TABLES,
    Instruction,
    filter_program,
    network_access,
)

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in TABLES,
    reason="seccomp is a facility of Linux",
)

AUDIT_ARCH_I386 = 0x40000003
UINT32 = st.integers(0, 2**32 - 1)


def run_filter(program: Sequence[Instruction], data: bytes) -> int:
    """Do what the kernel does with a filter; an unknown instruction is an error."""
    accumulator, position = 0, 0
    while True:
        step = program[position]
        position += 1
        match step.code:
            case code if code == LOAD_WORD:
                (accumulator,) = struct.unpack_from("<I", data, step.operand)
            case code if code == JUMP_EQUAL:
                position += step.if_true if accumulator == step.operand else step.if_false
            case code if code == JUMP_AT_LEAST:
                position += step.if_true if accumulator >= step.operand else step.if_false
            case code if code == RETURN:
                return step.operand
            case _:
                raise AssertionError(step)


def seccomp_data(number: int, arch: int, *arguments: int) -> bytes:
    padded = (*arguments, *[0] * (6 - len(arguments)))
    return struct.pack("<IIQ6Q", number, arch, 0x7FFF12345678, *padded)


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    table = TABLES[machine]
    data = seccomp_data(number, table.audit_arch if arch is None else arch, *arguments)
    return run_filter(filter_program(table), data)


@pytest.mark.parametrize("machine", sorted(TABLES))
@pytest.mark.parametrize(
    ("family", "expected"),
    [("AF_UNIX", ALLOW), ("AF_INET", REFUSE), ("AF_INET6", REFUSE), ("AF_PACKET", REFUSE)],
)
def test_sockets_are_allowed_by_their_family(machine: str, family: str, expected: int) -> None:
    families = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_PACKET": 17}
    for number in TABLES[machine].sockets:
        assert verdict(machine, number, families[family], 1, 0) == expected


@pytest.mark.parametrize("machine", sorted(TABLES))
@given(number=UINT32, family=UINT32, arch=st.one_of(st.none(), UINT32))
def test_the_filter_refuses_what_the_table_says_and_nothing_else(
    machine: str, number: int, family: int, arch: int | None
) -> None:
    table = TABLES[machine]
    foreign = arch is not None and arch != table.audit_arch
    other_convention = table.foreign_from is not None and number >= table.foreign_from
    refused = foreign or other_convention or number in table.refused
    network = number in table.sockets and family != 1
    expected = REFUSE if refused or network else ALLOW
    assert verdict(machine, number, family, arch=arch) == expected


@pytest.mark.parametrize("machine", sorted(TABLES))
def test_every_call_that_the_table_names_is_decided(machine: str) -> None:
    for number in TABLES[machine].refused:
        assert verdict(machine, number, 1) == REFUSE
    assert verdict(machine, 0, 2) == ALLOW
    assert verdict(machine, 102, 1, arch=AUDIT_ARCH_I386) == REFUSE  # its socketcall


@pytest.mark.parametrize("machine", sorted(TABLES))
def test_no_jump_leaves_the_program(machine: str) -> None:
    program = filter_program(TABLES[machine])
    assert all(
        position + 1 + max(step.if_true, step.if_false) < len(program)
        for position, step in enumerate(program)
        if step.code != RETURN
    )
    assert all(len(step.encode()) == 8 for step in program)


PROBE = """
    import ctypes, json, os, socket, subprocess, sys, threading
    from localllm.engine.worker import seccomp

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
        return ctypes.get_errno()

    def open_socket(family, kind=socket.SOCK_STREAM):
        try:
            socket.socket(family, kind).close()
        except OSError as error:
            return error.errno
        return 0

    go, seen = threading.Event(), {}

    def in_a_thread():
        go.wait()
        seen["thread"] = open_socket(socket.AF_INET)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    seen["before"] = open_socket(socket.AF_INET)
    seccomp.restrict()
    go.set()
    thread.join()
    seen["inet"] = open_socket(socket.AF_INET)
    seen["inet6"] = open_socket(socket.AF_INET6, socket.SOCK_DGRAM)
    seen["netlink"] = open_socket(socket.AF_NETLINK, socket.SOCK_RAW)
    seen["unix"] = open_socket(socket.AF_UNIX)
    first, second = socket.socketpair()
    first.sendall(b"pair")
    seen["pair"] = second.recv(4).decode()
    table = seccomp.TABLES[os.uname().machine]
    seen["refused"] = [call(number, 0, 0, 0, 0, 0, 0) for number in table.refused]
    seen["foreign"] = None
    if table.foreign_from is not None:
        seen["foreign"] = call(table.foreign_from | table.sockets[0], 2, 1, 0)
    child = "import socket; socket.socket(socket.AF_INET)"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    seen["child"] = "PermissionError" in done.stderr
    access = seccomp.network_access()
    seen["access"] = [access.blocked, access.detail]
    seccomp.restrict()  # a second filter on top changes nothing
    seen["again"] = [open_socket(socket.AF_INET), open_socket(socket.AF_UNIX)]
    print(json.dumps(seen))
"""


@linux_only
def test_the_kernel_refuses_network_sockets_in_every_thread_and_child() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROBE)], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    table = TABLES[platform.machine()]
    assert seen == {
        "before": 0,
        "thread": errno.EPERM,
        "inet": errno.EPERM,
        "inet6": errno.EPERM,
        "netlink": errno.EPERM,
        "unix": 0,
        "pair": "pair",
        "refused": [errno.EPERM] * len(table.refused),
        "foreign": errno.EPERM if table.foreign_from is not None else None,
        "child": True,
        "access": [True, "socket() refused by the kernel (seccomp)"],
        "again": [errno.EPERM, 0],
    }


@linux_only
async def test_the_worker_says_that_it_cannot_open_a_socket(tmp_path) -> None:  # type: ignore[no-untyped-def]
    engine = ProcessEngine(log_dir=tmp_path)
    try:
        build = await engine.describe()
    finally:
        await engine.close()
    assert build.network is not None
    assert build.network.blocked
    assert build.network.detail == "socket() refused by the kernel (seccomp)"


def test_a_process_that_can_open_one_says_which() -> None:
    def only_ipv4(family: int) -> None:
        if family != socket.AF_INET:
            raise PermissionError(errno.EPERM, "refused")

    access = network_access(only_ipv4, "linux")
    assert not access.blocked
    assert "IPv4 sockets" in access.detail
    assert "IPv6" not in access.detail


def test_a_machine_without_ipv6_is_not_a_blocked_one() -> None:
    def unknown_family(family: int) -> None:
        raise OSError(errno.EAFNOSUPPORT, "no such family")

    assert not network_access(unknown_family, "linux").blocked


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_other_systems_say_that_nothing_restricts_them(system: str) -> None:
    def never(family: int) -> None:
        raise AssertionError(family)

    access = network_access(never, system)
    assert not access.blocked
    assert access.detail.startswith("not restricted: ")
