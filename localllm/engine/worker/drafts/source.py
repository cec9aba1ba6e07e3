"""Where guesses come from that have to be computed: another model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


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
