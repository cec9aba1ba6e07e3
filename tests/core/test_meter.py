"""The meter: rates from times that the test makes up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.speed.meter import HISTORY_S, Meter, MeterReading

# As a clock tells them: no time at all, or at least a microsecond.
GAPS = st.lists(st.just(0.0) | st.floats(min_value=1e-6, max_value=5), min_size=1, max_size=60)


def metered(gaps: list[float]) -> tuple[Meter, float]:
    """A meter that saw one token after each gap, and the time of the last."""
    meter, now_s = Meter(started_s=0.0), 0.0
    for gap in gaps:
        now_s += gap
        meter.add(now_s)
    return meter, now_s


def test_nothing_is_known_before_the_first_token() -> None:
    assert Meter(started_s=10.0).read(12.0) == MeterReading(
        tokens=0, ttft_s=None, now_tps=None, average_tps=None
    )


def test_one_token_gives_a_time_but_no_rate() -> None:
    meter = Meter(started_s=10.0)
    meter.add(10.25)
    assert meter.read(10.25) == MeterReading(tokens=1, ttft_s=0.25, now_tps=None, average_tps=None)


def test_a_steady_stream_reads_its_rate() -> None:
    meter, now_s = metered([0.5] + [0.125] * 24)
    reading = meter.read(now_s)
    assert reading.now_tps == pytest.approx(8.0)
    assert reading.average_tps == pytest.approx(8.0)
    assert reading.ttft_s == 0.5


def test_a_stall_shows_in_the_rate_of_now_and_not_in_the_average() -> None:
    meter, now_s = metered([0.5] + [0.125] * 8)
    reading = meter.read(now_s + 2.0)
    assert reading.now_tps == 0.0
    assert reading.average_tps == pytest.approx(8.0)


def test_history_is_one_bar_a_span_and_the_unfinished_span_is_left_out() -> None:
    meter, _ = metered([0.0, 0.2, 0.2, 0.6, 0.1])  # at 0, 0.2, 0.4, 1.0 and 1.1 seconds
    assert meter.history(1.4, buckets=4, bucket_s=0.5) == (0.0, 0.0, 6.0, 0.0)
    assert meter.history(1.6, buckets=4, bucket_s=0.5) == (0.0, 6.0, 0.0, 4.0)


def test_history_before_the_first_token_is_flat() -> None:
    assert Meter(started_s=0.0).history(3.0, buckets=3, bucket_s=1.0) == (0.0, 0.0, 0.0)


def test_a_clock_that_goes_back_counts_as_standing_still() -> None:
    meter, _ = metered([1.0, 1.0])
    meter.add(0.5)
    assert meter.read(2.0).tokens == 3
    assert meter.read(2.0).average_tps == pytest.approx(2.0)


def test_a_long_answer_keeps_its_totals_and_forgets_old_samples() -> None:
    meter, now_s = metered([0.0] + [1.0] * int(HISTORY_S * 3))
    assert meter.read(now_s).average_tps == pytest.approx(1.0)
    assert meter.history(now_s, buckets=400, bucket_s=1.0)[0] == 0.0


@given(GAPS, st.floats(min_value=0, max_value=10))
def test_rates_are_never_negative_and_tokens_are_all_counted(
    gaps: list[float], later_s: float
) -> None:
    meter, now_s = metered(gaps)
    reading = meter.read(now_s + later_s)
    assert reading.tokens == len(gaps)
    assert reading.ttft_s == pytest.approx(gaps[0])
    assert reading.now_tps is None or reading.now_tps >= 0
    if reading.average_tps is not None:
        assert reading.average_tps * sum(gaps[1:]) == pytest.approx(len(gaps) - 1)


@given(st.lists(st.floats(min_value=0, max_value=HISTORY_S / 50), min_size=1, max_size=40))
def test_history_holds_each_token_of_the_finished_spans_once(gaps: list[float]) -> None:
    meter, now_s = metered(gaps)
    spans = int(sum(gaps)) + 3
    rates = meter.history(now_s + 2.0, buckets=spans, bucket_s=1.0)
    assert sum(rates) == pytest.approx(len(gaps))
