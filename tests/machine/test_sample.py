import os
import subprocess
import sys

import pytest

from localllm.machine.sample import ProcessSampler


def test_a_living_process_has_a_size_and_from_the_second_time_a_load() -> None:
    sampler = ProcessSampler(os.getpid())
    first, second = sampler.sample(), sampler.sample()
    assert first is not None
    assert second is not None
    assert first.rss_bytes > 1 << 20
    assert (first.cpu_percent, first.pss_bytes) == (None, None)
    assert second.cpu_percent is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_shared_pages_are_counted_by_share_when_asked() -> None:
    sample = ProcessSampler(os.getpid()).sample(shared=True)
    assert sample is not None
    assert sample.pss_bytes is not None
    assert 0 < sample.pss_bytes <= sample.rss_bytes * 1.1


def test_a_process_that_ended_has_no_sample() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        sampler = ProcessSampler(child.pid)
        assert sampler.sample() is not None
        child.kill()
        child.wait()
        assert sampler.sample() is None
        assert ProcessSampler(child.pid).sample() is None


@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 2**70])
def test_a_process_that_never_was_has_no_sample(pid: int) -> None:
    assert ProcessSampler(pid).sample() is None
