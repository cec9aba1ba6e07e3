"""The pool's time: its clock, and how long a load takes."""

import asyncio
from typing import Protocol

from localllm.core.speed.estimate import Estimate
from localllm.core.units import format_duration
from localllm.library.store.installed import InstalledModel

START_S = 0.5
"""Of the engine's process and its libraries (docs/performance.md: 0.3 to 0.6 s)."""

_SLOW_BYTES_PER_S, _USUAL_BYTES_PER_S, _FAST_BYTES_PER_S = 200e6, 1e9, 5e9
"""What is assumed until a load was measured: a hard disk or a drive that an encryption slows down,
an NVMe drive, and a file that is in the page cache."""

_MIN_RATE_BYTES = 32 * 2**20
"""The load of a smaller file takes as long as the process takes to start: it says nothing of how
fast files are read."""


class Clock(Protocol):
    """Time that a test can pass by itself."""

    def now(self) -> float:
        """Return seconds that never run backwards."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real time."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class LoadTimes:
    """The loads of this process, and what they say of the next one."""

    def __init__(self) -> None:
        self._by_model: dict[tuple[str, int], float] = {}
        self._rates: list[float] = []

    def record(self, model: InstalledModel, seconds: float) -> None:
        """Note a load that took so long, from the start of its process to its end."""
        self._by_model[_key(model)] = seconds
        if model.size_bytes >= _MIN_RATE_BYTES:
            self._rates.append(model.size_bytes / max(seconds - START_S, 0.05))

    def predict(self, model: InstalledModel) -> Estimate:
        """Estimate the seconds that this model's load takes.

        The last load of the same file; else the rates of other files, the widest range when there
        are none.
        """
        size_bytes = model.size_bytes
        if (last := self._by_model.get(_key(model))) is not None:
            # From the page cache, or from the disk again when others took the memory meanwhile.
            return Estimate(
                low=last / 2,
                likely=last,
                high=max(2 * last, START_S + size_bytes / _SLOW_BYTES_PER_S),
            )
        slow, usual, fast = _SLOW_BYTES_PER_S, _USUAL_BYTES_PER_S, _FAST_BYTES_PER_S
        if self._rates:
            usual = sorted(self._rates)[len(self._rates) // 2]
            slow, fast = min(slow, usual), max(fast, usual)
        return Estimate(
            low=START_S / 2 + size_bytes / fast,
            likely=START_S + size_bytes / usual,
            high=2 * START_S + size_bytes / slow,
        )

    def phrase(self, model: InstalledModel) -> str:
        """Say how long it takes: "in about 2.1 s", or "in 1 to 9 s" when nothing was measured."""
        expected = self.predict(model)
        if self._rates:
            return f"in about {format_duration(expected.likely)}"
        return f"in {format_duration(expected.low)} to {format_duration(expected.high)}"


def _key(model: InstalledModel) -> tuple[str, int]:
    return str(model.path), model.size_bytes
