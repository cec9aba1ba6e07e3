"""Differences between what was expected of a load and what llama.cpp allocated."""

import pytest

from localllm.core.sizing.comparison import ComparedPart, Comparison

MIB = 2**20


def parts(estimated: int, probed: int | None, allocated: int) -> Comparison:
    """A cache of these sizes in MiB, and nothing else."""
    return Comparison(
        parts=(
            ComparedPart(
                device="CPU",
                part="cache",
                estimated_bytes=estimated * MIB,
                probed_bytes=probed * MIB if probed is not None else None,
                allocated_bytes=allocated * MIB,
            ),
        )
    )


def test_too_much_is_positive_and_too_little_negative() -> None:
    comparison = parts(110, 90, 100)
    assert comparison.estimate_error_percent == pytest.approx(10)
    assert comparison.probe_error_percent == pytest.approx(-10)
    assert comparison.sentence() == (
        "cache and computing: estimated 110 MiB (+10.00 %), dry run 90.0 MiB (-10.00 %), "
        "allocated 100 MiB"
    )


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    part = ComparedPart(
        device="CPU",
        part="cache",
        estimated_bytes=10**9 - 1,
        probed_bytes=None,
        allocated_bytes=10**9,
    )
    assert "(+0.00 %)" in Comparison(parts=(part,)).sentence()


def test_without_a_dry_run_none_is_said() -> None:
    comparison = parts(100, None, 100)
    assert comparison.probed_bytes is None
    assert comparison.probe_error_percent is None
    assert "dry run" not in comparison.sentence()


def test_a_dry_run_of_nothing_is_not_a_missing_one() -> None:
    assert parts(1, 0, 1).probed_bytes == 0


def test_where_nothing_was_allocated_there_is_no_percentage() -> None:
    comparison = parts(5, 5, 0)
    assert comparison.estimate_error_percent is None
    assert comparison.sentence() == (
        "cache and computing: estimated 5.0 MiB, dry run 5.0 MiB, allocated 0 B"
    )
