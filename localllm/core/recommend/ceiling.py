"""The upper bound of a candidate's rate: every byte lies on the device that reads it best.

It is known before a header is made and anything is placed. The rates are those of `core/speed`,
which are linear in the work; hops between devices come on top.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

from localllm.core.model.quants import GgmlType
from localllm.core.recommend.evaluation import corrected, depth_of
from localllm.core.recommend.plan import Candidate, Machine, Preferences
from localllm.core.speed import DeviceSpeed, DeviceWork, Estimate, WeightRead, Workload, decode_tps

_MANY = 1 << 40
_ROUNDING = 1 + 1e-9


class Ceiling:
    """The upper bounds of one machine."""

    def __init__(self, machine: Machine, preferences: Preferences) -> None:
        self._machine, self._preferences = machine, preferences
        self._devices = (*machine.gpus, machine.host)
        self._seconds: dict[GgmlType, tuple[float, float]] = {}
        self._gpu_bytes = sum(max(0, gpu.free_bytes) for gpu in machine.budget.gpus)

    def tps(self, candidate: Candidate) -> float:
        """Return the tokens/s that the candidate cannot exceed here; infinite when unknown."""
        if candidate.weight_reads is None:
            return float("inf")
        work = candidate.weight_reads()
        best = sum(self._of(read.type)[0] * read.elements for read in work.weights)
        seconds = best + self._layer_s * work.layers + self._host_s(work)
        if self._rate(seconds) >= self._preferences.slowest_tps:  # else it is too slow in any case
            seconds += self._cache_s(candidate)
        return self._rate(seconds)

    def _rate(self, seconds: float) -> float:
        return _ROUNDING * self._correction / seconds

    def _cache_s(self, candidate: Candidate) -> float:
        """Return the seconds for the cache and the states, each part where it is read best."""
        if candidate.cache_reads is None:
            return 0.0
        work = candidate.cache_reads()
        depth = depth_of(min(self._preferences.context, candidate.context or 0))
        parts = [Workload(layers=0, weights=(), attention=(each,)) for each in work.attention]
        if work.state_bytes:
            parts.append(Workload(layers=0, weights=(), state_bytes=work.state_bytes))
        return sum(min(_seconds(d, part, depth) for d in self._devices) for part in parts)

    def _host_s(self, work: Workload) -> float:
        """Return the least seconds that are lost when the GPUs cannot hold everything: the elements
        that a token reads least of stay on the host."""
        left = work_bytes(work) - self._gpu_bytes
        if not self._machine.gpus or left <= 0:
            return 0.0
        cost = 0.0
        for per_byte, size in sorted(self._worse_on_host(work)):
            cost += per_byte * min(left, size)
            left -= size
            if left <= 0:
                break
        return cost

    def _worse_on_host(self, work: Workload) -> Iterable[tuple[float, float]]:
        """Yield the seconds that each byte of a read costs more on the host, and its bytes."""
        for read in work.weights:
            if read.loaded_bytes:
                best, host = self._of(read.type)
                yield (host - best) * read.elements / read.loaded_bytes, read.loaded_bytes

    def _of(self, kind: GgmlType) -> tuple[float, float]:
        """Return the seconds for an element of a type: where it is read best, and on the host."""
        if kind not in self._seconds:
            read = WeightRead(type=kind, elements=_MANY, elements_loaded=_MANY)
            work = Workload(layers=0, weights=(read,))
            each = [_seconds(device, work) / _MANY for device in self._devices]
            self._seconds[kind] = min(each), each[-1]
        return self._seconds[kind]

    @cached_property
    def _layer_s(self) -> float:
        """The seconds that a layer takes whatever its size, where it takes the least."""
        return min(_seconds(d, Workload(layers=1000, weights=())) for d in self._devices) / 1000

    @cached_property
    def _correction(self) -> float:
        """The largest factor by which measurements correct an estimate."""
        one = Estimate(low=1.0, likely=1.0, high=1.0)
        sides = (False, True) if self._machine.gpus else (False,)
        return max(corrected(one, self._machine, on_gpu=side).likely for side in sides)


def work_bytes(work: Workload) -> float:
    """Sum the bytes of the weights that a machine multiplies with, read or not."""
    return sum(read.loaded_bytes for read in work.weights)


_TINY = WeightRead(type=GgmlType.F16, elements=1, elements_loaded=1)


def _seconds(device: DeviceSpeed, work: Workload, depth: int = 0) -> float:
    """Return the seconds for some work alone, as a difference: no work at all has no rate."""
    little = replace(work, layers=0, weights=(_TINY,), attention=(), state_bytes=0)
    more = replace(work, weights=(*work.weights, _TINY))
    with_it, without = (
        1 / decode_tps([DeviceWork(device=device, work=each)], depth=depth, hops=0).likely
        for each in (more, little)
    )
    return with_it - without
