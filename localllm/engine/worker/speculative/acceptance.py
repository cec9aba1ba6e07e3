"""When guessing pays. Pure: what was measured in, how many tokens to guess out.

A step with more rows takes longer; how much longer depends on the machine (on a CPU without
repacked weights almost in proportion, on a GPU hardly at all) and is measured. A guessed token
that is right saves a step; how often that happens is measured too, and costs nothing to measure
where guesses are free: a guess that is not computed can still be compared with what came.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Protocol

KINDS = 6
"""Guesses are told apart by how sure they are, 0 (hardly) to KINDS - 1."""

_LEADS = (0.5, 1.0, 2.0, 4.0, 8.0)

_CERTAINLY = 1.15
"""What is expected to be this much faster is done; less may be noise."""

_OUTWEIGHED_AFTER = 4.0
"""Observations after which a sequence's own count outweighs what was seen before it."""

_FADES = 0.97
"""What is left of an observation after the next one of its kind: the last thirty or so count."""


def kind_of_match(match: int) -> int:
    """How sure a guess is that follows `match` equal tokens."""
    return min(max(match, 1).bit_length(), KINDS - 1)


def kind_of_lead(lead: float) -> int:
    """How sure a draft model is of its likeliest token, which leads by so much (logits)."""
    return sum(lead >= least for least in _LEADS)


class Acceptance:
    """How often guesses of each kind were right, with `before` as what to believe at first."""

    def __init__(self, before: "Acceptance | None" = None, *, first: float = 0.3) -> None:
        self._before = before
        self._first = first
        self._right = [0.0] * KINDS
        self._seen = [0.0] * KINDS

    def observe(self, kind: int, right: bool) -> None:
        self._right[kind] = self._right[kind] * _FADES + right
        self._seen[kind] = self._seen[kind] * _FADES + 1
        if self._before is not None:
            self._before.observe(kind, right)

    def fade(self) -> None:
        """Believe a little less in what was seen: what does not pay is tried again some day."""
        self._right = [each * _FADES for each in self._right]
        self._seen = [each * _FADES for each in self._seen]

    def chance(self, kind: int) -> float:
        """The probability that the next guess of this kind is right."""
        first = self._first if self._before is None else self._before.chance(kind)
        weight = _OUTWEIGHED_AFTER
        return (self._right[kind] + weight * first) / (self._seen[kind] + weight)

    def average(self) -> float:
        """The probability that a guess of a kind that is not known yet is right."""
        first = self._first if self._before is None else self._before.average()
        weight = _OUTWEIGHED_AFTER
        return (sum(self._right) + weight * first) / (sum(self._seen) + weight)

    def chances(self, kinds: Sequence[int]) -> tuple[float, ...]:
        """For guesses one after the other: the probability that each and all before it are
        right."""
        return tuple(accumulate((self.chance(kind) for kind in kinds), mul))


class StepCost:
    """Seconds of a step by its number of rows, as measured."""

    _WEIGHT = 0.2
    """Of the newest measurement."""
    _OUTLIER = 2.0
    """A step that took this many times longer counts as having taken that: others compute too."""
    _STALE_AFTER = 256
    """Measurements after which one of another size is forgotten, and tried again if it seems to
    pay: one try in so many steps costs little."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._measured: dict[int, int] = {}
        self._count = 0

    def observe(self, rows: int, seconds: float) -> None:
        self._count += 1
        known = self._seconds.get(rows)
        if known is None:
            self._seconds[rows] = seconds
        else:
            newest = min(seconds, self._OUTLIER * known)
            self._seconds[rows] = known + self._WEIGHT * (newest - known)
        self._measured[rows] = self._count
        for other, when in list(self._measured.items()):
            if self._count - when > self._STALE_AFTER:
                del self._measured[other], self._seconds[other]

    def of(self, rows: int) -> float | None:
        """Expected seconds; between two sizes that were measured on the line through them, beyond
        the largest in proportion. None when no size up to `rows` was measured."""
        below = max((each for each in self._seconds if each <= rows), default=None)
        if below is None:
            return None
        above = min((each for each in self._seconds if each >= rows), default=None)
        if above is None:
            return self._seconds[below] * rows / below
        if above == below:
            return self._seconds[rows]
        share = (rows - below) / (above - below)
        return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])


def allot(
    offers: Sequence[tuple[float, ...]],
    *,
    running: int,
    room: int,
    seconds: Callable[[int], float | None],
    guess_s: float = 0.0,
) -> list[int]:
    """How many guesses of each offer to compute, so that tokens come fastest.

    An offer is one sequence's chances (`Acceptance.chances`), best first. `running` rows are
    computed anyway; at most `room` more can be. `seconds(rows)` is what a step costs, `guess_s`
    what each guess costs besides. As many as possible of the likeliest when `seconds` knows
    nothing would be a gamble: then none.
    """
    counts = [0] * len(offers)
    plain_s = seconds(running)
    if not plain_s:
        return counts
    likeliest = sorted(
        ((chance, which) for which, chances in enumerate(offers) for chance in chances),
        key=lambda each: -each[0],
    )[:room]
    best, wanted, expected = _CERTAINLY * running / plain_s, 0, float(running)
    for number, (chance, _) in enumerate(likeliest, 1):
        expected += chance
        step_s = seconds(running + number)
        if step_s is not None and (rate := expected / (step_s + number * guess_s)) > best:
            best, wanted = rate, number
    for _, which in likeliest[:wanted]:
        counts[which] += 1
    return counts


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and how sure each is (a kind of `policy.Acceptance`)."""

    tokens: tuple[int, ...]
    kinds: tuple[int, ...]


NO_DRAFT = Draft((), ())


class Drafter(Protocol):
    """Guesses by computing."""

    def draft(self, texts: Mapping[int, Sequence[int]], most: int) -> dict[int, Draft]:
        """Up to `most` tokens for each of these slots, whose texts are given from their first
        token to their last. A slot may be missing: its text is not read yet."""
