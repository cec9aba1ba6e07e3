"""What the examination of a build has found, and the file that keeps it until something changes."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localllm.core.hardware import EngineBuild
from localllm.engine.builds.candidates import Candidate

_WORKER = Path(__file__).resolve().parents[1] / "worker"
_JUDGES = (
    "binding", "examination.py", "kernels.py", "llama/counting_model.py", "llama/kernel_model.py",
)  # fmt: skip
"""Our own files that a verdict or a measurement of a build rests on, below the worker's."""

_MOST_KEPT = 16
_DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES", "GGML_VK_DISABLE", "ONEAPI_DEVICE_SELECTOR", "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES", "LOCALLLM_SOFTWARE_GPUS",
)  # fmt: skip
"""Variables that hide a GPU from a backend, or show it one."""
_DRIVER_FILES = {
    "linux": (
        "/dev/dri", "/proc/driver/nvidia", "/sys/class/kfd/kfd/topology/nodes", "/etc/vulkan/icd.d",
        "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d",
    ),
    "win32": tuple(
        rf"%SystemRoot%\System32\{name}.dll"
        for name in ("nvcuda", "vulkan-1", "amdhip64_6", "amdhip64")
    ),
}  # fmt: skip
"""Files and directories that a driver brings; Metal is part of macOS."""
_PROCESSOR_LINES = ("model name", "flags", "features", "cpu implementer", "cpu part", "isa")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of an examination.

    `refused` is the reason why the build cannot be used, None when it can; `advice` what to do
    then; `end` how the process ended, where that is the reason (exit_reason.exit_reason).
    `layouts` are the structs, each with the commit of llama.cpp that it is as in.
    `vision_problem` is the reason why images cannot be seen. `examined_at` is the time (Unix).
    """

    engine: str
    refused: str | None = None
    advice: str = ""
    end: str = ""
    build: EngineBuild | None = None
    llama_cpp: str = ""
    layouts: tuple[tuple[str, str], ...] = ()
    vision_problem: str | None = None
    seconds: float = 0.0
    examined_at: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.refused is None

    @property
    def gpus(self) -> tuple[str, ...]:
        """The names of the GPUs of this machine that it uses."""
        devices = self.build.devices if self.build is not None else ()
        return tuple(device.description or device.name for device in devices if device.is_gpu)

    @property
    def message(self) -> str:
        """One sentence or two for a person, of a build that was refused."""
        return f"The engine {self.engine} cannot be used: {self.refused}. {self.advice}".strip()


def fingerprint(candidate: Candidate) -> str:
    """Return what changes when the build, this processor, its GPUs' drivers or the way of judging
    changes.

    Files by size and times; the processor because a home directory may be shared by several
    machines. Raises EngineUnavailable for a directory without a build, OSError.
    """
    digest = hashlib.sha256(files_digest(candidate).encode())
    for path in _judges():
        digest.update(_identity(path))
    digest.update(f"{sys.version}\0{sys.platform}\0{_processor()}\0{_drivers()}".encode())
    return digest.hexdigest()


def files_digest(candidate: Candidate) -> str:
    """Return what changes when a file of the build does. Raises as `fingerprint` does."""
    digest = hashlib.sha256()
    for path in candidate.files().all_files():
        digest.update(_identity(path))
    return digest.hexdigest()


def _identity(path: Path) -> bytes:
    status = path.stat()
    changed = status.st_ctime_ns if os.name == "posix" else 0
    return f"{path}\0{status.st_size}:{status.st_mtime_ns}:{changed}\0".encode()


class VerdictFile:
    """Verdicts by fingerprint in a file. A file that cannot be read or written keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def get(self, key: str) -> Verdict | None:
        return self._read().get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, with the last of those that are there."""
        if self._path is None:
            return
        others = [each for each in self._read().items() if each[0] != key]
        kept = dict([*others, (key, verdict)][-_MOST_KEPT:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(kept))
            fresh.replace(self._path)

    def _read(self) -> dict[str, Verdict]:
        if self._path is None:
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Verdict])
        except (OSError, msgspec.DecodeError):
            return {}


def _judges() -> Iterator[Path]:
    for name in _JUDGES:
        path = _WORKER / name
        yield from sorted(path.glob("*.py")) if path.is_dir() else [path]


def _processor() -> str:
    """Describe the processor as far as it decides which instructions run."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(16_384).partition("\n\n")[0].splitlines()
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.lower().startswith(_PROCESSOR_LINES))


def _drivers() -> str:
    """Describe the GPU drivers, as far as files and variables show them: one that was installed
    since lets a build use a GPU that it did not see."""
    found = [f"{name}={os.environ[name]}" for name in _DEVICE_VARIABLES if name in os.environ]
    for place in _DRIVER_FILES.get(sys.platform, ()):
        path = Path(os.path.expandvars(place))
        with suppress(OSError):
            if path.is_dir():
                found += sorted(f"{path}/{entry.name}" for entry in os.scandir(path))
            else:
                status = path.stat()
                found.append(f"{path} {status.st_size}:{status.st_mtime_ns}")
    return "\0".join(found)
