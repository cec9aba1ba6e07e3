"""The sources that a machine is read from, in one value, so that a test can describe another."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from localllm.machine.apple import RunCommand
from localllm.machine.memory import SystemMemory
from localllm.machine.nvidia import Nvml, has_driver, load_nvml

_COMMAND_TIMEOUT_S = 5.0  # sysctl answers in milliseconds; a hanging one must not hang us


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """`system` is "Linux", "Darwin" or "Windows", `machine` "x86_64" or "arm64", `root` where /proc
    and /sys are. `processor_name`, `has_processor_feature` and `core_information` are asked on
    Windows only."""

    system: str
    machine: str
    root: Path
    environ: Mapping[str, str]
    system_memory: Callable[[], SystemMemory]
    address_space_limit: Callable[[], int | None]
    allowed_cpus: Callable[[], frozenset[int] | None]
    physical_cores: Callable[[], int | None]
    processor_name: Callable[[], str]
    has_processor_feature: Callable[[int], bool]
    run: RunCommand
    load_nvml: Callable[[], Nvml | None]
    has_nvidia_driver: Callable[[], bool] = lambda: True
    core_information: Callable[[], bytes] = bytes
    installed_bytes: Callable[[], int | None] = lambda: None

    @classmethod
    def of_this_machine(cls) -> "Sources":
        return cls(
            system=platform.system(),
            machine=platform.machine(),
            root=Path("/"),
            environ=os.environ,
            system_memory=_system_memory,
            address_space_limit=_address_space_limit,
            allowed_cpus=_allowed_cpus,
            physical_cores=_physical_cores,
            processor_name=_processor_name,
            has_processor_feature=_has_processor_feature,
            run=_run,
            load_nvml=load_nvml,
            core_information=_core_information,
            has_nvidia_driver=lambda: has_driver(Path("/")),
            installed_bytes=_installed_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _KernelMemory:
    total: int
    available: int


def _system_memory() -> SystemMemory:
    """Read system memory through psutil (/proc), or in a sandbox without it from the kernel.

    Raises OSError when neither answers.
    """
    try:
        memory = psutil.virtual_memory()
        return _KernelMemory(total=memory.total, available=memory.available)
    except (OSError, psutil.Error):
        if sys.platform == "win32":
            raise
        try:
            page = os.sysconf("SC_PAGE_SIZE")
            return _KernelMemory(
                total=os.sysconf("SC_PHYS_PAGES") * page,
                available=os.sysconf("SC_AVPHYS_PAGES") * page,
            )
        except ValueError as error:  # macOS does not know the names
            raise OSError(str(error)) from error


def _installed_bytes() -> int | None:
    """Return the memory that is built in, by the firmware's tables; None where nobody tells."""
    if sys.platform == "win32":
        import ctypes

        kib = ctypes.c_ulonglong()
        if ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib)):
            return kib.value * 1024
    return None


def _address_space_limit() -> int | None:
    """Return RLIMIT_AS in bytes, None when unlimited or when the system has no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY or soft < 0 else soft


def _allowed_cpus() -> frozenset[int] | None:
    """Return the processor threads this process is pinned to; None where unknown (macOS)."""
    try:
        if sys.platform == "linux":
            return frozenset(os.sched_getaffinity(0))
        if sys.platform == "win32":
            return frozenset(psutil.Process().cpu_affinity() or ())
    except (OSError, psutil.Error):
        return None
    return None


def _physical_cores() -> int | None:
    try:
        return psutil.cpu_count(logical=False)
    except (OSError, psutil.Error):
        return None


def _processor_name() -> str:
    """Return the processor's name, from Windows' registry or else from Python."""
    if sys.platform == "win32":
        import winreg

        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        except OSError:
            pass
    return platform.processor() or f"{platform.machine()} processor"


def _has_processor_feature(code: int) -> bool:
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(code))
    return False


def _core_information() -> bytes:
    """Return what GetLogicalProcessorInformationEx says of the cores; nothing elsewhere."""
    if sys.platform != "win32":
        return b""
    import ctypes

    ask, size = ctypes.windll.kernel32.GetLogicalProcessorInformationEx, ctypes.c_ulong(0)
    ask(0, None, ctypes.byref(size))  # RelationProcessorCore; the first call says how long it is
    buffer = ctypes.create_string_buffer(size.value)
    return buffer.raw[: size.value] if ask(0, buffer, ctypes.byref(size)) else b""


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace")
