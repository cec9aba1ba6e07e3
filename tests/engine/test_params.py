"""Where llama.cpp puts things is what the load settings say: its own dry run tells."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.core.sizing.load import (
    ROPE_OF_HEADER,
    BufferKind,
    LoadSettings,
    RopeScaling,
    RopeSettings,
)
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.dry_run import probe
from localllm.engine.worker.llama.params import context_params, model_params
from localllm.errors import LoadFailed
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings


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


def test_positions_are_the_headers_own_unless_they_are_scaled() -> None:
    own = context_params(LoadSettings(), 1)
    assert own.rope_scaling_type == llama.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED
    assert (own.rope_freq_base, own.rope_freq_scale, own.yarn_orig_ctx) == (0.0, 0.0, 0)
    scaled = RopeSettings(
        scaling=RopeScaling.YARN, freq_base=1e6, freq_scale=0.25, yarn_orig_ctx=8192
    )
    params = context_params(LoadSettings(rope=scaled), 1)
    assert params.rope_scaling_type == llama.LLAMA_ROPE_SCALING_TYPE_YARN
    assert (params.rope_freq_base, params.rope_freq_scale) == (1e6, 0.25)
    assert params.yarn_orig_ctx == 8192
    # a draft model was trained for itself
    assert LoadSettings(rope=scaled).for_draft().rope == ROPE_OF_HEADER


def test_a_scaling_changes_what_the_model_computes(tmp_path: Path) -> None:
    path = tiny.plain(tmp_path / "model.gguf")
    text = "".join(random.Random(7).choices(tiny.CHARACTERS, k=40))
    own, same, other = (_logits(path, text, rope) for rope in (
        ROPE_OF_HEADER,
        RopeSettings(scaling=RopeScaling.LINEAR, freq_scale=1.0),
        RopeSettings(scaling=RopeScaling.LINEAR, freq_scale=0.25),
    ))  # fmt: skip
    assert np.array_equal(own, same)
    assert not np.allclose(own, other)


def _logits(path: Path, text: str, rope: RopeSettings) -> "np.typing.NDArray[np.float32]":
    stepped = SteppedScheduler(path, replace(settings(), rope=rope))
    try:
        return stepped.logits(text)
    finally:
        stepped.close()
