"""The backoff schedule, and what a server may make of it."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.library.http.retry_policy import RetryPolicy


@given(st.integers(1, 20), st.none() | st.floats(0, 300), st.booleans())
def test_backoff_grows_ends_and_heeds_retry_after(
    failures: int, after_s: float | None, responded: bool
) -> None:
    policy = RetryPolicy()
    delay_s = policy.delay_s(failures, retry_after_s=after_s, responded=responded)
    if delay_s is None:
        assert failures > policy.max_unreached_retries
        later = policy.delay_s(failures + 1, retry_after_s=after_s, responded=responded)
        assert later is None
    else:
        assert delay_s >= (after_s or 0)
        assert delay_s <= max(policy.backoff_s[-1], after_s or 0)


@given(st.floats(300.1, 1e12), st.booleans())
def test_a_retry_after_of_a_day_is_not_waited_for(after_s: float, responded: bool) -> None:
    assert RetryPolicy().delay_s(1, retry_after_s=after_s, responded=responded) is None
