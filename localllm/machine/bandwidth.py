"""Measurements of this machine's memory bandwidth and of its cores, in under a second each.

Decoding reads every weight once for each token, so memory *read* bandwidth bounds it; prompts are
bound by how fast the cores multiply. No data sheet knows either for a given machine (channels
filled, virtual machine, laptop on battery), so both are measured.

Reading is timed with the C library's `memchr` for a byte that is not there: one stream, no writes,
vectorised by every large C library, and ctypes lets go of the interpreter lock meanwhile. (A copy
would count writes, which decoding does not do.) Multiplying is timed with NumPy in a process of
its own: NumPy comes with the engine's bindings and must not be loaded into the front ends.
"""

import ctypes
import json
import math
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

_MIB = 1 << 20
_SMALLEST = 256 * _MIB  # all buffers together; larger than nearly every last-level cache
_LARGEST = 1024 * _MIB
_CACHE_MULTIPLE = 4  # of the last-level cache: at most a quarter of the reads can hit it
_WINDOWS = 4
_WINDOW_S = 0.06

RECENT_S = 30 * 24 * 3600.0
"""Older records do not count: memory is rarely changed, but a laptop's power plan is."""

RETRY_S = 600.0
_IDLE_LOAD = 0.5  # what the services of an idle desktop reach

_MATMUL_TIMEOUT_S = 30.0
_MATMUL = """
import time
import numpy as np
n = 1024
a = np.ones((n, n), np.float32)
out = a @ a
best, begun = float("inf"), time.perf_counter()
while time.perf_counter() - begun < 0.25:
    start = time.perf_counter()
    np.matmul(a, a, out=out)
    best = min(best, time.perf_counter() - start)
print(2 * n**3 / best)
"""
_BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def measure_bandwidth(threads: int, *, available_bytes: int | None = None) -> float:
    """Measure memory read bandwidth in bytes/s, with `threads` threads reading at once.

    The best of several windows, as the STREAM benchmark reports it: other work on the machine only
    ever lowers one. Takes 256 MiB, or four times the last-level cache up to 1 GiB, but never more
    than a quarter of `available_bytes`. Raises ValueError when `threads` < 1, OSError or
    MemoryError when the buffers cannot be had, or would be so small that the caches hold them.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    cache = last_level_cache(Path("/"))
    total = min(max(_SMALLEST, _CACHE_MULTIPLE * cache), _LARGEST)
    if available_bytes is not None:
        total = min(total, available_bytes // 4)
        if total <= min(cache, _SMALLEST):
            raise MemoryError(f"a quarter of what is free, {total >> 20} MiB, fits in the caches")
    size = max(total // threads, mmap.PAGESIZE)
    buffers = [mmap.mmap(-1, size) for _ in range(threads)]
    _together([partial(ctypes.memset, _address(buffer), 0, size) for buffer in buffers])
    return max(_window(buffers, size) for _ in range(_WINDOWS))


@dataclass(frozen=True, slots=True)
class BandwidthRecord:
    """The best bandwidth of late, in bytes/s. Times are Unix seconds: `taken_at` of this figure,
    `tried_at` of the last measurement, better or not. `busy`: other programs were running at every
    measurement, so the memory may be faster."""

    bytes_per_s: float
    taken_at: float
    tried_at: float
    busy: bool

    def due(self, now: float, *, busy: bool) -> bool:
        """Return True when another measurement is worthwhile: this one is old, or was taken while
        other programs ran and they are gone. Never within ten minutes, so that no command waits
        twice."""
        if busy or 0 <= now - self.tried_at < RETRY_S:
            return False
        return self.busy or not self.recent(now)

    def recent(self, now: float) -> bool:
        """Return True for a record of the last month that is not of the future (a clock was set
        back)."""
        return 0 <= now - self.taken_at < RECENT_S

    def merged(self, new: "BandwidthRecord") -> "BandwidthRecord":
        """Combine two records: the larger figure counts, for other work only ever lowers one; an
        old one gives way to a new one of a quiet machine, which may have other memory now."""
        if new.bytes_per_s >= self.bytes_per_s or not (new.busy or self.recent(new.taken_at)):
            return replace(new, busy=new.busy and (self.busy or not self.recent(new.taken_at)))
        return replace(self, tried_at=new.tried_at, busy=self.busy and new.busy)


def processors_busy(
    threads: int, processors: int | None, load: Callable[[], tuple[float, float, float]] | None
) -> bool:
    """Return True when the last minute's load leaves fewer processors than `threads`. An idle
    desktop's services are not counted; False where the load is unknown (None on Windows)."""
    if load is None or processors is None:
        return False
    try:
        waiting = load()[0]
    except OSError:
        return False
    return waiting > _IDLE_LOAD and waiting + threads > processors


def cached_bandwidth(
    path: Path,
    cpu_name: str,
    threads: int,
    measure: Callable[[int], float] = measure_bandwidth,
    *,
    again: bool = False,
    now: Callable[[], float] = time.time,
    busy: Callable[[], bool] | None = None,
) -> float:
    """Return the bandwidth stored at `path` for this processor and thread count, or measure it.

    It is measured when there is none, when `again` is set, and when it is due
    (`BandwidthRecord.due`); the best of the last month counts. A file that cannot be read counts as
    empty, one that cannot be written is left alone: the figure is right either way. The file is
    replaced in one step. Raises what `measure` raises, unless there is a figure already.
    """
    key = _key(cpu_name, threads)
    stored, time_s = _stored(path), now()
    crowded = busy() if busy is not None else _busy_now(threads)
    known = stored.get(key)
    if known is not None and not again and not known.due(time_s, busy=crowded):
        return known.bytes_per_s
    try:
        rate = measure(threads)
    except (OSError, MemoryError):
        if known is None:
            raise
        return known.bytes_per_s
    new = BandwidthRecord(rate, taken_at=time_s, tried_at=time_s, busy=crowded)
    stored[key] = new if known is None else known.merged(new)
    with suppress(OSError):
        _write(path, stored)
    return stored[key].bytes_per_s


def stored_bandwidth(path: Path, cpu_name: str, threads: int) -> float | None:
    """Return the bandwidth stored at `path`, in bytes/s; None where none was measured."""
    known = _stored(path).get(_key(cpu_name, threads))
    return None if known is None else known.bytes_per_s


def _key(cpu_name: str, threads: int) -> str:
    return f"{cpu_name}, {threads} threads"


def _busy_now(threads: int) -> bool:
    return processors_busy(threads, os.cpu_count(), getattr(os, "getloadavg", None))


def last_level_cache(root: Path) -> int:
    """Sum the bytes of all last-level caches; 0 where `root`/sys does not list them."""
    largest: dict[str, tuple[int, int]] = {}  # processors that share it -> (level, bytes)
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level = int((index / "level").read_text(encoding="ascii"))
            size = (index / "size").read_text(encoding="ascii").strip()
            shared = (index / "shared_cpu_list").read_text(encoding="ascii").strip()
            found = (level, int(size.removesuffix("K")) << 10)
        except (OSError, ValueError):
            continue
        largest[shared] = max(found, largest.get(shared, (0, 0)))
    top = max((level for level, _ in largest.values()), default=0)
    return sum(size for level, size in largest.values() if level == top)


def _window(buffers: list[mmap.mmap], size: int) -> float:
    """Let all threads read for a while; return bytes/s from the first start to the last end."""
    spans: list[tuple[float, float, int]] = []
    search = _memchr()
    barrier = threading.Barrier(len(buffers))

    def read(address: int) -> None:
        barrier.wait()
        start = end = time.perf_counter()
        passes = 0
        while end - start < _WINDOW_S:
            search(address, 1, size)
            passes += 1
            end = time.perf_counter()
        spans.append((start, end, passes))

    _together([partial(read, _address(buffer)) for buffer in buffers])
    took = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return sum(passes for _, _, passes in spans) * size / took


def _together(jobs: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _address(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _memchr() -> Callable[[int, int, int], int | None]:
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    function = library.memchr
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    return function


def _stored(path: Path) -> dict[str, BandwidthRecord]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    records = {str(key): _record(value) for key, value in document.items()}
    return {key: value for key, value in records.items() if value is not None}


def _record(value: object) -> BandwidthRecord | None:
    """Read one entry of the file; a bare number is of a version without times, and is due."""
    fields = value if isinstance(value, dict) else {"bytes_per_s": value}
    rate = _positive(str(fields.get("bytes_per_s")))
    if rate is None:
        return None
    return BandwidthRecord(
        rate,
        taken_at=_positive(str(fields.get("taken_at"))) or 0.0,
        tried_at=_positive(str(fields.get("tried_at"))) or 0.0,
        busy=fields.get("busy") is not False,
    )


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _write(path: Path, stored: dict[str, BandwidthRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({key: asdict(one) for key, one in stored.items()}, file, indent=2)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
