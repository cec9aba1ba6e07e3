"""The measurement of an engine's kernels, and what its process may do meanwhile."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from localllm.core.model.quants import GgmlType
from localllm.core.speed.kernels import CpuKernels
from localllm.engine.builds.candidates import chosen_candidate
from localllm.engine.client.kernels import kernels_of, measure_kernels
from localllm.library.files import paths
from localllm.runtime.kernel_rates import engine_kernels, known_kernels

LINE = json.dumps({"type": "Q4_K", "decode_s": 2e-11, "buffer": "CPU_REPACK"}).encode()


@pytest.fixture(scope="module")
def measured() -> CpuKernels:
    """What the real engine says of this processor."""
    return asyncio.run(measure_kernels(chosen_candidate()))


def test_the_real_engine_is_measured_type_by_type(measured: CpuKernels) -> None:
    assert {GgmlType.Q4_K, GgmlType.Q8_0, GgmlType.IQ4_XS, GgmlType.IQ3_S} <= set(measured.measured)
    for kernel in measured.measured.values():
        assert 1e-13 < kernel.decode_s < 1e-8
        assert kernel.buffer is None or kernel.buffer not in ("CPU", "CPU_Mapped")


async def test_what_was_measured_before_the_process_ended_counts() -> None:
    program = (sys.executable, "-c", f"import os; print({LINE.decode()!r}, flush=True); os.abort()")
    found = await measure_kernels(chosen_candidate(), program)
    assert found.repacked(GgmlType.Q4_K)
    assert found.decode_s(GgmlType.Q4_K) == 2e-11


async def test_a_process_that_hangs_is_ended() -> None:
    program = (sys.executable, "-c", "import threading; threading.Event().wait()")
    assert not (await measure_kernels(chosen_candidate(), program, timeout_s=0.2)).measured


async def test_no_process_means_nothing_measured(tmp_path: Path) -> None:
    found = await measure_kernels(chosen_candidate(), (str(tmp_path / "none"),))
    assert not found.measured


def test_lines_that_are_none_are_passed_over() -> None:
    nonsense = [
        b"", b"nonsense", b"[]", LINE.replace(b"Q4_K", b"Q99"), LINE.replace(b"2e-11", b"-1"),
        LINE.replace(b"2e-11", b"1e999"),
    ]  # fmt: skip
    assert set(kernels_of([*nonsense, LINE]).measured) == {GgmlType.Q4_K}


def test_what_is_kept_is_not_measured_again_and_nonsense_is_nothing() -> None:
    kept = engine_kernels()
    assert kept.measured
    written = paths.kernels_file().read_bytes()
    assert engine_kernels() == known_kernels() == kept
    assert paths.kernels_file().read_bytes() == written
    paths.kernels_file().write_text('{"x": 7}')
    assert not known_kernels().measured


def test_without_an_engine_the_reference_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOCALLLM_ENGINE", str(tmp_path))
    assert not engine_kernels().measured
