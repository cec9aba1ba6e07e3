"""The intervals on what was published of other models and machines than the fitted ones."""

import importlib
from pathlib import Path
from typing import Protocol

import pytest

from localllm.core.speed import Estimate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Row(Protocol):
    """What the benchmark's rows are asked for here."""

    role: str
    decode: bool
    tps: float
    roofline: float
    estimate: Estimate


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows of speed_elsewhere.csv, without those that are marked as broken."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    rows: list[Row] = importlib.import_module("speed_elsewhere").elsewhere()
    return [row for row in rows if row.role != "broken"]


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "prompt"])
def test_nine_of_ten_rates_lie_inside_their_interval(published: list[Row], decode: bool) -> None:
    inside = [
        row.estimate.low <= row.tps <= row.estimate.high
        for row in published
        if row.decode is decode
    ]
    assert len(inside) > 50
    assert sum(inside) / len(inside) >= 0.9


def test_the_estimate_is_nearer_than_bandwidth_over_file_size(published: list[Row]) -> None:
    nearer = [
        abs(row.estimate.likely / row.tps - 1) < abs(row.roofline / row.tps - 1)
        for row in published
        if row.decode
    ]
    assert sum(nearer) / len(nearer) > 0.8
