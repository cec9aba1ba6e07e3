"""Join rankings that have nothing in common but the things they rank."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

K = 60
"""Of Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual
rank learning methods" (SIGIR 2009)."""

T = TypeVar("T", bound=Hashable)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[T]], *, k: int = K) -> list[T]:
    """Return everything that is in a ranking, the best first: its score is the sum of
    1 / (k + rank) over the rankings. What is equal stays in the order in which it came."""
    scores: defaultdict[T, float] = defaultdict(float)
    for ranking in rankings:
        for rank, each in enumerate(dict.fromkeys(ranking), 1):
            scores[each] += 1 / (k + rank)
    return sorted(scores, key=lambda each: -scores[each])
