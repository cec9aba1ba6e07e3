"""Measurements on disk: kept, replaced, and never the cause of a failure to read."""

import math
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.errors import StoreError
from localllm.library.files import measurements

DECODE = Measurement(
    machine=MeasuredMachine(
        cpu="Made up",
        threads=4,
        devices=("Card A",),
        engine_version="0.3.36",
        engine_commit="0123abc",
        backends=("CPU",),
    ),
    model=MeasuredModel(name="starter", quant="Q4_1", architecture="llama", size_bytes=98_765_432),
    n_prompt=0,
    n_gen=128,
    parallel=1,
    gpu_layers=0,
    repetitions=3,
    tps_mean=40.5,
    tps_stdev=0.25,
    measured_at="2026-01-02T03:04:05+00:00",
)
PROMPT = replace(DECODE, n_prompt=512, n_gen=0, tps_mean=1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "measurements.json"


def test_what_is_added_is_read_back(path: Path) -> None:
    measurements.add(path, DECODE)
    measurements.add(path, PROMPT)
    assert measurements.load(path) == (DECODE, PROMPT)


def test_no_file_is_no_measurements_and_reading_makes_none(path: Path) -> None:
    assert measurements.load(path) == ()
    assert not path.parent.exists()


def test_a_measurement_takes_the_place_of_the_older_one(path: Path) -> None:
    newer = replace(DECODE, tps_mean=50.0, repetitions=5, measured_at="2026-02-02T00:00:00+00:00")
    measurements.add(path, DECODE, PROMPT)
    measurements.add(path, newer)
    assert measurements.load(path) == (PROMPT, newer)


@pytest.mark.parametrize(
    "other",
    [
        replace(DECODE, parallel=2),
        replace(DECODE, n_gen=64),
        replace(DECODE, gpu_layers=7),
        replace(DECODE, cpu_moe=2),
        replace(DECODE, model=replace(DECODE.model, size_bytes=1)),
        replace(DECODE, model=replace(DECODE.model, quant=None)),
        replace(DECODE, machine=replace(DECODE.machine, cpu="Another")),
        replace(DECODE, machine=replace(DECODE.machine, threads=2)),
        replace(DECODE, machine=replace(DECODE.machine, devices=())),
        replace(DECODE, machine=replace(DECODE.machine, backends=("CPU", "CUDA"))),
        replace(DECODE, machine=replace(DECODE.machine, engine_commit=None)),
    ],
)
def test_another_machine_model_or_test_is_another_measurement(
    path: Path, other: Measurement
) -> None:
    measurements.add(path, DECODE)
    measurements.add(path, other)
    assert measurements.load(path) == (DECODE, other)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b'{"schema": "1", "measurements": []}',
        b'{"schema": 1}',
        b'{"schema": 1, "measurements": [{}]}',
        b"[" * 100_000,
        b" " * (measurements.MAX_FILE_BYTES + 1),
    ],
)
def test_a_damaged_file_is_set_aside_with_a_message(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    warnings: list[str] = []
    assert measurements.load(path, warn=warnings.append) == ()
    assert len(warnings) == 1
    assert "measurements.damaged.json" in warnings[0]
    assert path.with_suffix(".damaged.json").read_bytes() == data
    measurements.add(path, DECODE, warn=warnings.append)
    assert measurements.load(path, warn=warnings.append) == (DECODE,)
    assert len(warnings) == 1


def test_numbers_that_nothing_measures_are_damage(path: Path) -> None:
    measurements.add(path, DECODE)
    path.write_bytes(path.read_bytes().replace(b"40.5", b"-40.5"))
    warnings: list[str] = []
    assert measurements.load(path, warn=warnings.append) == ()
    assert "tps_mean" in warnings[0]


def test_a_second_damaged_file_does_not_take_the_place_of_the_first(path: Path) -> None:
    path.parent.mkdir()
    for data in (b"one", b"two"):
        path.write_bytes(data)
        measurements.add(path, DECODE, warn=lambda _: None)
    assert path.with_name("measurements.damaged.json").read_bytes() == b"one"
    assert path.with_name("measurements.damaged-2.json").read_bytes() == b"two"


def test_a_later_version_s_file_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    data = b'{"schema": 2, "rates": []}'
    path.write_bytes(data)
    warnings: list[str] = []
    assert measurements.load(path, warn=warnings.append) == ()
    assert "Update localllm" in warnings[0]
    with pytest.raises(StoreError, match="later localllm"):
        measurements.add(path, DECODE)
    assert path.read_bytes() == data


def test_a_file_that_cannot_be_read_is_said_and_adding_to_it_fails(path: Path) -> None:
    path.mkdir(parents=True)
    warnings: list[str] = []
    assert measurements.load(path, warn=warnings.append) == ()
    assert "cannot be read" in warnings[0]
    with pytest.raises(StoreError, match="cannot be read"):
        measurements.add(path, DECODE)


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be"):
        measurements.add(tmp_path / "file" / "measurements.json", DECODE)


def test_processes_that_add_at_the_same_time_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(path, first)) for first in (1, 11, 21)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sorted(one.parallel for one in measurements.load(path)) == list(range(1, 31))


def _add(path: Path, first: int) -> None:
    for parallel in range(first, first + 10):
        measurements.add(path, replace(DECODE, parallel=parallel))


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("tps_mean", lambda: replace(DECODE, tps_mean=0.0)),
        ("tps_mean", lambda: replace(DECODE, tps_mean=math.inf)),
        ("tps_mean", lambda: replace(DECODE, tps_mean=math.nan)),
        ("tps_stdev", lambda: replace(DECODE, tps_stdev=-1.0)),
        ("n_prompt", lambda: replace(DECODE, n_prompt=5)),
        ("n_gen", lambda: replace(DECODE, n_gen=0)),
        ("n_gen", lambda: replace(DECODE, n_gen=-5)),
        ("parallel", lambda: replace(DECODE, parallel=0)),
        ("repetitions", lambda: replace(DECODE, repetitions=0)),
        ("threads", lambda: replace(DECODE, machine=replace(DECODE.machine, threads=0))),
        ("gpu_layers", lambda: replace(DECODE, gpu_layers=-1)),
    ],
)
def test_a_measurement_of_nothing_cannot_be_made(
    field: str, make: Callable[[], Measurement]
) -> None:
    with pytest.raises(ValueError, match=field):
        make()


def test_only_a_quiet_machine_s_even_results_are_steady() -> None:
    assert DECODE.steady
    assert replace(DECODE, tps_stdev=None).steady
    assert not replace(DECODE, crowded=True).steady
    assert not replace(DECODE, tps_stdev=DECODE.tps_mean / 4).steady


def test_a_test_is_called_as_llama_bench_calls_it() -> None:
    assert (PROMPT.test, DECODE.test) == ("pp512", "tg128")
