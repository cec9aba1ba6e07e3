"""Where llama.cpp puts things is what the load settings say: its own dry run tells."""

from pathlib import Path

import pytest

from localllm.core.sizing.load import BufferKind, LoadSettings
from localllm.engine.worker.llama.dry_run import probe
from localllm.engine.worker.llama.params import context_params, model_params
from localllm.errors import LoadFailed


def test_no_device_at_all_is_a_plan_that_llama_cpp_takes(smollm2: Path) -> None:
    nothing = LoadSettings(context=512, gpu_layers=0, devices=())
    anything = LoadSettings(context=512)
    kinds = {part.kind for part in probe(str(smollm2), nothing)}
    assert kinds == {BufferKind.KV, BufferKind.COMPUTE, BufferKind.OUTPUT}
    assert probe(str(smollm2), nothing) == probe(str(smollm2), anything)


def test_a_device_that_is_gone_is_refused_by_name() -> None:
    with pytest.raises(LoadFailed, match="no device CUDA9"):
        model_params(LoadSettings(devices=("CUDA9",)))


def test_the_processor_can_be_named_as_a_device() -> None:
    assert model_params(LoadSettings(devices=("CPU",))).devices


def test_each_device_gets_the_layers_it_was_planned_for() -> None:
    split = model_params(LoadSettings(tensor_split=(20, 0, 13))).tensor_split
    assert [split[i] for i in range(3)] == [20, 0, 13]
    assert not model_params(LoadSettings()).tensor_split


def test_the_cache_may_stay_in_system_memory() -> None:
    assert context_params(LoadSettings(), 1).offload_kqv
    assert not context_params(LoadSettings(kv_offload=False), 1).offload_kqv
