"""Measurements of this machine, this engine and installed models correct the plans."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest

from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.library.files import measurements, paths
from localllm.library.store.store import Store
from localllm.runtime.local_machine import host_speed, machine_now, this_machine


@pytest.fixture
def decode() -> Measurement:
    """A rate of the starter model as `bench` would have stored it here a moment ago."""
    found = machine_now()
    starter = Store.default().installed()[0]
    return Measurement(
        machine=MeasuredMachine(
            cpu=found.cpu.name,
            threads=host_speed(found).cores,
            devices=tuple(device.name for device in found.devices),
            engine_version=version("llama-cpp-python"),
        ),
        model=MeasuredModel(
            name=starter.name,
            quant=starter.quant,
            architecture="llama",
            size_bytes=starter.size_bytes,
        ),
        n_prompt=0,
        n_gen=64,
        parallel=1,
        gpu_layers=0,
        repetitions=3,
        tps_mean=123.0,
        tps_stdev=1.0,
        measured_at=datetime.now(UTC).isoformat(),
    )


def store(*measured: Measurement) -> None:
    measurements.add(paths.measurements_file(paths.data_dir()), *measured)


def test_a_measurement_of_this_machine_corrects_its_plans(decode: Measurement) -> None:
    store(decode)
    [seen] = this_machine()[0].calibration
    assert seen.measured_tps == 123.0
    assert seen.predicted_tps > 0
    assert not seen.on_gpu


def test_other_threads_another_engine_or_an_old_one_correct_nothing(decode: Measurement) -> None:
    machine = decode.machine
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    store(
        replace(decode, machine=replace(machine, threads=machine.threads + 1)),
        replace(decode, machine=replace(machine, engine_version="0.0.1")),
        replace(decode, n_gen=65, measured_at=old),
        replace(decode, model=replace(decode.model, size_bytes=1)),
    )
    assert this_machine()[0].calibration == ()


def test_of_several_measurements_of_a_model_the_newest_corrects(decode: Measurement) -> None:
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    store(decode, replace(decode, n_gen=128, tps_mean=50.0, measured_at=before))
    assert [seen.measured_tps for seen in this_machine()[0].calibration] == [123.0]


def test_the_memory_is_measured_again_when_asked_and_not_before() -> None:
    found = machine_now()
    cores = host_speed(found).cores
    slow = {"bytes_per_s": 1.0, "taken_at": time.time(), "tried_at": time.time(), "busy": False}
    measured = {f"{found.cpu.name}, {cores} threads": slow}
    paths.bandwidth_file().write_text(json.dumps(measured))
    assert host_speed(found).bandwidth_bytes_per_s == 1.0
    assert host_speed(found, measure_again=True).bandwidth_bytes_per_s > 1.0
