"""Guessing from the text itself: what followed the last time these tokens stood here.

Answers that summarise, edit or rewrite repeat long stretches of their prompt (prompt lookup,
Saxena 2023). Pure: tokens in, guesses out. The search is that of deflate (RFC 1951, section 4): a
chain of the earlier places where the last tokens stood, of which the longest match is taken.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

SHORTEST = 2
"""Fewer equal tokens than this are no match."""

LONGEST = 32
"""Longer matches are not told apart."""

PLACES = 16
"""Earlier places that are looked at, the latest first: what a lookup costs at most."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, because `match` tokens before them are the same."""

    tokens: tuple[int, ...]
    match: int


NOTHING = Guess((), 0)


class NgramIndex:
    """The tokens of one sequence, to be searched for their own end. Both ways take constant time
    for each token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}
        """Where the text went on after the latest occurrence of two tokens."""
        self._earlier = array("q", [0])
        """For every place: the place before it that follows the same two tokens, 0 for none."""

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            place = len(self._tokens) + 1
            pair = (self._tokens[-1] if self._tokens else -1, token)
            self._tokens.append(token)
            self._earlier.append(self._latest.get(pair, 0) if place >= SHORTEST else 0)
            self._latest[pair] = place

    def guess(self, most: int) -> Guess:
        """Up to `most` tokens that followed the longest match of the text's end among its latest
        `PLACES` occurrences; of equal ones the latest. A match that reaches the end of the text
        repeats itself."""
        place, match = self._best()
        if not match:
            return NOTHING
        period = len(self._tokens) - place
        tail = self._tokens[place : place + most]
        return Guess(tuple(tail[i % period] for i in range(most)), match)

    def _best(self) -> tuple[int, int]:
        """The place after the longest match, and how long that is (0: there is none)."""
        best, longest = 0, 0
        place = self._earlier[len(self._tokens)]
        for _ in range(PLACES):
            if place == 0 or longest == LONGEST:
                break
            match = self._match(place)
            if match > longest:
                best, longest = place, match
            place = self._earlier[place]
        return best, longest

    def _match(self, place: int) -> int:
        """How many tokens before `place` are those at the end of the text; at most LONGEST."""
        end, most = len(self._tokens), min(place, LONGEST)
        for length in range(SHORTEST, most):
            if self._tokens[place - length - 1] != self._tokens[end - length - 1]:
                return length
        return most
