"""When a connection counts as stalled; the rest of fetching is in test_download_faults.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download.fetch import StallWatch, progress_bytes


def test_a_stall_is_too_few_bytes_in_the_time() -> None:
    watch = StallWatch(min_bytes=100, within_s=30, now_s=0)
    assert not watch.stalled(29, 50)
    assert not watch.stalled(29.9, 50)  # a hundred: the time begins again
    assert not watch.stalled(59, 99)
    assert watch.stalled(60, 0)


@given(size=st.integers(0, 2**50), wanted=st.integers(0, 2**50))
def test_what_counts_as_progress_is_between_64_kib_and_8_mib(size: int, wanted: int) -> None:
    worth = progress_bytes(size, min(size, wanted))
    assert 64 * 2**10 <= worth <= 8 * 2**20
    assert worth <= max(64 * 2**10, size // 1000)


@pytest.mark.parametrize("size", [100 * 2**20, 5 * 2**30, 70 * 2**30])
def test_a_file_takes_a_bounded_number_of_requests(size: int) -> None:
    assert size / progress_bytes(size, size) < 10_000
