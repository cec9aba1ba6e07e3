"""The rules of thumb give the numbers of their articles."""

from localllm.core.sizing import rules_of_thumb


def test_memory_is_parameters_times_bytes_plus_a_fifth() -> None:
    assert rules_of_thumb.memory_bytes(7_000_000_000, 2) == 16_800_000_000


def test_serving_takes_two_bytes_a_parameter() -> None:
    assert rules_of_thumb.serving_bytes(13_000_000_000) == 26_000_000_000


def test_a_token_of_a_13b_model_with_full_attention_takes_about_a_megabyte() -> None:
    size = rules_of_thumb.kv_bytes_per_token(layers=40, hidden=5120, heads=40, kv_heads=40)
    assert size == 819_200
    assert round(size / 1e6) == 1


def test_grouped_queries_divide_the_cache_by_their_group() -> None:
    full = rules_of_thumb.kv_bytes_per_token(layers=32, hidden=4096, heads=32, kv_heads=32)
    assert (
        rules_of_thumb.kv_bytes_per_token(layers=32, hidden=4096, heads=32, kv_heads=8) == full // 4
    )


def test_a_word_is_about_1_3_tokens() -> None:
    assert rules_of_thumb.words_of(1300) == 1000
