"""Draft tokens from the text itself: those that followed earlier occurrences of its last tokens.

Answers that summarise, edit or rewrite repeat long stretches of their prompt (prompt lookup,
Saxena 2023). Pure: tokens in, draft tokens out. The search is that of deflate (RFC 1951, section
4): a chain of the earlier places where the last tokens stood, of which the longest match is taken.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

SHORTEST = 2
"""Fewer equal tokens than this are no match."""

LONGEST = 32
"""A longer match counts as one of this length."""

PLACES = 16
"""Earlier places that a lookup compares, the latest first. Bounds its cost."""


@dataclass(frozen=True, slots=True)
class NgramMatch:
    """Tokens that may come next, because the `length` tokens before them are the same."""

    tokens: tuple[int, ...]
    length: int


NO_MATCH = NgramMatch((), 0)


class NgramIndex:
    """The tokens of one sequence, searchable for their own end. Extending and searching take
    constant time per token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}
        """For each pair of tokens: the place behind its latest occurrence."""
        self._earlier = array("q", [0])
        """For each place: the place before it that follows the same pair, 0 for none."""

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

    def propose(self, count: int) -> NgramMatch:
        """Return `count` tokens that followed the longest match of the text's end among its latest
        `PLACES` occurrences; of equal ones the latest. A match that reaches the end of the text
        repeats itself."""
        place, length = self._longest_match()
        if not length:
            return NO_MATCH
        period = len(self._tokens) - place
        tail = self._tokens[place : place + count]
        return NgramMatch(tuple(tail[i % period] for i in range(count)), length)

    def _longest_match(self) -> tuple[int, int]:
        """Return the place behind the longest match, and its length (0: there is none)."""
        best, longest = 0, 0
        place = self._earlier[len(self._tokens)]
        for _ in range(PLACES):
            if place == 0 or longest == LONGEST:
                break
            length = self._match_length(place)
            if length > longest:
                best, longest = place, length
            place = self._earlier[place]
        return best, longest

    def _match_length(self, place: int) -> int:
        """The number of tokens before `place` that equal those at the end of the text; at most
        LONGEST."""
        end, most = len(self._tokens), min(place, LONGEST)
        for length in range(SHORTEST, most):
            if self._tokens[place - length - 1] != self._tokens[end - length - 1]:
                return length
        return most
