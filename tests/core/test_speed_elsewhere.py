"""The intervals on what was published of other models and machines than the fitted ones."""

import pytest

from benchmarks.speed_elsewhere import Elsewhere, elsewhere


@pytest.fixture
def published() -> list[Elsewhere]:
    """The rows of speed_elsewhere.csv, without those that are marked as broken."""
    return [row for row in elsewhere() if row.role != "broken"]


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "prompt"])
def test_nine_of_ten_rates_lie_inside_their_interval(
    published: list[Elsewhere], decode: bool
) -> None:
    inside = [
        row.estimate.low <= row.tps <= row.estimate.high
        for row in published
        if row.decode is decode
    ]
    assert len(inside) > 50
    assert sum(inside) / len(inside) >= 0.9


def test_the_estimate_is_nearer_than_bandwidth_over_file_size(published: list[Elsewhere]) -> None:
    nearer = [
        abs(row.estimate.likely / row.tps - 1) < abs(row.roofline / row.tps - 1)
        for row in published
        if row.decode
    ]
    assert sum(nearer) / len(nearer) > 0.8
