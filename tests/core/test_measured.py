"""The measurements that correct an estimate, and those of another machine or another time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from localllm.core.speed.measured import (
    STALE_AFTER,
    MeasuredMachine,
    MeasuredModel,
    Measurement,
    calibration_measurements,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HERE = MeasuredMachine(
    cpu="Ryzen",
    threads=8,
    devices=("Card",),
    engine_version="0.3.36",
    engine_commit="abc",
    backends=("CUDA", "CPU"),
)
DECODE = Measurement(
    machine=HERE,
    model=MeasuredModel(name="starter", quant="Q4_1", architecture="llama", size_bytes=98_765),
    n_prompt=0,
    n_gen=128,
    parallel=1,
    gpu_layers=0,
    repetitions=3,
    tps_mean=40.0,
    tps_stdev=0.5,
    measured_at=(NOW - timedelta(days=1)).isoformat(),
)


def test_a_steady_decode_rate_of_this_machine_corrects() -> None:
    assert calibration_measurements([DECODE], HERE, NOW) == (DECODE,)


@pytest.mark.parametrize(
    "change",
    [
        {"n_prompt": 512, "n_gen": 0},
        {"n_gen": 4},
        {"parallel": 4},
        {"crowded": True},
        {"tps_stdev": 20.0},
        {"measured_at": (NOW - STALE_AFTER).isoformat()},
        {"measured_at": (NOW + timedelta(days=3)).isoformat()},
        {"measured_at": "yesterday"},
        {"measured_at": "2026-05-31T12:00:00"},
        {"machine": replace(HERE, cpu="Xeon")},
        {"machine": replace(HERE, threads=4)},
        {"machine": replace(HERE, devices=())},
        {"machine": replace(HERE, engine_version="0.3.35")},
        {"machine": replace(HERE, engine_commit="def")},
        {"machine": replace(HERE, backends=("CPU",))},
    ],
    ids=str,
)
def test_anything_else_does_not(change: dict[str, object]) -> None:
    assert calibration_measurements([replace(DECODE, **change)], HERE, NOW) == ()  # type: ignore[arg-type]


def test_what_is_not_known_of_an_engine_is_no_difference() -> None:
    unknown_engine = replace(HERE, engine_commit=None, backends=())
    assert calibration_measurements([DECODE], unknown_engine, NOW) == (DECODE,)
    written_early = replace(DECODE, machine=replace(HERE, engine_version=None))
    assert calibration_measurements([written_early], HERE, NOW) == (written_early,)


def test_the_order_of_backends_is_no_difference() -> None:
    other = replace(HERE, backends=("CPU", "CUDA"))
    assert calibration_measurements([DECODE], other, NOW) == (DECODE,)


def test_of_one_file_the_newest_steady_measurement_counts() -> None:
    newer = replace(DECODE, n_gen=256, tps_mean=50.0, measured_at=NOW.isoformat())
    spoilt = replace(newer, tps_mean=5.0, crowded=True)
    assert calibration_measurements([newer, DECODE, spoilt], HERE, NOW) == (newer,)
    assert calibration_measurements([DECODE, newer], HERE, NOW) == (newer,)


def test_the_newest_is_told_by_the_time_and_not_by_the_text() -> None:
    newer = replace(DECODE, tps_mean=50.0, measured_at="2026-06-01T12:30:00+05:00")
    older = replace(DECODE, measured_at="2026-06-01T07:00:00+00:00")
    assert calibration_measurements([newer, older], HERE, NOW) == (newer,)


def test_each_file_and_each_side_counts_once() -> None:
    on_gpu = replace(DECODE, gpu_layers=30)
    other = replace(DECODE, model=replace(DECODE.model, size_bytes=1))
    assert set(calibration_measurements([DECODE, on_gpu, other], HERE, NOW)) == {
        DECODE,
        on_gpu,
        other,
    }


def test_threads_that_were_found_best_are_those_of_this_machine() -> None:
    fewer = replace(HERE, threads=6)
    assert not fewer.comparable(HERE)
    assert replace(fewer, threads_measured=True).comparable(HERE)
    assert HERE.comparable(replace(fewer, threads_measured=True))
