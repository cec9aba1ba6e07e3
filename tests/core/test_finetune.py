"""The memory of a fine-tune against counts that are known from papers."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.sizing.finetune import (
    Method,
    TrainingShape,
    adapter_parameters,
    shape_of,
    training_memory,
)
from localllm.errors import UsageError
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

FORGED = {forged.name: forged for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
LLAMA_7B = TrainingShape(
    parameters=6_738_415_616,
    layers=32,
    hidden=4096,
    heads=32,
    query_width=4096,
    kv_width=4096,
    feed_forward=11008,
    vocabulary=32000,
)
counts = st.integers(1, 4096)


def test_qlora_of_llama_7b_at_rank_64_trains_159_907_840_parameters() -> None:
    # what peft prints for rank 64 on all linear layers
    assert adapter_parameters(LLAMA_7B, 64) == 159_907_840


def test_full_training_takes_sixteen_bytes_a_parameter_before_activations() -> None:
    need = training_memory(LLAMA_7B, Method.FULL)
    states = need.weights_bytes + need.gradient_bytes + need.optimizer_bytes
    assert states == 16 * LLAMA_7B.parameters
    assert need.adapter_bytes == 0


def test_qlora_of_llama_7b_fits_a_card_that_full_training_does_not() -> None:
    # Dettmers et al., figure 6: 7B takes about 5 GB of weights, far under a 24 GB card
    qlora = training_memory(LLAMA_7B, Method.QLORA, rank=64, sequence=512)
    full = training_memory(LLAMA_7B, Method.FULL, sequence=512)
    assert qlora.total_bytes < 24 * 10**9 < full.total_bytes


def test_four_bit_weights_take_4_127_bits_and_the_ends_sixteen() -> None:
    need = training_memory(LLAMA_7B, Method.QLORA)
    ends = 2 * 32000 * 4096
    bits = (need.weights_bytes - 2 * ends) * 8 / (LLAMA_7B.parameters - ends)
    assert bits == pytest.approx(4.127, abs=0.001)


@given(st.sampled_from(Method), counts, st.integers(1, 64), counts)
def test_the_parts_sum_to_the_total(method: Method, rank: int, batch: int, sequence: int) -> None:
    need = training_memory(LLAMA_7B, method, rank=rank, batch=batch, sequence=sequence)
    parts = dataclasses.asdict(need)
    del parts["trained_parameters"]
    assert sum(parts.values()) == need.total_bytes


@given(counts, st.integers(1, 64), counts)
def test_qlora_never_needs_more_than_lora(rank: int, batch: int, sequence: int) -> None:
    sizes = [
        training_memory(LLAMA_7B, method, rank=rank, batch=batch, sequence=sequence).total_bytes
        for method in (Method.QLORA, Method.LORA)
    ]
    assert sizes == sorted(sizes)


@given(st.sampled_from(Method), counts, counts, counts, counts)
def test_more_of_anything_never_needs_less(
    method: Method, rank: int, sequence: int, more_rank: int, longer: int
) -> None:
    small = training_memory(LLAMA_7B, method, rank=rank, sequence=sequence)
    large = training_memory(LLAMA_7B, method, rank=rank + more_rank, sequence=sequence + longer)
    assert large.total_bytes >= small.total_bytes


def test_recomputing_activations_saves_memory_and_the_attention_matrix_costs_it() -> None:
    lean = training_memory(LLAMA_7B, Method.LORA).activation_bytes
    kept = training_memory(LLAMA_7B, Method.LORA, checkpointing=False).activation_bytes
    matrix = training_memory(LLAMA_7B, Method.LORA, flash_attention=False).activation_bytes
    assert lean < matrix < kept
    # Korthikanti et al., equation 2 without its second term: 34 s b h bytes a layer
    assert kept == 34 * 2048 * 4096 * 32


def test_counts_are_read_from_a_header() -> None:
    shape = shape_of(spec(FORGED["Llama-3.1-8B"]))
    assert (shape.layers, shape.hidden, shape.heads) == (32, 4096, 32)
    assert (shape.query_width, shape.kv_width, shape.feed_forward) == (4096, 1024, 14336)


def test_adapters_leave_routed_experts_alone() -> None:
    shape = shape_of(spec(FORGED["Qwen3-30B-A3B"]))
    assert shape.feed_forward == 0
    assert 0 < adapter_parameters(shape, 8) < shape.parameters // 1000


@pytest.mark.parametrize("name", sorted(FORGED))
def test_every_architecture_has_an_estimate(name: str) -> None:
    need = training_memory(shape_of(spec(FORGED[name])), Method.QLORA)
    assert need.total_bytes > 0


def test_a_count_below_one_is_refused_by_its_option() -> None:
    with pytest.raises(UsageError, match="--rank must be at least 1, not 0"):
        training_memory(LLAMA_7B, Method.LORA, rank=0)
    with pytest.raises(UsageError, match="--batch must be at least 1, not -1"):
        training_memory(LLAMA_7B, Method.LORA, batch=-1)
    with pytest.raises(UsageError, match="--seq must be at least 1, not 0"):
        training_memory(LLAMA_7B, Method.LORA, sequence=0)
