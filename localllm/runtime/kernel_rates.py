"""What the engine makes of each quant type on this processor: measured once, kept in the cache.

As the memory's bandwidth, it is measured by what first needs it (`suggest`, `pull`, `bench`, the
app). The key is the examination's: files of the build, processor and our own code.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from localllm.core.model.quants import GgmlType
from localllm.core.speed.kernels import REFERENCE_KERNELS, CpuKernel, CpuKernels
from localllm.engine.builds.candidates import Candidate, requested_engine
from localllm.engine.builds.choice import likely_engine
from localllm.engine.builds.verdict import fingerprint
from localllm.errors import EngineError, UsageError
from localllm.library.files import atomic_write, paths, settings

_MOST_KEPT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    decode_s: float
    buffer: str | None = None


def engine_kernels() -> CpuKernels:
    """Return the kernels of the engine that is chosen; measure them (half a second) when that was
    not done. Where no engine can be used: those of the reference processor."""
    try:
        if (known := _read().get(fingerprint(_likely()))) is not None:
            return known
        return _measured_now()
    except (EngineError, UsageError, OSError):
        return REFERENCE_KERNELS


def known_kernels() -> CpuKernels:
    """Return what was measured of the chosen engine; nothing is measured and no process started."""
    with suppress(EngineError, UsageError, OSError):
        return _read().get(fingerprint(_likely()), REFERENCE_KERNELS)
    return REFERENCE_KERNELS


def _likely() -> Candidate:
    """Return the build that is the engine, as far as that is known without a process."""
    requested = requested_engine(settings.load().engine)
    return likely_engine(paths.engine_verdicts_file(), requested)


def _measured_now() -> CpuKernels:
    """Measure the engine, examined before, and keep the result with what was there. A build of
    which nothing could be measured is kept, too: the next verb would wait in vain again."""
    import asyncio  # not needed, nor what is below, when everything is known: `suggest` is quick

    from localllm.engine.client.kernels import measure_kernels
    from localllm.runtime.engines import find_engine

    candidate = asyncio.run(find_engine()).candidate
    if (known := _read().get(fingerprint(candidate))) is not None:
        return known
    kernels = asyncio.run(measure_kernels(candidate))
    kept = dict([*_read().items(), (fingerprint(candidate), kernels)][-_MOST_KEPT:])
    with suppress(OSError):
        path = paths.kernels_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_atomically(path, msgspec.json.encode(_document(kept)))
    return kernels


def _document(kept: Mapping[str, CpuKernels]) -> dict[str, dict[str, _Stored]]:
    return {
        key: {
            kind.name: _Stored(decode_s=each.decode_s, buffer=each.buffer)
            for kind, each in kernels.measured.items()
        }
        for key, kernels in kept.items()
    }


def _read() -> dict[str, CpuKernels]:
    try:
        stored = msgspec.json.decode(
            paths.kernels_file().read_bytes(), type=dict[str, dict[str, _Stored]]
        )
    except (OSError, msgspec.DecodeError):
        return {}
    return {key: _kernels(each) for key, each in stored.items()}


def _kernels(stored: Mapping[str, _Stored]) -> CpuKernels:
    return CpuKernels(
        measured={
            GgmlType[name]: CpuKernel(decode_s=each.decode_s, buffer=each.buffer)
            for name, each in stored.items()
            if name in GgmlType.__members__ and 0 < each.decode_s < 1
        }
    )
