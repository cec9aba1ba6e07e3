"""A device that computes wrong numbers: the Vulkan module with its shaders changed, for real."""

import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.worker.binding.libraries import loaded
from localllm.library.store.store import Store
from localllm.machine import detect
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import ResidentModel, Runtime

ADDITION, SUBTRACTION = (struct.pack("<I", 5 << 16 | code) for code in (0x81, 0x83))
"""The first words of SPIR-V's OpFAdd and OpFSub, which have five."""


@pytest.fixture
def faulty_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the engine on whose device every addition of numbers subtracts."""
    directory = tmp_path / "faulty"
    directory.mkdir()
    files = loaded().candidate.files()
    for path in (*files.libraries.values(), *files.all_files()):
        shutil.copyfile(path, directory / path.name)
    (module,) = directory.glob("*ggml-vulkan*")
    shaders = module.read_bytes()
    assert shaders.count(ADDITION) > 1000
    module.write_bytes(shaders.replace(ADDITION, SUBTRACTION))
    monkeypatch.setenv("LOCALLLM_ENGINE", str(directory))
    return directory


async def test_a_device_with_wrong_numbers_is_found_out_and_not_used(
    faulty_engine: Path, plain: Path
) -> None:
    runtime = Runtime(store=Store.default(), detect=detect, start_engine=ProcessEngine)
    try:
        plan = await runtime.plan(
            runtime.resolve(str(plain)), replace(CHAT, context=256, gpu_layers=3)
        )
        *_, resident = [event async for event in runtime.load(plan)]
        assert isinstance(resident, ResidentModel)
        assert resident.settings.gpu_layers == 0
        assert "computes wrong numbers" in resident.warnings[0]
        assert resident.gpu_failure is not None
        test = resident.gpu_failure.test
        assert test is not None
        assert test.agreement < 0.5
    finally:
        await runtime.close()
