"""How busy this machine is now: processor, GPU, their power, and whether it runs on its battery.

Each value is one that the system gives to every user; the others are None. A GPU is read only for a
model that uses it, because reading wakes one that sleeps.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

from localllm.machine.nvidia import NvmlOfLoad, load_nvml, load_of_nvidia
from localllm.machine.readings import read_battery

_RAPL = Path("sys/class/powercap/intel-rapl:0/energy_uj")
"""The energy of the first processor package, in microjoules; on most systems only root reads it."""
_DRM = Path("sys/class/drm")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLoad:
    """Shares from 0 to 1, power in watts; None: not known."""

    cpu: float | None = None
    gpu: float | None = None
    cpu_watts: float | None = None
    gpu_watts: float | None = None
    on_battery: bool | None = None


class LoadReader:
    """Reads the load; rates are those since the last call. `root` is the root of the file system,
    for /sys; `clock` gives seconds, monotonic."""

    def __init__(
        self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._clock = clock
        self._energy: tuple[float, int] | None = None
        psutil.cpu_percent(interval=None)  # the first value of psutil is no load

    def read(self, gpu: bool) -> SystemLoad:
        """Read what there is. Blocks for a few milliseconds."""
        share = watts = None
        if gpu:
            nvidia = load_of_nvidia(cast("NvmlOfLoad | None", load_nvml()))
            share, watts = nvidia or load_of_amd(self._root)
        return SystemLoad(
            cpu=psutil.cpu_percent(interval=None) / 100,
            gpu=share,
            cpu_watts=self._cpu_watts(),
            gpu_watts=watts,
            on_battery=read_battery().on_battery,
        )

    def _cpu_watts(self) -> float | None:
        energy_uj = _number(self._root / _RAPL)
        before, now_s = self._energy, self._clock()
        self._energy = None if energy_uj is None else (now_s, energy_uj)
        if before is None or energy_uj is None or energy_uj < before[1] or now_s <= before[0]:
            return None  # the counter begins again at its end
        return (energy_uj - before[1]) / (now_s - before[0]) / 1e6


def load_of_amd(root: Path) -> tuple[float | None, float | None]:
    """Return the load and the power of the busiest AMD GPU, as amdgpu's files have them."""
    loads: list[tuple[float, float | None]] = []
    with suppress(OSError):
        for busy in sorted((root / _DRM).glob("card*/device/gpu_busy_percent")):
            percent = _number(busy)
            if percent is not None:
                powers = (_number(f) for f in busy.parent.glob("hwmon/hwmon*/power1_average"))
                watts = next((power / 1e6 for power in powers if power is not None), None)
                loads.append((percent / 100, watts))
    return max(loads, key=lambda each: each[0]) if loads else (None, None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
