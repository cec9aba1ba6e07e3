"""What to do about an engine that was built for another processor."""

import pytest

from localllm.core.hardware import Cpu, EngineBuild
from localllm.machine.advice import illegal_instruction


def cpu(*features: str) -> Cpu:
    return Cpu(name="Celeron", cores_physical=2, cores_usable=2, features=features)


def build(system_info: str) -> EngineBuild:
    return EngineBuild(
        version="1", commit=None, backends=(), gpu_offload=False, system_info=system_info
    )


OLD = cpu("SSSE3", "SSE4_2")
INFO = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | FMA = 1 | AVX512 = 0 | OPENMP = 1 |"


def test_the_missing_instruction_sets_are_those_of_the_build_that_the_processor_lacks() -> None:
    text = illegal_instruction(OLD, build(INFO), "x86_64", "Linux")
    assert "built for AVX, FMA, AVX2, which this processor (Celeron) does not have" in text
    assert 'CMAKE_ARGS="-DGGML_NATIVE=on" pip install --force-reinstall' in text


def test_without_a_build_a_prebuilt_one_is_assumed() -> None:
    text = illegal_instruction(OLD, None, "AMD64", "Linux")
    assert "AVX, F16C, FMA, BMI2, AVX2" in text
    assert "does not have" not in illegal_instruction(cpu("NEON"), None, "aarch64", "Linux")


@pytest.mark.parametrize("features", [(), ("SSSE3", "AVX", "AVX2", "FMA")])
def test_nothing_is_called_missing_that_may_be_there(features: tuple[str, ...]) -> None:
    text = illegal_instruction(cpu(*features), build(INFO), "x86_64", "Linux")
    assert "does not have" not in text
    assert "pip install" in text


def test_windows_is_asked_for_what_it_can_tell_only() -> None:
    text = illegal_instruction(cpu("SSSE3", "SSE4_2", "AVX"), build(INFO), "AMD64", "Windows")
    assert "built for AVX2, which" in text  # FMA has no number in winnt.h
    assert text.count("$env:CMAKE_ARGS") == 1
