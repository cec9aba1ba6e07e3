"""When speculative decoding pays. Pure: measurements in, numbers of draft tokens out.

A step with more rows takes longer; how much longer depends on the machine (on a CPU without
repacked weights almost in proportion, on a GPU hardly at all) and is measured. A draft token that
is accepted saves a step. The acceptance rate is measured too, which costs nothing where draft
tokens cost nothing: one that was not computed can still be compared with the token that came.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

CONFIDENCE_LEVELS = 6
"""Acceptance is measured for each level of confidence: 0 (hardly any) to 5."""

_LEVEL_MARGINS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Logits: the margin from which on a draft model's token has the next level."""

_MIN_SPEEDUP = 1.15
"""Draft tokens are computed when they are expected to make decoding this much faster; less may be
noise."""

_PRIOR_WEIGHT = 4.0
"""Observations after which a sequence's own rate outweighs its prior."""

_DECAY = 0.97
"""Weight that an observation keeps after the next one of its level: the last thirty or so count."""


def match_confidence(length: int) -> int:
    """Return the confidence level of a token that follows an n-gram match of this length."""
    return min(max(length, 1).bit_length(), CONFIDENCE_LEVELS - 1)


def margin_confidence(margin: float) -> int:
    """Return the confidence level of a draft model's most likely token, whose logit is by `margin`
    larger than the next."""
    return sum(margin >= least for least in _LEVEL_MARGINS)


class AcceptanceRate:
    """The share of draft tokens that were accepted, for each level of confidence."""

    def __init__(self, prior: "AcceptanceRate | None" = None, *, first: float = 0.3) -> None:
        """`prior`: the rate of all sequences, which is expected of this one at first, and learns
        from it. `first`: what is expected without a prior."""
        self._prior = prior
        self._first = first
        self._accepted = [0.0] * CONFIDENCE_LEVELS
        self._observed = [0.0] * CONFIDENCE_LEVELS

    def observe(self, level: int, accepted: bool) -> None:
        self._accepted[level] = self._accepted[level] * _DECAY + accepted
        self._observed[level] = self._observed[level] * _DECAY + 1
        if self._prior is not None:
            self._prior.observe(level, accepted)

    def decay(self) -> None:
        """Give all observations less weight, so that what does not pay is tried again some day."""
        self._accepted = [each * _DECAY for each in self._accepted]
        self._observed = [each * _DECAY for each in self._observed]

    def of(self, level: int) -> float:
        """Return the probability that the next draft token of this level is accepted."""
        prior = self._first if self._prior is None else self._prior.of(level)
        return (self._accepted[level] + _PRIOR_WEIGHT * prior) / (
            self._observed[level] + _PRIOR_WEIGHT
        )

    def overall(self) -> float:
        """Return the probability that a draft token of an unknown level is accepted."""
        prior = self._first if self._prior is None else self._prior.overall()
        return (sum(self._accepted) + _PRIOR_WEIGHT * prior) / (sum(self._observed) + _PRIOR_WEIGHT)

    def cumulative(self, levels: Sequence[int]) -> tuple[float, ...]:
        """Return, for draft tokens one after the other, the probability that each of them and all
        before it are accepted."""
        return tuple(accumulate((self.of(level) for level in levels), mul))


class StepCost:
    """Seconds of a step by its number of rows, as measured."""

    _WEIGHT = 0.2
    """Of the newest measurement."""
    _OUTLIER = 2.0
    """A step that took this many times longer counts as having taken that: others compute too."""
    _STALE_AFTER = 256
    """Measurements after which one of another size is dropped, and tried again if it seems to pay:
    one try in so many steps costs little."""

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
        """Return the expected seconds: between two sizes that were measured on the line through
        them, beyond the largest in proportion. None when no size up to `rows` was measured."""
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
    probabilities: Sequence[tuple[float, ...]],
    *,
    running: int,
    most: int,
    step_s: Callable[[int], float | None],
    draft_s: float = 0.0,
) -> list[int]:
    """Return the number of draft tokens to compute for each sequence, so that tokens come fastest.

    `probabilities`: for each sequence those of its draft tokens (`AcceptanceRate.cumulative`).
    `running` rows are computed anyway; at most `most` more can be. `step_s(rows)` is the time of a
    step, `draft_s` that of drafting one token. While `step_s` knows nothing, none: as many as
    possible would be a gamble.
    """
    counts = [0] * len(probabilities)
    plain_s = step_s(running)
    if not plain_s:
        return counts
    likeliest = sorted(
        ((each, i) for i, of_sequence in enumerate(probabilities) for each in of_sequence),
        key=lambda pair: -pair[0],
    )[:most]
    best_tps, best_count, expected = _MIN_SPEEDUP * running / plain_s, 0, float(running)
    for count, (probability, _) in enumerate(likeliest, 1):
        expected += probability
        seconds = step_s(running + count)
        if seconds is not None and (tps := expected / (seconds + count * draft_s)) > best_tps:
            best_tps, best_count = tps, count
    for _, i in likeliest[:best_count]:
        counts[i] += 1
    return counts
