"""The best plans without evaluating every file: a best-first search with upper bounds.

Each model is in a priority queue under the best rank that can still come of it. The first one is
refined, which makes its rank exact or worse, until the first one is a plan: nothing behind it can
be better. The result is the same as that of evaluating everything (tests compare). The bound of a
rate needs no header and no placement: every byte lies on the device that reads it best.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from heapq import heapify, heappop, heappush

from localllm.core.model.quants import GgmlType
from localllm.core.recommend.evaluation import corrected, depth_of, evaluate, with_reasons
from localllm.core.recommend.plan import Advice, Candidate, FitPlan, Machine, Preferences, Verdict
from localllm.core.recommend.ranking import capability, next_better, score, worth_trying
from localllm.core.speed import DeviceSpeed, DeviceWork, Estimate, WeightRead, Workload, decode_tps

_Rank = tuple[bool, float]
"""The order of plans, the least first: whether one is too slow, and its score, negative."""


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


def plans(
    candidates: Iterable[Candidate], preferences: Preferences, machine: Machine, *, limit: int
) -> Advice:
    """Choose, place and time at most `limit` models, one quant of each, best first.

    Of each model it is the first quant in the goal's order that fits and is fast enough, else the
    fastest that fits. Models are in the order of the goal, those that are too slow last, and
    equals in the order in which they came.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.model, []).append(candidate)
    memory_bytes = sum(gpu.own_bytes for gpu in machine.budget.gpus)
    memory_bytes += max(0, machine.budget.host_bytes)
    ceiling = Ceiling(machine, preferences)
    queue = [
        (contender.rank, i, contender)
        for i, group in enumerate(groups.values())
        if (contender := _Contender(group, preferences, machine, memory_bytes, ceiling)).may_fit
    ]
    heapify(queue)
    best: list[FitPlan] = []
    while queue and len(best) < limit:
        _, i, contender = heappop(queue)
        if contender.plan is not None:
            best.append(with_reasons(contender.plan, preferences, machine, contender.group))
        elif contender.refine():
            heappush(queue, (contender.rank, i, contender))
    return Advice(plans=tuple(best), next_better=next_better(best, groups.values(), memory_bytes))


class _Contender:
    """A model on the way to its plan.

    `rank` is never worse than that of the plan that comes of it; `plan` is set when that is
    settled.
    """

    def __init__(
        self,
        group: Sequence[Candidate],
        preferences: Preferences,
        machine: Machine,
        memory_bytes: int,
        ceiling: Ceiling,
    ) -> None:
        self.group, self._preferences, self._machine = group, preferences, machine
        self._memory_bytes, self._ceiling = memory_bytes, ceiling
        self._sorted = False
        self._fast: list[tuple[int, float, Candidate]] = []  # place, tokens/s at most
        self._slow: list[tuple[int, float, Candidate]] = []
        self._fastest: tuple[float, int, FitPlan] | None = None  # of those too slow
        self.plan: FitPlan | None = None
        ability = max(capability(candidate) for candidate in group)
        self.rank: _Rank = (False, -score(ability, float("inf"), preferences))

    @property
    def may_fit(self) -> bool:
        """True when any file of it is smaller than all memory together."""
        return any(candidate.size_bytes < self._memory_bytes for candidate in self.group)

    def refine(self) -> bool:
        """Make the rank exact or worse by one step; return False when no quant of it fits."""
        if not self._sorted:
            self._sort()
        elif self._fast:
            self._try(*self._fast.pop(0))
        elif self._slow:
            self._try(*self._slow.pop(0))
        else:
            self.plan = None if self._fastest is None else self._fastest[2]
        if self.plan is None:
            self._slow = [each for each in self._slow if self._could_be_fastest(each)]
            if not (self._fast or self._slow or self._fastest):
                return False
        self.rank = self._best_rank()
        return True

    def _sort(self) -> None:
        """Separate the quants that may be fast enough from those that surely are not."""
        self._sorted = True
        for place, candidate in enumerate(
            worth_trying(self.group, self._preferences.goal, self._machine)
        ):
            if candidate.size_bytes < self._memory_bytes:
                tps = self._ceiling.tps(candidate)
                quants = self._fast if tps >= self._preferences.slowest_tps else self._slow
                quants.append((place, tps, candidate))

    def _try(self, place: int, tps: float, candidate: Candidate) -> None:
        plan = evaluate(candidate, self._preferences, self._machine)
        if plan.verdict is Verdict.GOOD:
            self.plan = plan
        elif plan.verdict is Verdict.SLOW:
            slow = plan.decode.likely, -place, plan
            if self._fastest is None or slow[:2] > self._fastest[:2]:
                self._fastest = slow

    def _could_be_fastest(self, quant: tuple[int, float, Candidate]) -> bool:
        place, tps, _ = quant
        return self._fastest is None or (tps, -place) > self._fastest[:2]

    def _best_rank(self) -> _Rank:
        ability = capability(self.group[0])
        if self.plan is not None:
            slow = self.plan.verdict is not Verdict.GOOD
            return slow, -score(ability, self.plan.decode.likely, self._preferences)
        rates = [tps for _, tps, _ in self._fast or self._slow]
        if not self._fast and self._fastest is not None:
            rates.append(self._fastest[0])
        return not self._fast, -score(ability, max(rates), self._preferences)


_MANY = 1 << 40
_ROUNDING = 1 + 1e-9


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
