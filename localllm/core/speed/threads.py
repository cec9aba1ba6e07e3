"""The choice of a thread count by a short measurement: the topology's count against fewer.

Decoding is bound by the memory, which fewer threads can saturate; the others then only meet at
barriers, and take power and clock from them. How many are too many depends on the machine and the
size of the model, so it is measured, and never more are tried than the topology and the quota allow
(`core.hardware.Cpu.threads`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

FEWEST_TO_TRY = 3
"""With two threads nothing is tried: half of two cores is never as fast, and a busy machine would
make it look so."""

NOTABLY_FASTER = 1.08
"""The least gain for which fewer threads are taken: steps of one count differ by some percent."""

BUDGET_S = 1.0
BUDGET_OF_LOAD = 0.2
"""A measurement takes at most so long, or that part of the time that the load took."""

_MOST_ROUNDS, _LEAST_ROUNDS = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTrial:
    """The seconds of each step that decoded one token with so many threads, round by round."""

    threads: int
    steps_s: tuple[float, ...]

    @property
    def best_s(self) -> float:
        """The fastest step: other programs only ever slow one down."""
        return min(self.steps_s)


def counts_to_try(topology: int) -> tuple[int, ...]:
    """Return the counts to compare, the topology's own first; none where nothing is to be won."""
    if topology < FEWEST_TO_TRY:
        return ()
    return tuple(sorted({topology, round(0.75 * topology), topology // 2}, reverse=True))


def rounds_in(step_s: float, counts: int, load_s: float) -> int:
    """Return how often each count can decode a token within the budget; 0 when that is too seldom
    to compare them."""
    budget = max(BUDGET_S, BUDGET_OF_LOAD * load_s)
    rounds = min(_MOST_ROUNDS, int(budget / (step_s * counts))) if step_s > 0 else _MOST_ROUNDS
    return rounds if rounds >= _LEAST_ROUNDS else 0


def best_of(trials: Sequence[ThreadTrial]) -> int:
    """Return the count to use: the first one's, unless another is notably faster, in every round.
    Raises ValueError for no trials."""
    if not trials:
        raise ValueError("no trials to choose from")
    usual, fastest = trials[0], min(trials, key=lambda trial: trial.best_s)
    wins = all(mine < its for mine, its in zip(fastest.steps_s, usual.steps_s, strict=True))
    return fastest.threads if wins and _notably(fastest, usual) else usual.threads


def _notably(fewer: ThreadTrial, usual: ThreadTrial) -> bool:
    return fewer.best_s * NOTABLY_FASTER <= usual.best_s


def size_class(size_bytes: int) -> int:
    """Return the class of a model's size, whose members share a thread count: the power of two
    that is not above it."""
    return max(size_bytes, 1).bit_length() - 1
