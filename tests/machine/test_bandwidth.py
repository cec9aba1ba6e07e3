import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from localllm.machine.bandwidth import (
    RECENT_S,
    RETRY_S,
    cached_bandwidth,
    last_level_cache,
    measure_bandwidth,
    processors_busy,
)
from tests.machine.trees import MIB, write_tree


def refuse(threads: int) -> float:
    raise AssertionError(f"measured again with {threads} threads")


def test_memory_is_read_at_a_rate_that_memory_has() -> None:
    rate = measure_bandwidth(2, available_bytes=2048 * MIB)
    assert 1e8 < rate < 1e14  # between a card index and everything ever sold


def test_buffers_that_the_caches_would_hold_measure_no_memory() -> None:
    with pytest.raises(MemoryError, match="caches"):
        measure_bandwidth(1, available_bytes=0)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_cannot_measure(threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure_bandwidth(threads)


@dataclass
class Bench:
    """A machine whose clock, load and memory the test sets."""

    path: Path
    rate: float = 8e9
    now_s: float = 1e9
    busy: bool = False
    measured: int = 0

    def measure(self, threads: int) -> float:
        self.measured += 1
        return self.rate

    def bandwidth(self, *, again: bool = False) -> float:
        return cached_bandwidth(
            self.path,
            "Ryzen",
            8,
            self.measure,
            again=again,
            now=lambda: self.now_s,
            busy=lambda: self.busy,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache" / "bandwidth.json")


def quiet() -> bool:
    return False


def test_a_measurement_is_kept_for_the_processor_and_its_threads(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "bandwidth.json"
    assert cached_bandwidth(path, "Ryzen", 8, lambda threads: threads * 1e9, busy=quiet) == 8e9
    assert cached_bandwidth(path, "Ryzen", 8, refuse, busy=quiet) == 8e9
    assert cached_bandwidth(path, "Ryzen", 4, lambda threads: 5e9, busy=quiet) == 5e9
    assert cached_bandwidth(path, "Xeon", 8, lambda threads: 6e9, busy=quiet) == 6e9
    assert cached_bandwidth(path, "Ryzen", 8, refuse, busy=quiet) == 8e9
    assert [file.name for file in path.parent.iterdir()] == ["bandwidth.json"]


def test_what_was_measured_while_others_worked_is_measured_again_when_they_are_gone(
    bench: Bench,
) -> None:
    bench.rate, bench.busy = 3e9, True
    assert bench.bandwidth() == 3e9
    bench.now_s += RETRY_S
    assert bench.bandwidth() == 3e9
    assert bench.measured == 1  # they still work: nothing to be learnt, and nobody waits
    bench.rate, bench.busy = 9e9, False
    assert bench.bandwidth() == 9e9
    bench.now_s += RETRY_S
    bench.rate = 4e9
    assert bench.bandwidth() == 9e9
    assert bench.measured == 2


def test_no_command_measures_twice_within_ten_minutes(bench: Bench) -> None:
    bench.busy = True
    bench.bandwidth()
    bench.busy = False
    bench.now_s += RETRY_S - 1
    bench.bandwidth()
    assert bench.measured == 1


def test_the_best_of_the_last_month_counts(bench: Bench) -> None:
    assert bench.bandwidth() == 8e9
    bench.rate = 5e9
    bench.now_s += RECENT_S / 2
    assert bench.bandwidth(again=True) == 8e9
    bench.rate = 9e9
    assert bench.bandwidth(again=True) == 9e9
    assert bench.measured == 3


def test_an_old_figure_gives_way_to_a_quiet_machine_but_not_to_a_busy_one(bench: Bench) -> None:
    assert bench.bandwidth() == 8e9
    bench.now_s += RECENT_S
    bench.rate, bench.busy = 2e9, True
    assert bench.bandwidth(again=True) == 8e9
    bench.now_s += RETRY_S
    bench.rate, bench.busy = 6e9, False  # memory was taken out
    assert bench.bandwidth() == 6e9
    bench.now_s += RETRY_S
    assert bench.bandwidth() == 6e9
    assert bench.measured == 3


def test_a_clock_that_was_set_back_makes_a_figure_due(bench: Bench) -> None:
    bench.bandwidth()
    bench.now_s -= 1e6
    bench.rate = 7e9
    assert bench.bandwidth() == 7e9


def test_a_figure_without_times_is_measured_again_once(bench: Bench) -> None:
    bench.path.parent.mkdir()
    bench.path.write_text('{"Ryzen, 8 threads": 7e9}')
    assert bench.bandwidth() == 8e9
    assert bench.bandwidth() == 8e9
    assert bench.measured == 1


def test_a_second_measurement_that_fails_leaves_the_first(bench: Bench) -> None:
    def fail(threads: int) -> float:
        raise MemoryError("no buffers")

    bench.bandwidth()
    assert cached_bandwidth(bench.path, "Ryzen", 8, fail, again=True, busy=quiet) == 8e9
    with pytest.raises(MemoryError):
        cached_bandwidth(bench.path, "Xeon", 8, fail, busy=quiet)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "\x00\xff",
        pytest.param("[" * 100_000, id="deep"),
        '{"Ryzen, 8 threads": "fast"}',
        '{"Ryzen, 8 threads": -1}',
        '{"Ryzen, 8 threads": NaN}',
        '{"Ryzen, 8 threads": 1e999}',
        '{"Ryzen, 8 threads": null}',
        '{"Ryzen, 8 threads": {"taken_at": 1e9}}',
        '{"Ryzen, 8 threads": {"bytes_per_s": [], "taken_at": {}, "busy": 7}}',
        '{"Ryzen, 8 threads": {"bytes_per_s": 1e9, "taken_at": "x", "tried_at": null}}',
    ],
)
def test_a_damaged_cache_is_measured_again_and_mended(bench: Bench, content: str) -> None:
    bench.path.parent.mkdir()
    bench.path.write_bytes(content.encode("latin-1"))
    assert bench.bandwidth() == 8e9
    assert json.loads(bench.path.read_text()) == {
        "Ryzen, 8 threads": {
            "bytes_per_s": 8e9,
            "taken_at": 1e9,
            "tried_at": 1e9,
            "busy": False,
        }
    }


def test_a_cache_that_cannot_be_written_still_gives_the_figure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    path = tmp_path / "file" / "bandwidth.json"
    assert cached_bandwidth(path, "Ryzen", 8, lambda threads: 7e9) == 7e9


@pytest.mark.parametrize(
    ("load", "threads", "processors", "expected"),
    [
        (0.4, 2, 2, False),  # the services of an idle desktop
        (1.0, 2, 2, True),
        (5.9, 2, 8, False),  # six of eight at work leave two
        (6.1, 2, 8, True),
        (9.0, 2, None, False),
    ],
)
def test_processors_are_busy_when_the_load_leaves_too_few(
    load: float, threads: int, processors: int | None, expected: bool
) -> None:
    assert processors_busy(threads, processors, lambda: (load, 0.0, 0.0)) is expected


def test_a_system_that_does_not_tell_its_load_is_not_busy() -> None:
    def fail() -> tuple[float, float, float]:
        raise OSError("no load average")

    assert not processors_busy(2, 2, fail)
    assert not processors_busy(2, 2, None)


def test_last_level_caches_add_up_once_for_all_that_share_them(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for cpu in range(4):
        for index, (level, size, shared) in enumerate(
            [(1, "32K", str(cpu)), (3, "32768K", "0-1" if cpu < 2 else "2-3")]
        ):
            base = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            files |= {
                f"{base}/level": f"{level}\n",
                f"{base}/size": f"{size}\n",
                f"{base}/shared_cpu_list": f"{shared}\n",
            }
    assert last_level_cache(write_tree(tmp_path, files)) == 64 * MIB
    assert last_level_cache(tmp_path / "nowhere") == 0
