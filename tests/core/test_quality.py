"""Published quality: returned as published, interpolated as said, never invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.quality import quality
from localllm.core.quality.published import PUBLISHED, Metric
from localllm.core.quality.quality import BITS_PER_WEIGHT, cache_loss, cache_quality, knee

sizes = st.integers(10**6, 10**13)


def test_a_model_that_was_measured_gives_its_own_value() -> None:
    # llama.cpp tools/perplexity/README.md: Llama 3 8B Q4_K_M with importance matrix, +0.151303
    # on 6.231636
    found = quality.of("Q4_K_M", 8_030_261_248, "llama")
    assert found is not None
    assert found.value == pytest.approx(100 * 0.151303 / 6.231636, abs=0.01)
    assert not found.interpolated
    assert "Llama-3-8B" in found.source


def test_the_divergence_of_a_measured_model_is_the_published_one() -> None:
    found = quality.of("Q6_K", 8_030_261_248, "llama", metric=Metric.KLD)
    assert found is not None
    assert found.value == 0.005452
    assert found.metric is Metric.KLD


def test_a_model_that_nobody_measured_is_said_to_be_interpolated() -> None:
    found = quality.of("Q4_K_M", 8_190_735_360, "qwen3")
    assert found is not None
    assert found.interpolated
    assert "Llama-3-8B" in found.source
    assert "Mistral-7B" in found.source


def test_the_same_size_in_another_family_is_not_taken_for_the_measured_model() -> None:
    found = quality.of("Q4_K_M", 8_030_261_248, "gemma")
    assert found is not None
    assert found.interpolated


@given(sizes, st.sampled_from(sorted(BITS_PER_WEIGHT)))
def test_an_interpolated_value_lies_between_published_ones(parameters: int, quant: str) -> None:
    values = [
        row.values[quant]
        for row in PUBLISHED
        if row.metric is Metric.PERPLEXITY and quant in row.values
    ]
    found = quality.of(quant, parameters)
    assert found is not None
    assert min(values) - 1e-9 <= found.value <= max(values) + 1e-9


@given(sizes)
def test_the_usual_quants_are_ordered_by_their_bits(parameters: int) -> None:
    losses = [quality.of(q, parameters) for q in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")]
    values = [found.value for found in losses if found is not None]
    assert len(values) == 5
    assert values == sorted(values)


@pytest.mark.parametrize("quant", ["Q9_Z", "", "UD-Q4_K_XL", "q4_k_m"])
def test_a_quant_without_a_published_perplexity_has_no_quality(quant: str) -> None:
    assert quality.of(quant, 8 * 10**9) is None


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="parameters"):
        quality.of("Q4_K_M", 0)


def test_the_knee_of_llama_3_8b_is_a_four_bit_quant() -> None:
    assert knee(8_030_261_248, "llama") == "Q4_K_S"


def test_a_small_model_has_its_knee_at_more_bits() -> None:
    small, large = knee(2_250_000_000), knee(14_000_000_000)
    assert small is not None
    assert large is not None
    assert BITS_PER_WEIGHT[small] > BITS_PER_WEIGHT[large]


@given(sizes)
def test_every_size_has_a_knee_inside_the_usable_quants(parameters: int) -> None:
    best = knee(parameters)
    assert best is not None
    found = quality.of(best, parameters)
    assert found is not None
    assert found.value < 20


def test_a_quantized_cache_costs_gemma_far_more_than_qwen() -> None:
    gemma = max(r.high for r in cache_quality("gemma4", "q8_0", "q8_0") if r.metric is Metric.KLD)
    qwen = max(r.high for r in cache_quality("qwen35moe", "q8_0", "q8_0") if r.metric is Metric.KLD)
    assert gemma == 0.377
    assert qwen == 0.04


def test_a_cache_type_that_nobody_measured_for_a_family_has_no_quality() -> None:
    assert cache_quality("llama", "q4_0", "q4_0") == ()
    assert cache_quality("falcon", "q8_0", "q8_0") == ()


def test_every_published_table_names_its_source() -> None:
    assert all(row.source and row.model and row.values for row in PUBLISHED)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_a_cache_of_16_bits_loses_nothing_that_is_said(kind: str) -> None:
    assert cache_loss("llama", kind, "f16") is None


@pytest.mark.parametrize(
    ("family", "types", "words"),
    [
        ("llama", ("q8_0", "q8_0"), "mean KL divergence 0.00098 (Llama-3-8B)"),
        ("llama", ("q8_0", "f16"), "q8_0 keys and f16 values can change answers"),
        ("qwen3moe", ("q8_0", "q8_0"), "at most 0.04 (Qwen3.6-27B / 35B-A3B)"),
        ("qwen3", ("q4_0", "q4_0"), "0.087 to 0.117 (Qwen3.6-27B / 35B-A3B)"),
        ("gemma3", ("q8_0", "q8_0"), "perplexity change 0.01 % (Gemma-4-31B base)"),
        ("falcon", ("q4_1", "q4_1"), "nobody has published. f16 is the safe choice"),
    ],
)
def test_what_a_smaller_cache_costs_is_what_was_published(
    family: str, types: tuple[str, str], words: str
) -> None:
    loss = cache_loss(family, *types)
    assert loss is not None
    assert words in loss
