"""What the models of the list need and how fast they are on this machine: worked out in threads.

Two threads, so that a key never waits: the sizes, of the rows that are seen first, and beside them
what takes longer, the rates and the order in which models are suggested. Each thread does one thing
at a time, and a new question makes what was not begun of the old one needless.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from localllm.core.hardware import HardwareInfo
from localllm.core.recommend import Candidate, FitPlan, Machine, Preferences, evaluate, plans
from localllm.core.recommend.quant_sizes import QuantSize, QuantSizes
from localllm.core.sizing.capacity import largest_context, most_parallel
from localllm.core.sizing.load import KvType
from localllm.core.speed import Estimate
from localllm.errors import GgufError, LocalLLMError, UsageError
from localllm.tui.app_words import app_words
from localllm.tui.screens.models.filtering import KnownSizes
from localllm.tui.screens.models.groups import ModelGroup, QuantRow
from localllm.tui.widgets.memory_bar import MachineMemory

T = TypeVar("T")

CONTEXTS: Final = tuple(2**n for n in range(10, 19))
PEOPLE: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
KV_TYPES: Final = (KvType.F16, KvType.Q8_0, KvType.Q4_0)

_CHUNK: Final = 8
"""Rows that are sized in one go: some milliseconds, so that bars begin to move at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisMachine:
    """This machine as the list plans with it, without the models that are in memory now: they make
    room for another."""

    hardware: HardwareInfo
    machine: Machine
    memory: MachineMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDetails:
    """What the details of a row say beyond its size: the plan, and how much more would fit. None:
    not known, or nothing fits."""

    plan: FitPlan | None
    largest_context: int | None
    most_people: int | None


def step(values: Sequence[int], current: int, by: int) -> int:
    """Return the next value of a scale; one between two of its marks goes to the nearest."""
    if by > 0:
        return next((value for value in values if value > current), current)
    return next((value for value in reversed(values) if value < current), current)


@dataclass(slots=True)
class _Answers:
    """The answers to one question (`Preferences`), by the key of a row or a group."""

    sizes: dict[str, QuantSize] = field(default_factory=dict)
    rates: dict[str, Estimate] = field(default_factory=dict)
    plans: dict[str, FitPlan] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)
    ranked: bool = False


class ModelSizing:
    """The sizes and rates of rows, for one machine and whatever question is asked.

    Belongs to the app's loop; `close` when it is not needed any more.
    """

    def __init__(self, this: ThisMachine, before: "ModelSizing | None" = None) -> None:
        """`before` is what was worked out when the machine was another: what does not depend on it
        is taken over."""
        self.this = this
        budget = this.machine.budget
        self._sizes: QuantSizes = (
            QuantSizes(budget) if before is None else before._sizes.in_budget(budget)
        )
        self._detail_sizes = QuantSizes(budget)
        self._answers: dict[Preferences, _Answers] = {}
        self._unsizable: dict[str, str] = {}
        self._sizing = ThreadPoolExecutor(1, "localllm-sizes")
        self._planning = ThreadPoolExecutor(1, "localllm-plans")

    def is_like(self, this: ThisMachine, tolerance_bytes: int) -> bool:
        """Tell whether a machine is this one with about as much free memory."""
        mine, other = self.this.machine.budget, this.machine.budget
        names = [gpu.name for gpu in mine.gpus] == [gpu.name for gpu in other.gpus]
        free = zip(
            (mine.host_bytes, *(gpu.free_bytes for gpu in mine.gpus)),
            (other.host_bytes, *(gpu.free_bytes for gpu in other.gpus)),
            strict=False,
        )
        return names and all(abs(one - two) <= tolerance_bytes for one, two in free)

    def close(self) -> None:
        """Let the threads end."""
        for executor in (self._sizing, self._planning):
            executor.shutdown(wait=False, cancel_futures=True)

    def known(self, question: Preferences, before: KnownSizes) -> KnownSizes:
        """Return what is known; while the models were not ranked for this question, they keep the
        ranks that they had `before`."""
        answers = self._of(question)
        ranked = answers if answers.ranked else before
        return KnownSizes(
            sizes=answers.sizes, rates=answers.rates, ranks=ranked.ranks, best=ranked.best
        )

    def ranked(self, question: Preferences) -> bool:
        """Tell whether the models were ranked for this question."""
        return self._of(question).ranked

    def problem(self, row: QuantRow) -> str | None:
        """Say why a row cannot be sized; None when it can, or was not tried."""
        return self._unsizable.get(row.key)

    async def size(
        self, rows: Iterable[QuantRow], question: Preferences, progress: Callable[[], bool]
    ) -> None:
        """Size rows, in their order, some at a time; `progress` is called after each such step and
        returns False when no more is wanted."""
        answers = self._of(question)
        missing = [
            row
            for row in rows
            if row.candidate is not None
            and row.key not in answers.sizes
            and row.key not in self._unsizable
        ]
        for first in range(0, len(missing), _CHUNK):
            chunk = missing[first : first + _CHUNK]
            found, unsizable = await _run(self._sizing, partial(self._size, chunk, question))
            answers.sizes |= found
            self._unsizable |= unsizable
            if not progress():
                return

    def _size(
        self, rows: Sequence[QuantRow], question: Preferences
    ) -> tuple[dict[str, QuantSize], dict[str, str]]:
        found, unsizable = dict[str, QuantSize](), dict[str, str]()
        for row in rows:
            assert row.candidate is not None
            try:
                found[row.key] = self._sizes.size(row.candidate, question)
            except LocalLLMError as error:
                unsizable[row.key] = app_words(str(error))
        return found, unsizable

    async def time(
        self, rows: Iterable[QuantRow], question: Preferences, progress: Callable[[], bool]
    ) -> None:
        """Estimate the rates of rows, one after the other, as `size` does."""
        answers = self._of(question)
        for row in rows:
            if row.candidate is None or row.key in answers.rates or row.key in self._unsizable:
                continue
            plan = await _run(self._planning, partial(self._plan, row.candidate, question))
            if plan is not None:
                answers.rates[row.key], answers.plans[row.key] = plan.decode, plan
            if not progress():
                return

    def _plan(self, candidate: Candidate, question: Preferences) -> FitPlan | None:
        try:
            return evaluate(candidate, question, self.this.machine)
        except (GgufError, UsageError):
            return None

    async def rank(self, groups: Sequence[ModelGroup], question: Preferences) -> None:
        """Put the models in the order of a suggestion, and choose the file of each."""
        answers = self._of(question)
        if answers.ranked:
            return
        rows = {
            row.candidate.file: (group, row)
            for group in groups
            for row in group.rows
            if row.candidate is not None and row.key not in self._unsizable
        }
        candidates = [row.candidate for _, row in rows.values() if row.candidate is not None]
        found = await _run(self._planning, partial(self._rank, candidates, question))
        for place, plan in enumerate(found):
            group, row = rows[plan.candidate.file]
            answers.ranks[group.key], answers.best[group.key] = place, row.key
            answers.rates[row.key], answers.plans[row.key] = plan.decode, plan
        answers.ranked = True

    def _rank(self, candidates: Sequence[Candidate], question: Preferences) -> tuple[FitPlan, ...]:
        try:
            return plans(candidates, question, self.this.machine, limit=len(candidates)).plans
        except LocalLLMError:  # one header that cannot be sized must not hide all the others
            return ()

    async def details(self, row: QuantRow, question: Preferences) -> RowDetails | None:
        """Work out what the details of a row say; None for one that cannot be sized."""
        if row.candidate is None or row.key in self._unsizable:
            return None
        return await _run(self._planning, partial(self._details, row.candidate, question))

    def _details(self, candidate: Candidate, question: Preferences) -> RowDetails | None:
        plan = self._plan(candidate, question)
        if plan is None:
            return None
        spec, budget = self._detail_sizes.spec(candidate), self.this.machine.budget
        settings = self._detail_sizes.load(candidate, question)
        try:
            return RowDetails(
                plan=plan,
                largest_context=largest_context(spec, settings, budget),
                most_people=most_parallel(spec, settings, budget),
            )
        except (GgufError, UsageError):
            return RowDetails(plan=plan, largest_context=None, most_people=None)

    def plan(self, row: QuantRow, question: Preferences) -> FitPlan | None:
        """Return the plan of a row that was timed or ranked before."""
        return self._of(question).plans.get(row.key)

    def _of(self, question: Preferences) -> _Answers:
        return self._answers.setdefault(question, _Answers())


async def _run(executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, call)
