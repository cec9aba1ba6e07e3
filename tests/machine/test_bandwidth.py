import json
from pathlib import Path

import pytest

from localllm.machine.bandwidth import (
    cached_bandwidth,
    last_level_cache,
    measure_bandwidth,
    measure_compute,
)
from tests.machine.trees import MIB, write_tree


def refuse(threads: int) -> float:
    raise AssertionError(f"measured again with {threads} threads")


def test_memory_is_read_at_a_rate_that_memory_has() -> None:
    rate = measure_bandwidth(2, available_bytes=256 * MIB)
    assert 1e8 < rate < 1e14  # between a card index and everything ever sold


def test_matrices_are_multiplied_at_a_rate_that_processors_have() -> None:
    rate = measure_compute(1)
    assert rate is not None
    assert 1e7 < rate < 1e15


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_cannot_measure(threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure_bandwidth(threads)
    with pytest.raises(ValueError, match="at least 1"):
        measure_compute(threads)


def test_a_measurement_is_kept_for_the_processor_and_its_threads(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "bandwidth.json"
    assert cached_bandwidth(path, "Ryzen", 8, lambda threads: threads * 1e9) == 8e9
    assert cached_bandwidth(path, "Ryzen", 8, refuse) == 8e9
    assert cached_bandwidth(path, "Ryzen", 4, lambda threads: 5e9) == 5e9
    assert cached_bandwidth(path, "Xeon", 8, lambda threads: 6e9) == 6e9
    assert cached_bandwidth(path, "Ryzen", 8, refuse) == 8e9
    assert [file.name for file in path.parent.iterdir()] == ["bandwidth.json"]


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
    ],
)
def test_a_damaged_cache_is_measured_again_and_mended(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bandwidth.json"
    path.write_bytes(content.encode("latin-1"))
    assert cached_bandwidth(path, "Ryzen", 8, lambda threads: 7e9) == 7e9
    assert json.loads(path.read_text()) == {"Ryzen, 8 threads": 7e9}


def test_a_cache_that_cannot_be_written_still_gives_the_figure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    path = tmp_path / "file" / "bandwidth.json"
    assert cached_bandwidth(path, "Ryzen", 8, lambda threads: 7e9) == 7e9


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
