"""Layers, cache and experts on a Vulkan device: where they lie, what they take, what becomes of a
crash. Nothing is computed on it but where that is the point: the device is slow."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from localllm.core.hardware import Backend, EngineBuild
from localllm.core.sizing.fit import Fit, fit_in
from localllm.core.sizing.load import (
    Allocation,
    BufferKind,
    FlashAttention,
    Graphs,
    LoadSettings,
    Speculate,
)
from localllm.core.sizing.placement import Budget, GpuBudget
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, Loaded, LoadRequest, Sampling
from localllm.errors import EngineCrashed
from localllm.library.store.inspect import inspect_model
from localllm.library.store.store import Store
from localllm.machine import detect
from localllm.machine.vulkan import backend_of
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.engine import tiny

GIB, MIB = 2**30, 2**20
NEAR = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A load as it was planned, and what llama.cpp allocated."""

    fit: Fit
    allocations: tuple[Allocation, ...]

    def on(self, device: str, *kinds: BufferKind) -> int:
        return sum(a.size_bytes for a in self.allocations if a.device == device and a.kind in kinds)

    def planned(self, index: int) -> int:
        """What is planned in the buffers of a device."""
        share = self.fit.placement.devices[index]
        return share.weights_bytes + share.kv_bytes + share.compute_bytes

    def found(self, index: int) -> int:
        return self.on(
            f"Vulkan{index}",
            *(BufferKind.WEIGHTS, BufferKind.KV, BufferKind.RECURRENT, BufferKind.COMPUTE),
        )


async def placed(path: Path, settings: LoadSettings, *, gpus: int = 1) -> Placed:
    budget = Budget(
        host_bytes=8 * GIB,
        gpus=tuple(
            GpuBudget(
                name=f"GPU {i}",
                backend=Backend.VULKAN,
                free_bytes=2 * GIB,
                engine_name=f"Vulkan{i}",
            )
            for i in range(gpus)
        ),
    )
    fit = fit_in(inspect_model(path).spec, settings, budget)
    engine = ProcessEngine()
    try:
        request = LoadRequest(path=str(path), settings=fit.settings)
        *_, loaded = [event async for event in engine.load(request)]
    finally:
        await engine.close()
    assert isinstance(loaded, Loaded)
    return Placed(fit=fit, allocations=loaded.allocations)


def settings(**values: object) -> LoadSettings:
    graphs = Graphs.B86A2835
    return LoadSettings(**{"context": 2048, "threads": 2, "graphs": graphs, **values})  # type: ignore[arg-type]


async def test_the_device_is_found_with_its_driver_and_used(vulkan_build: EngineBuild) -> None:
    (first, second) = (device for device in vulkan_build.devices if device.is_gpu)
    assert (first.name, second.name) == ("Vulkan0", "Vulkan1")
    assert backend_of(first.name) is Backend.VULKAN
    assert first.driver is not None
    assert "Mesa" in first.driver
    found = detect(vulkan_build)
    assert [device.driver for device in found.devices] == [first.driver, second.driver]
    assert not any("cannot use" in warning for warning in found.warnings)
    network = vulkan_build.network
    assert network is not None  # the filter does not stand in the driver's way
    assert network.blocked


async def test_every_layer_on_the_device_takes_what_was_estimated(smollm2: Path) -> None:
    load = await placed(smollm2, settings())
    assert load.fit.settings.gpu_layers == 31
    assert load.found(0) == pytest.approx(load.planned(0), rel=NEAR)
    assert load.on("CPU", BufferKind.KV) == 0
    total = sum(part.size_bytes for part in load.allocations)
    assert total == pytest.approx(load.planned(0) + load.planned(1), rel=NEAR)


async def test_some_layers_leave_the_rest_on_the_processor(smollm2: Path) -> None:
    load = await placed(smollm2, settings(gpu_layers=12))
    on_device, host = load.fit.placement.devices
    assert on_device.layers == 12
    assert load.on("Vulkan0", BufferKind.WEIGHTS) == pytest.approx(
        on_device.weights_bytes, rel=0.001
    )
    assert load.on("Vulkan0", BufferKind.KV) == pytest.approx(on_device.kv_bytes, rel=0.001)
    assert load.on("CPU", BufferKind.KV) == pytest.approx(host.kv_bytes, rel=0.001)
    assert load.found(0) == pytest.approx(load.planned(0), rel=NEAR)


async def test_the_cache_can_stay_on_the_processor(smollm2: Path) -> None:
    load = await placed(smollm2, settings(kv_offload=False))
    assert load.on("Vulkan0", BufferKind.KV) == 0
    assert load.on("CPU", BufferKind.KV) == pytest.approx(
        load.fit.placement.host.kv_bytes, rel=0.001
    )
    assert load.found(0) == pytest.approx(load.planned(0), rel=NEAR)


async def test_without_flash_attention_the_matrix_is_on_the_device(smollm2: Path) -> None:
    load = await placed(smollm2, settings(flash_attention=FlashAttention.OFF))
    assert load.found(0) == pytest.approx(load.planned(0), rel=NEAR)


async def test_experts_stay_where_they_are_told_to(tmp_path: Path) -> None:
    path = tiny.experts(tmp_path / "experts.gguf")
    sizes = []
    for cpu_moe in range(3):
        load = await placed(path, settings(cpu_moe=cpu_moe, context=256))
        assert load.fit.settings.cpu_moe == cpu_moe
        planned = load.fit.placement.devices[0].weights_bytes
        sizes.append(load.on("Vulkan0", BufferKind.WEIGHTS))
        assert sizes[-1] == pytest.approx(planned, abs=2 * MIB // 100)  # two printed decimals
    assert sizes[0] > sizes[1] > sizes[2]


async def test_two_devices_share_the_layers_as_planned(smollm2: Path) -> None:
    load = await placed(smollm2, settings(gpu_layers=12), gpus=2)
    shares = load.fit.placement.devices[:2]
    assert load.fit.settings.tensor_split == (6, 6)
    for i, share in enumerate(shares):
        assert load.on(f"Vulkan{i}", BufferKind.WEIGHTS) == pytest.approx(
            share.weights_bytes, rel=0.001
        )
        assert load.on(f"Vulkan{i}", BufferKind.KV) == pytest.approx(share.kv_bytes, rel=0.001)
    found, planned = load.found(0) + load.found(1), load.planned(0) + load.planned(1)
    assert 0.96 * planned < found <= planned  # each is charged for the output, which one has


async def test_a_crash_on_the_device_is_reported_and_the_model_comes_back(plain: Path) -> None:
    engines: list[ProcessEngine] = []

    def start_engine() -> ProcessEngine:
        engines.append(ProcessEngine())
        return engines[-1]

    runtime = Runtime(store=Store.default(), detect=detect, start_engine=start_engine)
    choice = replace(CHAT, context=256, gpu_layers=3, speculate=Speculate.OFF)
    request = GenerateRequest(
        request_id="r", prompt="a", max_tokens=1, sampling=Sampling(temperature=0)
    )
    try:
        plan = await runtime.plan(runtime.resolve(str(plain)), choice)
        *_, resident = [event async for event in runtime.load(plan)]
        assert isinstance(resident, ResidentModel)
        assert resident.loaded.device_test is not None  # the first load compares
        assert resident.loaded.device_test.passed
        assert resident.loaded.gpu_layers == 3
        assert engines[-1].pid is not None
        os.kill(engines[-1].pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            await engines[-1].describe()
        *_, end = [event async for event in runtime.generate(resident.model.name, request)]
        assert isinstance(end, Finished)
        assert end.completion_tokens == 1
        (again,) = runtime.resident()
        assert again.loaded.gpu_layers == 3
        assert again.loaded.device_test is None
    finally:
        await runtime.close()
