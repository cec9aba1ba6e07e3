"""`python -m localllm.engine.worker.kernels`: time the engine's kernels on this processor.

A line of JSON for each quant type: the seconds of one core for a weight of one token, and the
buffer in which llama.cpp put the weights. In a process of its own, because a kernel may end it;
what was printed before counts. The parent is `engine/client/kernels.py`.
"""

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.sizing.load import BufferKind, LoadSettings
from localllm.engine.worker import seccomp
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama import kernel_model
from localllm.engine.worker.llama.model import BatchToken, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import LoadFailed

_T = GgmlType
TYPES = (
    _T.Q4_K, _T.Q6_K, _T.Q5_K, _T.Q8_0, _T.Q4_0, _T.IQ4_XS, _T.IQ4_NL, _T.Q3_K, _T.Q2_K, _T.IQ3_S,
    _T.IQ3_XXS, _T.IQ2_S, _T.IQ2_XS, _T.IQ2_XXS, _T.Q5_0, _T.Q4_1, _T.Q5_1, _T.MXFP4, _T.IQ1_M,
    _T.IQ1_S, _T.TQ2_0, _T.TQ1_0, _T.NVFP4, _T.Q1_0,
)  # fmt: skip
"""Types that published files are made of, the most frequent first."""

_WIDTH, _NARROW = 2560, 256
_STEPS = 12
_AS_IN_FILE = frozenset({"CPU", "CPU_Mapped"})  # llama.cpp's buffers of weights as they are
_LEAST_ARITHMETIC = 0.25
"""The least part of a time that is left when reading is taken off: a cache may be faster for the
kernel than for `memchr`."""


class KernelLine(msgspec.Struct):
    """One type: as `core.speed.kernels.CpuKernel`."""

    type: str
    decode_s: float
    buffer: str | None


def main() -> int:
    """Measure every type; one that this build does not load is left out."""
    protocol = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # no native printf may reach the lines
    log = NativeLog()
    seccomp.restrict()
    llama.llama_backend_init()
    measure(log, lambda line: protocol.write(msgspec.json.encode(line) + b"\n"))
    return 0


def measure(log: NativeLog, emit: Callable[[KernelLine], object]) -> None:
    """Time each type by the difference of two models, whose feed-forwards are wide and narrow.

    On one thread: the time of a core is wanted, and other programs disturb one less than all.
    Raises OSError when no model can be written.
    """
    read_s = _cached_read_s(BLOCKS[_T.Q4_K].size_bytes * _weights(_WIDTH) // 256)
    for kind in TYPES:
        with suppress(LoadFailed, RuntimeError):
            narrow_s, _ = _time(kind, _NARROW, log)
            wide_s, buffers = _time(kind, _WIDTH, log)
            emit(_line(kind, wide_s - narrow_s, buffers, read_s))


def _line(kind: GgmlType, more_s: float, buffers: frozenset[str], read_s: float) -> KernelLine:
    """Take the reading off the seconds that the wide model takes more; `read_s` is of a byte."""
    block, weights = BLOCKS[kind], _weights(_WIDTH) - _weights(_NARROW)
    step = max(more_s, 0.0) / weights
    arithmetic = step - read_s * block.size_bytes / block.elements
    own = sorted(buffers - _AS_IN_FILE)
    return KernelLine(
        type=kind.name,
        decode_s=max(arithmetic, _LEAST_ARITHMETIC * step),
        buffer=own[0] if own else None,
    )


def _weights(width: int) -> int:
    return 2 * kernel_model.feed_forward_weights(width)  # of both layers


def _time(kind: GgmlType, width: int, log: NativeLog) -> tuple[float, frozenset[str]]:
    """Return the seconds of the fastest of some steps, and the buffers of the weights."""
    with tempfile.TemporaryDirectory(prefix="localllm-kernels-") as directory:
        path = Path(directory) / "kernels.gguf"
        kernel_model.write_kernel_model(path, kind, width)
        settings = LoadSettings(
            context=kernel_model.CONTEXT, batch=32, ubatch=32, threads=1, gpu_layers=0, devices=()
        )
        model = Model(str(path), settings, log=log, on_progress=lambda _: None)
        try:
            seconds = min(_step(model, position) for position in range(_STEPS))
            weights = (each for each in model.allocations if each.kind is BufferKind.WEIGHTS)
            return seconds, frozenset(each.device for each in weights)
        finally:
            model.close()


def _step(model: Model, position: int) -> float:
    """Decode one token; return its seconds."""
    token = BatchToken(position % kernel_model.VOCABULARY, position, 0, output=True)
    started = time.perf_counter()
    model.decode([token])
    return time.perf_counter() - started


def _cached_read_s(size: int) -> float:
    """Return the seconds in which one core reads a byte of `size` bytes that are in its caches."""
    search = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).memchr
    search.restype = ctypes.c_void_p
    search.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    buffer = ctypes.create_string_buffer(size)
    best = float("inf")
    for _ in range(2 * _STEPS):
        started = time.perf_counter()
        search(buffer, 1, size)
        best = min(best, time.perf_counter() - started)
    return best / size


if __name__ == "__main__":
    sys.exit(main())
