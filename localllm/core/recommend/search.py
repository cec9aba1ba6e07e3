"""The best plans without evaluating every file: a best-first search with upper bounds.

Each model is in a priority queue under the best rank that can still come of it. The first one is
refined, which makes its rank exact or worse, until the first one is a plan: nothing behind it can
be better. The result is the same as that of evaluating everything (tests compare).
"""

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from localllm.core.recommend.ceiling import Ceiling
from localllm.core.recommend.evaluation import evaluate, with_reasons
from localllm.core.recommend.plan import Advice, Candidate, FitPlan, Machine, Preferences, Verdict
from localllm.core.recommend.ranking import capability, next_better, score, worth_trying

_Rank = tuple[bool, float]
"""The order of plans, the least first: whether one is too slow, and its score, negative."""


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
    memory_bytes = sum(gpu.free_bytes for gpu in machine.budget.gpus if not gpu.unified)
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
            best.append(with_reasons(contender.plan, preferences))
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
        self._group, self._preferences, self._machine = group, preferences, machine
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
        return any(candidate.size_bytes < self._memory_bytes for candidate in self._group)

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
        for place, candidate in enumerate(worth_trying(self._group, self._preferences.goal)):
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
        ability = capability(self._group[0])
        if self.plan is not None:
            slow = self.plan.verdict is not Verdict.GOOD
            return slow, -score(ability, self.plan.decode.likely, self._preferences)
        rates = [tps for _, tps, _ in self._fast or self._slow]
        if not self._fast and self._fastest is not None:
            rates.append(self._fastest[0])
        return not self._fast, -score(ability, max(rates), self._preferences)
