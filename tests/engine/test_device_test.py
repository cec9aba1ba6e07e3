"""A device's logits against the processor's: distances, and what is a fault."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from localllm.core.hardware import (
    LEAST_AGREEMENT,
    MOST_MEAN_KL,
    WORST_KL,
    DeviceTest,
)
from localllm.engine.worker.device_test import Row, compare, divergence

rows = arrays(np.float32, 12, elements=st.floats(-80, 80, width=32))


@settings(max_examples=60)
@given(rows, rows, st.floats(-20, 20, width=32))
def test_a_divergence_is_bounded_and_ignores_what_softmax_ignores(
    right: Row, found: Row, shift: float
) -> None:
    distance = divergence(right, found)
    assert 0 <= distance <= WORST_KL
    assert divergence(right, right) == 0
    assert math.isclose(distance, divergence(right, found + np.float32(shift)), abs_tol=2e-3)


def test_a_known_divergence_is_what_the_formula_gives() -> None:
    half, quarter = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32))
    assert math.isclose(
        divergence(half, quarter), 0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel_tol=1e-6
    )


def test_what_is_no_number_is_the_worst_there_is() -> None:
    right = np.arange(4, dtype=np.float32)
    for wrong in (np.nan, np.inf):
        found = right.copy()
        found[1] = wrong
        assert divergence(right, found) == WORST_KL
    assert divergence(right, np.full(4, -np.inf, np.float32)) == WORST_KL
    assert not compare({0: right}, {0: np.full(4, np.nan, np.float32)}).passed


def test_a_token_that_both_have_masked_is_no_difference() -> None:
    masked = np.array([1.0, -np.inf, 2.0], np.float32)
    assert divergence(masked, masked) == 0
    assert divergence(np.array([1.0, 1.0, 2.0], np.float32), masked) == WORST_KL


def test_positions_are_compared_with_their_own() -> None:
    reference = {i: np.eye(8, dtype=np.float32)[i] * 20 for i in range(8)}
    assert compare(reference, {3: reference[3], 7: reference[7]}) == DeviceTest(
        rows=2, mean_kl=0.0, agreement=1.0
    )
    swapped = compare(reference, {3: reference[7], 7: reference[3]})
    assert swapped.agreement == 0
    assert not swapped.passed


def test_either_figure_alone_is_enough_to_fail() -> None:
    good = DeviceTest(rows=24, mean_kl=MOST_MEAN_KL, agreement=LEAST_AGREEMENT)
    assert good.passed
    assert not DeviceTest(rows=24, mean_kl=MOST_MEAN_KL * 1.01, agreement=1.0).passed
    assert not DeviceTest(rows=24, mean_kl=0.0, agreement=LEAST_AGREEMENT - 0.01).passed
