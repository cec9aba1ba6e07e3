"""Draft tokens are computed where it was measured to pay, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.speculative.acceptance import (
    CONFIDENCE_LEVELS,
    AcceptanceRate,
    StepCost,
    allot,
    match_confidence,
)

probability = st.floats(0, 1)
proposal = st.lists(probability, max_size=8).map(lambda each: tuple(sorted(each, reverse=True)))
proposals = st.lists(proposal, max_size=6)


def proportional(rows: int) -> float:
    """Every row costs the same: the worst machine for speculation."""
    return 0.01 * rows


def constant(rows: int) -> float:
    """More rows cost nothing: the best machine for speculation."""
    return 0.01


@given(proposals, st.integers(1, 8), st.integers(0, 20))
def test_where_every_row_costs_a_step_nothing_is_drafted(
    proposals: list[tuple[float, ...]], running: int, most: int
) -> None:
    counts = allot(proposals, running=running, most=most, step_s=proportional)
    assert counts == [0] * len(proposals)


@given(proposals, st.integers(1, 8), st.integers(0, 20))
def test_never_more_is_computed_than_allowed_or_proposed(
    proposals: list[tuple[float, ...]], running: int, most: int
) -> None:
    counts = allot(proposals, running=running, most=most, step_s=constant)
    assert sum(counts) <= most
    assert all(count <= len(each) for count, each in zip(counts, proposals, strict=True))


def test_where_rows_cost_nothing_all_likely_tokens_are_computed() -> None:
    assert allot([(0.9, 0.8, 0.7)], running=1, most=7, step_s=constant) == [3]


def test_few_rows_go_to_the_most_likely_tokens() -> None:
    counts = allot([(0.5, 0.2), (0.9, 0.8, 0.7)], running=2, most=3, step_s=constant)
    assert counts == [0, 3]


def test_without_a_measurement_nothing_is_computed() -> None:
    assert allot([(1.0,)], running=1, most=7, step_s=lambda rows: None) == [0]


def test_drafts_that_cost_time_have_to_save_that_too() -> None:
    proposals = [(0.9, 0.8)]
    assert allot(proposals, running=1, most=7, step_s=constant, draft_s=0.001) == [2]
    assert allot(proposals, running=1, most=7, step_s=constant, draft_s=0.02) == [0]


@given(st.lists(st.tuples(st.integers(0, CONFIDENCE_LEVELS - 1), st.booleans()), max_size=60))
def test_a_rate_is_a_probability(observed: list[tuple[int, bool]]) -> None:
    of_all = AcceptanceRate()
    own = AcceptanceRate(of_all)
    for level, accepted in observed:
        own.observe(level, accepted)
    for level in range(CONFIDENCE_LEVELS):
        assert 0 < own.of(level) < 1
    probabilities = own.cumulative([0, 1, 2, 3])
    assert list(probabilities) == sorted(probabilities, reverse=True)


def test_a_rate_is_learned_and_passed_on() -> None:
    of_all = AcceptanceRate()
    own = AcceptanceRate(of_all)
    for _ in range(50):
        own.observe(3, accepted=True)
        own.observe(1, accepted=False)
    assert own.of(3) > 0.95
    assert own.of(1) < 0.05
    assert AcceptanceRate(of_all).of(3) > 0.9


def test_what_did_not_pay_is_tried_again_some_day() -> None:
    rate = AcceptanceRate(first=0.5)
    for _ in range(50):
        rate.observe(2, accepted=False)
    low = rate.of(2)
    for _ in range(300):
        rate.decay()
    assert low < 0.1
    assert rate.of(2) > 0.4


def test_a_longer_match_has_no_lower_confidence() -> None:
    levels = [match_confidence(length) for length in range(100)]
    assert levels == sorted(levels)
    assert levels[-1] == CONFIDENCE_LEVELS - 1


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


def test_an_old_measurement_is_dropped() -> None:
    cost = StepCost()
    cost.observe(1, 0.010)
    cost.observe(8, 9.0)
    cost.observe(512, 1.0)
    for _ in range(250):
        cost.observe(1, 0.010)
        cost.observe(512, 1.0)
    assert cost.of(8) == pytest.approx(0.010 + 7 * 0.99 / 511)
