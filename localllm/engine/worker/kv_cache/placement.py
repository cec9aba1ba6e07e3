"""In which idle slot a prompt runs, where each slot has cells of its own and a copy costs time.

Pure: numbers in, a slot out; memory_kind.py collects them. Costs are in tokens that are computed
again, now or later.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An idle slot. `matched`: tokens of the prompt's beginning that it holds, of `held` in all;
    `unshared`: tokens at its end that no other slot holds. `last_used`: higher is later.
    `neighbours`: running slots beside it."""

    slot: int
    matched: int
    held: int
    unshared: int
    last_used: int
    neighbours: int

    @property
    def lost(self) -> int:
        """Tokens that nobody holds any more when the prompt runs here."""
        return min(self.unshared, self.held - self.matched)


def reading_cost(matched: int, reusable: int, copy_cost: int) -> int:
    """Return what it costs to come to `reusable` tokens of a prompt in a slot that has `matched`:
    computing the others, or a copy where that is less."""
    return min(reusable - matched, copy_cost)


def choose(candidates: Sequence[Candidate], reusable: int, copy_cost: int) -> int:
    """Choose the slot for a prompt of which some slot, idle or running, holds `reusable` tokens.

    A slot that loses nothing is there for everybody. Where there is none, the one used least
    recently is; and that which holds most of the prompt is asked for in any case: an edited
    conversation stays in its slot where what it gives up is less than what it would cost to go. Of
    these the cheapest is taken; of equal ones that with most running neighbours (llama.cpp computes
    slots in one go when they follow each other), then that used least recently.
    """
    lossless = [each for each in candidates if each.lost == 0]
    choice = lossless or [min(candidates, key=lambda each: (each.last_used, each.slot))]
    own = max(candidates, key=lambda each: (each.matched, -each.last_used, -each.slot))
    if own.matched:
        choice.append(own)

    def order(each: Candidate) -> tuple[int, int, int, int, int]:
        cost = each.lost + reading_cost(each.matched, reusable, copy_cost)
        return cost, -each.matched, -each.neighbours, each.last_used, each.slot

    return min(choice, key=order).slot


def neighbours(running: Collection[int], slot: int) -> int:
    """Return how many slots beside this one run."""
    return sum(each in running for each in (slot - 1, slot + 1))


def seat_beside(slot: int, idle: Collection[int], running: Collection[int]) -> int:
    """Return the idle slot with which `slot`, which is about to run, had better exchange its cells;
    itself when it has a running neighbour already, or nobody does."""
    if neighbours(running, slot):
        return slot
    best = max(idle, key=lambda each: (neighbours(running, each), -each))
    return best if neighbours(running, best) else slot
