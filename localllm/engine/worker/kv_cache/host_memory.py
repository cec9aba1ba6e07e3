"""The free memory of the host, and the thread that gives the second tier's memory back."""

import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from localllm.core.hardware import Memory
from localllm.core.sizing.host_cache import pressure_limit, store_limit
from localllm.engine.worker.kv_cache.host_cache import HostCache
from localllm.machine.memory import read_memory

CHECK_S = 0.5
"""Seconds between two looks at the free memory, while states are held."""


def system_memory() -> Memory:
    """Return the memory of the system, and what a control group leaves of it. Without any where the
    system does not tell."""
    try:
        memory, _warnings = read_memory(Path("/"), psutil.virtual_memory, lambda: None)
    except OSError:
        return Memory(total_bytes=0, available_bytes=0)
    return memory


def make_host_cache(
    cache_ram: int | None, read: Callable[[], Memory] = system_memory
) -> HostCache | None:
    """Make the second tier, and start the thread that watches over its memory. `cache_ram` is its
    largest size in bytes; None: half of what is free; 0: there is none."""
    if cache_ram == 0:
        return None

    def limit(held_bytes: int) -> int:
        memory = read()
        return store_limit(
            memory.total_bytes, memory.available_bytes, held_bytes, cache_ram=cache_ram
        )

    cache = HostCache(limit)
    watch = MemoryWatch(cache, read)
    threading.Thread(target=watch.run, name="host memory", daemon=True).start()
    return cache


class MemoryWatch:
    """Drops states while others need the memory that they take."""

    def __init__(
        self, cache: HostCache, read: Callable[[], Memory], *, interval_s: float = CHECK_S
    ) -> None:
        self._cache = cache
        self._read = read
        self._interval_s = interval_s

    def run(self) -> None:
        while self._cache.wait(self._interval_s):
            self.check()

    def check(self) -> int:
        """Drop what is too much now. Returns its bytes."""
        held_bytes, memory = self._cache.size_bytes, self._read()
        allowed = pressure_limit(memory.total_bytes, memory.available_bytes, held_bytes)
        return self._cache.shrink(allowed) if held_bytes > allowed else 0
