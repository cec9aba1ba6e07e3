"""The rate of a download and the time left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download.progress import RATE_WINDOW_S, RateMeter


@given(st.floats(1, 1e9), st.integers(3, 200))
def test_a_steady_rate_is_measured(rate: float, samples: int) -> None:
    meter = RateMeter()
    for each in range(samples):
        meter.add(each * 0.5, round(each * 0.5 * rate))
    measured = meter.rate()
    assert measured == pytest.approx(rate, rel=1e-6, abs=2)
    assert meter.remaining_s(round(10 * (measured or 0))) == pytest.approx(10, rel=0.1)


def test_a_rate_forgets_old_samples_and_is_unknown_at_first() -> None:
    meter = RateMeter()
    assert meter.rate() is None
    meter.add(0.0, 0)
    meter.add(0.1, 10**9)
    assert meter.rate() is None
    assert meter.remaining_s(5) is None
    assert meter.remaining_s(0) == 0
    for each in range(100):
        meter.add(1.0 + each, 10**9)
    assert meter.rate() == 0
    assert meter.remaining_s(5) is None
    assert RATE_WINDOW_S < 100
