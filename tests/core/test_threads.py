"""The choice of a thread count from short measurements."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.speed.threads import (
    BUDGET_S,
    ThreadTrial,
    best_of,
    counts_to_try,
    rounds_in,
    size_class,
)


@settings(max_examples=50)
@given(st.integers(1, 512))
def test_never_more_threads_are_tried_than_the_topology_has(topology: int) -> None:
    counts = counts_to_try(topology)
    assert all(1 <= count <= topology for count in counts)
    if topology < 3:
        assert counts == ()
    else:
        assert counts[0] == topology
        assert len(set(counts)) == len(counts) > 1


@settings(max_examples=50)
@given(st.floats(1e-4, 100.0), st.integers(2, 3), st.floats(0.0, 60.0))
def test_a_comparison_stays_within_its_budget(step_s: float, counts: int, load_s: float) -> None:
    rounds = rounds_in(step_s, counts, load_s)
    assert rounds in (0, 2, 3, 4)
    assert rounds * counts * step_s <= max(BUDGET_S, 0.2 * load_s) * (1 + 1e-9)


def trial(threads: int, *steps_s: float) -> ThreadTrial:
    return ThreadTrial(threads=threads, steps_s=steps_s)


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([trial(8, 0.10, 0.10), trial(6, 0.08, 0.09), trial(4, 0.12, 0.12)], 6),
        ([trial(8, 0.10, 0.10), trial(6, 0.095, 0.095)], 8),  # not notably
        ([trial(8, 0.10, 0.30), trial(6, 0.11, 0.05)], 8),  # not in every round
        ([trial(8, 0.10)], 8),
    ],
)
def test_fewer_are_taken_when_they_are_notably_faster_in_every_round(
    trials: list[ThreadTrial], best: int
) -> None:
    assert best_of(trials) == best


def test_nothing_is_chosen_from_nothing() -> None:
    with pytest.raises(ValueError, match="no trials"):
        best_of([])


@pytest.mark.parametrize(("size", "number"), [(0, 0), (2**32 - 1, 31), (2**32, 32), (5 << 30, 32)])
def test_models_between_two_powers_of_two_are_of_one_class(size: int, number: int) -> None:
    assert size_class(size) == number
