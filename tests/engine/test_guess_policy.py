"""Guess where it was measured to pay, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.speculative.acceptance import (
    KINDS,
    Acceptance,
    StepCost,
    allot,
    kind_of_match,
)

chance = st.floats(0, 1)
offer = st.lists(chance, max_size=8).map(lambda each: tuple(sorted(each, reverse=True)))
offers = st.lists(offer, max_size=6)


def in_proportion(rows: int) -> float:
    """Every row costs the same: the worst machine for guessing."""
    return 0.01 * rows


def for_nothing(rows: int) -> float:
    """More rows cost nothing: the best machine for guessing."""
    return 0.01


@given(offers, st.integers(1, 8), st.integers(0, 20))
def test_where_every_row_costs_a_step_nothing_is_guessed(
    offers: list[tuple[float, ...]], running: int, room: int
) -> None:
    counts = allot(offers, running=running, room=room, seconds=in_proportion)
    assert counts == [0] * len(offers)


@given(offers, st.integers(1, 8), st.integers(0, 20))
def test_never_more_is_guessed_than_there_is_room_for_or_than_was_offered(
    offers: list[tuple[float, ...]], running: int, room: int
) -> None:
    counts = allot(offers, running=running, room=room, seconds=for_nothing)
    assert sum(counts) <= room
    assert all(count <= len(each) for count, each in zip(counts, offers, strict=True))


def test_where_rows_cost_nothing_what_is_likely_is_guessed() -> None:
    assert allot([(0.9, 0.8, 0.7)], running=1, room=7, seconds=for_nothing) == [3]


def test_little_room_goes_to_the_likeliest_guesses() -> None:
    counts = allot([(0.5, 0.2), (0.9, 0.8, 0.7)], running=2, room=3, seconds=for_nothing)
    assert counts == [0, 3]


def test_without_a_measurement_nothing_is_guessed() -> None:
    assert allot([(1.0,)], running=1, room=7, seconds=lambda rows: None) == [0]


def test_guesses_that_must_be_computed_have_to_earn_that_too() -> None:
    offers = [(0.9, 0.8)]
    assert allot(offers, running=1, room=7, seconds=for_nothing, guess_s=0.001) == [2]
    assert allot(offers, running=1, room=7, seconds=for_nothing, guess_s=0.02) == [0]


@given(st.lists(st.tuples(st.integers(0, KINDS - 1), st.booleans()), max_size=60))
def test_a_chance_is_a_probability(seen: list[tuple[int, bool]]) -> None:
    everybody = Acceptance()
    own = Acceptance(everybody)
    for kind, right in seen:
        own.observe(kind, right)
    for kind in range(KINDS):
        assert 0 < own.chance(kind) < 1
    chances = own.chances([0, 1, 2, 3])
    assert list(chances) == sorted(chances, reverse=True)


def test_what_was_seen_is_believed_and_passed_on() -> None:
    everybody = Acceptance()
    own = Acceptance(everybody)
    for _ in range(50):
        own.observe(3, right=True)
        own.observe(1, right=False)
    assert own.chance(3) > 0.95
    assert own.chance(1) < 0.05
    assert Acceptance(everybody).chance(3) > 0.9


def test_what_did_not_pay_is_tried_again_some_day() -> None:
    acceptance = Acceptance(first=0.5)
    for _ in range(50):
        acceptance.observe(2, right=False)
    low = acceptance.chance(2)
    for _ in range(300):
        acceptance.fade()
    assert low < 0.1 < 0.4 < acceptance.chance(2)


def test_a_longer_match_is_of_no_lesser_kind() -> None:
    kinds = [kind_of_match(match) for match in range(100)]
    assert kinds == sorted(kinds)
    assert kinds[-1] == KINDS - 1


def test_a_cost_between_two_measured_ones_lies_between_them() -> None:
    cost = StepCost()
    assert cost.of(1) is None
    cost.observe(1, 0.010)
    cost.observe(512, 0.010 + 511 * 0.002)
    assert cost.of(1) == pytest.approx(0.010)
    assert cost.of(8) == pytest.approx(0.010 + 7 * 0.002)
    assert cost.of(1024) == pytest.approx(2 * (0.010 + 511 * 0.002))


def test_one_slow_step_changes_a_cost_little_and_many_change_it() -> None:
    cost = StepCost()
    cost.observe(1, 0.010)
    cost.observe(1, 5.0)
    assert cost.of(1) == pytest.approx(0.012)
    for _ in range(60):
        cost.observe(1, 0.030)
    assert cost.of(1) == pytest.approx(0.030, rel=0.01)


def test_an_old_measurement_is_forgotten() -> None:
    cost = StepCost()
    cost.observe(1, 0.010)
    cost.observe(8, 9.0)
    cost.observe(512, 1.0)
    for _ in range(250):
        cost.observe(1, 0.010)
        cost.observe(512, 1.0)
    assert cost.of(8) == pytest.approx(0.010 + 7 * 0.99 / 511)
