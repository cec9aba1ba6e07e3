"""When a connection counts as stalled; the rest of fetching is in test_download_faults.py."""

from localllm.library.download.fetch import StallWatch


def test_a_stall_is_too_few_bytes_in_the_time() -> None:
    watch = StallWatch(min_bytes=100, within_s=30, now_s=0)
    assert not watch.stalled(29, 50)
    assert not watch.stalled(29.9, 50)  # a hundred: the time begins again
    assert not watch.stalled(59, 99)
    assert watch.stalled(60, 0)
