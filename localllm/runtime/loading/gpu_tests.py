"""The verdicts on GPUs: whether a device computes what the processor does, with this model.

A verdict holds for one device with its driver, one build of the engine and one model with the types
of its cache; where one of them changes, the next load tests again. They are kept in a file, so that
it costs a first load and no other.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from localllm.core.hardware import Device, DeviceTest, HardwareInfo
from localllm.core.sizing.fit import Fit
from localllm.core.text import single_line
from localllm.engine.client.exit_reason import ILLEGAL_INSTRUCTION
from localllm.library.files import atomic_write
from localllm.library.store.installed import InstalledModel

SCHEMA = 1
_MOST_KEPT = 256
_NOT_THE_GPUS = ("SIGKILL", "SIGTERM", ILLEGAL_INSTRUCTION)
"""Ends of a process that say nothing of a GPU: want of memory, a person, another processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDriver:
    """A device, with its driver as far as that is known."""

    name: str
    driver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuVerdict:
    """The result of testing devices with a model.

    `engine` is the digest of the build's files; `crash`: how the engine's process ended instead of
    answering; `tested_at`: ISO 8601, UTC.
    """

    devices: tuple[DeviceDriver, ...]
    engine: str
    model: str
    tested_at: str
    test: DeviceTest | None = None
    crash: str = ""

    @property
    def passed(self) -> bool:
        return self.test is not None and self.test.passed

    @property
    def finding(self) -> str:
        """The numbers, or how the process ended."""
        if self.test is None:
            return f"the engine's process ended ({self.crash})"
        return self.test.numbers

    @property
    def fault(self) -> str:
        """What is wrong with the devices, without the end of the sentence."""
        names = " and ".join(dict.fromkeys(single_line(each.name) for each in self.devices))
        driver = next((f" (driver {single_line(d.driver)})" for d in self.devices if d.driver), "")
        found = "ends the engine" if self.test is None else "computes wrong numbers"
        return f"{names}{driver} {found} with {single_line(self.model)}: {self.finding}"

    @property
    def warning(self) -> str:
        """What a person must know when the model runs on the processor because of it."""
        return (
            f"{single_line(self.model)} runs on the CPU, because {self.fault}. Update the GPU's "
            "driver, or use the GPU all the same with --trust-gpu."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTest:
    """A load that uses devices: the `key` of its verdict, and who is in it."""

    key: str
    devices: tuple[DeviceDriver, ...]
    engine: str
    model: str

    @classmethod
    def of(cls, model: InstalledModel, fit: Fit, hardware: HardwareInfo) -> "GpuTest | None":
        """Describe the test of a load; None for one that uses no device, or whose devices cannot be
        compared: embeddings have no logits."""
        settings, build = fit.settings, hardware.engine
        used = [share.name for share in fit.placement.devices[:-1] if share.layers]
        if not used or build is None or settings.embeddings:
            return None
        drivers = {device.name: device.driver for device in hardware.devices}
        devices = tuple(DeviceDriver(name=name, driver=drivers.get(name)) for name in used)
        facts = (
            [(device.name, device.driver) for device in devices],
            platform.release(),  # the kernel's half of a driver; macOS has Metal in its system
            (build.name, build.version, build.commit, build.digest),
            [_identity(file.path) for file in model.files],
            (settings.kv_type_k, settings.kv_type_v, settings.flash_attention),
        )
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return cls(key=key, devices=devices, engine=build.digest, model=model.name)

    def verdict(self, test: DeviceTest | None = None, crash: str = "") -> GpuVerdict:
        """Make the verdict of this test, now."""
        return GpuVerdict(
            devices=self.devices,
            engine=self.engine,
            model=self.model,
            tested_at=datetime.now(UTC).isoformat(timespec="seconds"),
            test=test,
            crash=crash,
        )


class GpuFailed(Exception):
    """A load's devices compute wrong numbers, or end the engine."""

    def __init__(self, test: GpuTest, verdict: GpuVerdict) -> None:
        super().__init__(verdict.warning)
        self.test = test
        self.verdict = verdict


def blames_gpu(reason: str) -> bool:
    """Return True when a process that ended so (EngineCrashed.reason) while its devices were being
    tested may have been ended by their driver."""
    return reason not in _NOT_THE_GPUS and "out of memory" not in reason


class _File(msgspec.Struct):
    schema: int
    verdicts: dict[str, GpuVerdict]


class GpuVerdicts:
    """Verdicts by key in a file (None: in this process alone). A file that cannot be read or
    written, or of another schema, keeps nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._here: dict[str, GpuVerdict] = {}

    def get(self, test: GpuTest) -> GpuVerdict | None:
        return self._read().get(test.key)

    def put(self, test: GpuTest, verdict: GpuVerdict) -> None:
        """Keep a verdict, with the last of those that are there."""
        self._here[test.key] = verdict
        if self._path is None:
            return
        others = [each for each in self._read().items() if each[0] != test.key]
        kept = dict([*others, (test.key, verdict)][-_MOST_KEPT:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = msgspec.json.encode(_File(schema=SCHEMA, verdicts=kept))
            atomic_write.write_atomically(self._path, data)

    def of(self, device: Device, engine: str) -> tuple[GpuVerdict, ...]:
        """Return what is known of a device with its present driver and this build, by digest."""
        here = DeviceDriver(name=device.name, driver=device.driver)
        return tuple(
            verdict
            for verdict in self._read().values()
            if here in verdict.devices and verdict.engine == engine
        )

    def _read(self) -> Mapping[str, GpuVerdict]:
        stored: dict[str, GpuVerdict] = {}
        with suppress(OSError, msgspec.DecodeError):
            if self._path is not None:
                read = msgspec.json.decode(self._path.read_bytes(), type=_File)
                stored = read.verdicts if read.schema == SCHEMA else {}
        return stored | self._here


def summary(verdicts: Iterable[GpuVerdict]) -> str:
    """Say what the tests of one device have found, in one line."""
    all_of_them = list(verdicts)
    failed = [each for each in all_of_them if not each.passed]
    if not all_of_them:
        return "not tested yet: the first load on it compares it with the CPU"
    passed = sorted({single_line(each.model) for each in all_of_them if each.passed})
    words = [f"computes what the CPU does ({', '.join(passed)})"] if passed else []
    words += [f"fails with {single_line(each.model)}: {each.finding}" for each in failed]
    return "; ".join(words)


def _identity(path: Path) -> tuple[str, int, int]:
    """Return what changes when a file does."""
    try:
        status = path.stat()
    except OSError:  # the load says so
        return str(path), 0, 0
    return str(path), status.st_size, status.st_mtime_ns
