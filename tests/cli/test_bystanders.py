"""Whether somebody else was at the processors."""

import pytest

from localllm.cli.stopwatch import CpuTime, cpu_time, crowded

START = CpuTime(at_s=100.0, all_s=1000.0, own_s=10.0)


@pytest.mark.parametrize(
    ("all_s", "own_s", "threads", "processors", "expected"),
    [
        (20.0, 20.0, 2, 2, False),  # two threads for ten seconds, and nobody else
        (22.0, 20.0, 2, 2, False),  # a fifth of a processor: what an idle desktop uses
        (20.0, 10.0, 2, 2, True),  # others had one of the two
        (50.0, 20.0, 2, 8, False),  # others had three of eight, which leaves five for two threads
        (90.0, 20.0, 2, 8, True),
    ],
)
def test_it_is_crowded_when_the_threads_have_no_processor_each(
    all_s: float, own_s: float, threads: int, processors: int, expected: bool
) -> None:
    end = CpuTime(at_s=110.0, all_s=1000.0 + all_s, own_s=10.0 + own_s)
    assert crowded(START, end, threads=threads, processors=processors) is expected


def test_what_cannot_be_known_is_not_crowded() -> None:
    end = CpuTime(at_s=110.0, all_s=1100.0, own_s=10.0)
    assert crowded(START, end, threads=2, processors=2)
    assert not crowded(None, end, threads=2, processors=2)
    assert not crowded(START, None, threads=2, processors=2)
    assert not crowded(START, end, threads=2, processors=None)
    assert not crowded(START, START, threads=2, processors=2)


def test_this_system_tells_and_its_clocks_go_forward() -> None:
    before = cpu_time()
    sum(i * i for i in range(300_000))
    after = cpu_time()
    assert before is not None and after is not None
    assert after.at_s > before.at_s
    assert after.own_s >= before.own_s > 0
    assert after.all_s >= after.own_s
