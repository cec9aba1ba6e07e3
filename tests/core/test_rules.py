"""The rules of thumb give the numbers that their articles give."""

import pytest

from localllm.core import rules


def test_memory_is_parameters_times_bytes_plus_a_fifth() -> None:
    assert rules.memory_bytes(7_000_000_000, 2) == 16_800_000_000


def test_serving_takes_two_bytes_a_parameter() -> None:
    assert rules.serving_bytes(13_000_000_000) == 26_000_000_000


def test_a_token_of_a_13b_model_with_full_attention_takes_about_a_megabyte() -> None:
    size = rules.kv_bytes_per_token(layers=40, hidden=5120, heads=40, kv_heads=40)
    assert size == 819_200
    assert round(size / 1e6) == 1


def test_grouped_queries_divide_the_cache_by_their_group() -> None:
    full = rules.kv_bytes_per_token(layers=32, hidden=4096, heads=32, kv_heads=32)
    assert rules.kv_bytes_per_token(layers=32, hidden=4096, heads=32, kv_heads=8) == full // 4


def test_opt_350m_counted_by_hand_has_356_714_496_parameters() -> None:
    assert rules.count_parameters(rules.OPT_350M) == 356_714_496


def test_an_opt_without_a_narrow_vocabulary_has_no_projections() -> None:
    shape = rules.OptShape(vocabulary=10, embedding=4, positions=3, hidden=4, blocks=0)
    assert rules.count_parameters(shape) == 2 * 10 * 4 + 3 * 4


def test_flan_t5_xl_fits_a_t4_but_not_through_an_8_gb_host() -> None:
    found = rules.fit(3_000_000_000, 4, device_bytes=16_000_000_000, host_bytes=8_000_000_000)
    assert found.weights_bytes == 12_000_000_000
    assert found.fits_device
    assert not found.fits_host
    assert not found.loads


def test_the_same_model_loads_through_a_16_gb_host() -> None:
    found = rules.fit(3_000_000_000, 4, device_bytes=16_000_000_000, host_bytes=16_000_000_000)
    assert found.loads


def test_a_word_is_about_1_3_tokens() -> None:
    assert rules.tokens_of(1000) == 1300
    assert rules.words_of(1300) == 1000


def test_2048_tokens_of_opt_350m_take_an_a100_76_7_seconds_by_the_article() -> None:
    seconds = rules.attention_seconds(parameters=356_714_496, tokens=2048, flops=19.5e12)
    assert seconds == pytest.approx(76.7, abs=0.05)


def test_a_machine_reserved_for_47_cents_an_hour_costs_about_4100_dollars_a_year() -> None:
    assert rules.yearly_cost(0.47) == pytest.approx(4_117.2)


def test_an_embedding_model_takes_about_a_gigabyte() -> None:
    assert rules.EMBEDDING_MODEL_BYTES == 10**9
