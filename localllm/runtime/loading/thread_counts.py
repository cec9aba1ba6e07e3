"""The numbers of threads that were found best here, by engine and size of the model.

The first load of a size compares the topology's count with fewer (`core/speed/threads.py`), which
takes a second at most, and the result is kept until the engine, the processor or the number of
usable cores changes. Nothing is compared for a number that a person has given, where a GPU takes
part, or while other programs use the processors.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.hardware import HardwareInfo
from localllm.core.sizing.load import LoadSettings
from localllm.core.speed.threads import ThreadTrial, counts_to_try, size_class
from localllm.engine.messages import Loaded
from localllm.library.files import atomic_write
from localllm.machine.bandwidth import processors_busy

_MOST_KEPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadChoice:
    """The counts that were found best: for a token, and for several at once, of `trials`."""

    threads: int
    threads_batch: int
    trials: tuple[ThreadTrial, ...]
    size_class: int


def machine_busy(threads: int) -> bool:
    """Return True while other programs leave fewer processors than `threads`."""
    return processors_busy(threads, os.cpu_count(), getattr(os, "getloadavg", None))


class ThreadChoices:
    """The choices of one machine, in a file."""

    def __init__(self, path: Path, busy: Callable[[int], bool] = machine_busy) -> None:
        self._path = path
        self._busy = busy

    def settled(
        self, settings: LoadSettings, size_bytes: int, hardware: HardwareInfo
    ) -> tuple[LoadSettings, tuple[int, ...]]:
        """Return the settings with the threads that are known to be best, and the counts that the
        load is to compare: none when they are known, or this is not the time."""
        usual = hardware.cpu.threads
        if settings.gpu_layers != 0 or settings.embeddings:
            return settings, ()
        known = self._read().get(_key(hardware, size_class(size_bytes)))
        if known is not None and max(known.threads, known.threads_batch) <= usual:
            return replace(settings, threads=known.threads, threads_batch=known.threads_batch), ()
        return settings, () if self._busy(usual) else counts_to_try(usual)

    def keep(self, loaded: Loaded, size_bytes: int, hardware: HardwareInfo) -> None:
        """Keep what a load has found. A file that cannot be written keeps nothing."""
        threads, prompt_threads = loaded.threads, loaded.threads_batch
        if not loaded.thread_trials or not threads or not prompt_threads:
            return
        number = size_class(size_bytes)
        choice = ThreadChoice(
            threads=threads,
            threads_batch=prompt_threads,
            trials=loaded.thread_trials,
            size_class=number,
        )
        key = _key(hardware, number)
        others = [each for each in self._read().items() if each[0] != key]
        kept = dict([*others, (key, choice)][-_MOST_KEPT:])
        import msgspec  # `suggest` reads and writes none of this

        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write.write_atomically(self._path, msgspec.json.encode(kept))

    def known(self, hardware: HardwareInfo) -> dict[int, ThreadChoice]:
        """Return the choices for this machine and engine by size class, small models first."""
        found = self._read()
        mine = (each for key, each in found.items() if key == _key(hardware, each.size_class))
        return {each.size_class: each for each in sorted(mine, key=lambda each: each.size_class)}

    def _read(self) -> dict[str, ThreadChoice]:
        import msgspec

        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, ThreadChoice])
        except (OSError, msgspec.DecodeError):
            return {}


def _key(hardware: HardwareInfo, number: int) -> str:
    build, cpu = hardware.engine, hardware.cpu
    engine = f"{build.name} {build.version} {build.commit}" if build is not None else ""
    return f"{cpu.name}, {cpu.threads} threads; {engine}; 2^{number}"
