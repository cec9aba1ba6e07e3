"""The counts of duels between two models: who was preferred, how often. No question, no answer."""

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from localllm.chat.private_file import PrivateFile
from localllm.library.files import paths

_VERSION = 1


class Vote(StrEnum):
    """Which of two answers was better."""

    LEFT = "left"
    RIGHT = "right"
    SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The votes between two models; `first` is the one whose name sorts first."""

    first: str
    second: str
    first_wins: int = 0
    second_wins: int = 0
    same: int = 0

    @property
    def duels(self) -> int:
        return self.first_wins + self.second_wins + self.same

    def wins(self, model: str) -> int:
        """Return the duels that one of the two has won."""
        return self.first_wins if model == self.first else self.second_wins


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    localllm_duels: int = _VERSION
    tallies: tuple[Tally, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All duels of one model."""

    model: str
    wins: int
    duels: int


class DuelStore:
    """The counts of this user. A model that fought itself is not counted."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = PrivateFile(path or paths.duels_file(), _Document, _Document())

    def tally(self, one: str, other: str) -> Tally:
        """Return the votes between two models. Raises StoreError."""
        return _of(self._file.read(), one, other)

    def standings(self) -> tuple[Standing, ...]:
        """Return every model with its duels, the one with the largest share of wins first."""
        wins: dict[str, int] = {}
        duels: dict[str, int] = {}
        for tally in self._file.read().tallies:
            for model in (tally.first, tally.second):
                wins[model] = wins.get(model, 0) + tally.wins(model)
                duels[model] = duels.get(model, 0) + tally.duels
        found = [Standing(model=each, wins=wins[each], duels=duels[each]) for each in duels]
        return tuple(sorted(found, key=lambda each: (-each.wins / max(each.duels, 1), each.model)))

    def record(self, left: str, right: str, vote: Vote) -> Tally:
        """Count a vote, and return the votes between the two. Raises StoreError."""
        if left == right:
            return self.tally(left, right)

        def with_vote(document: _Document) -> _Document:
            before = _of(document, left, right)
            after = _voted(before, left if vote is Vote.LEFT else right, vote)
            others = tuple(
                each
                for each in document.tallies
                if (each.first, each.second) != (before.first, before.second)
            )
            return replace(document, tallies=(*others, after))

        return _of(self._file.change(with_vote), left, right)

    def forget(self) -> None:
        """Erase every count. Raises StoreError."""
        self._file.change(lambda document: replace(document, tallies=()))


def _of(document: _Document, one: str, other: str) -> Tally:
    first, second = sorted((one, other))
    for each in document.tallies:
        if (each.first, each.second) == (first, second):
            return each
    return Tally(first=first, second=second)


def _voted(tally: Tally, winner: str, vote: Vote) -> Tally:
    if vote is Vote.SAME:
        return replace(tally, same=tally.same + 1)
    if winner == tally.first:
        return replace(tally, first_wins=tally.first_wins + 1)
    return replace(tally, second_wins=tally.second_wins + 1)


def sides(one: str, other: str, *, blind: bool, chance: random.Random) -> tuple[str, str]:
    """Return who stands left and right: by chance when the names are hidden."""
    return (other, one) if blind and chance.random() < 0.5 else (one, other)
