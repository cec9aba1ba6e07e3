import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.units import (
    MAX_BYTES,
    format_bandwidth,
    format_bytes,
    format_duration,
    format_rate,
    parse_bytes,
)
from localllm.errors import UsageError

GIB = 2**30


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (144 * 2**20, "144 MiB"),
        (int(6.4 * GIB), "6.4 GiB"),
        (25276514304, "23.5 GiB"),
        (GIB - 1, "1.0 GiB"),
        (100 * GIB - 1, "100 GiB"),
        (-3 * GIB, "-3.0 GiB"),
        (MAX_BYTES, "8.0 EiB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 * GIB),
        ("16 GiB", 16 * GIB),
        (" 16gib ", 16 * GIB),
        ("16G", 16 * GIB),
        ("16GB", 16 * 10**9),
        ("1.5MiB", 3 * 2**19),
        (".5k", 512),
        ("4096", 4096),
        ("4096B", 4096),
        ("0", 0),
        ("1.1GiB", 1181116006),
        ("9223372036854775807", MAX_BYTES),
    ],
)
def test_a_size_is_read_exactly(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GiB", "16 foo", "-1GiB", "1e9", "nan", "inf", "1,5GiB", "1..5G", "16iB"),
        *("0x10", "\u0661\u0666GiB", "16GiB/s", "16\nGiB", pytest.param("1" * 10_000, id="huge")),
    ],
)
def test_nonsense_for_a_size_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="16GiB") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 200


def test_a_size_no_computer_can_address_is_refused() -> None:
    with pytest.raises(UsageError, match="address"):
        parse_bytes("9EiB")


@given(st.integers(min_value=0, max_value=MAX_BYTES // 2))
def test_a_written_size_reads_back_within_its_rounding(size: int) -> None:
    assert abs(parse_bytes(format_bytes(size)) - size) <= size * 0.05


@given(st.integers(min_value=0, max_value=MAX_BYTES))
def test_every_number_of_bytes_reads_back_exactly(size: int) -> None:
    assert parse_bytes(f"{size} B") == size


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    try:
        assert parse_bytes(text) >= 0
    except UsageError as error:
        assert "Write it like" in str(error) or "such as" in str(error)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.421, "0.42 tok/s"), (12.34, "12.3 tok/s"), (1450.4, "1450 tok/s")],
)
def test_a_rate_is_written_with_useful_digits(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("bytes_per_s", "text"),
    [(936.2e9, "936 GB/s"), (51.2e9, "51.2 GB/s"), (4.8e12, "4.8 TB/s"), (999.9e9, "1.0 TB/s")],
)
def test_bandwidth_is_written_in_decimal_units(bytes_per_s: float, text: str) -> None:
    assert format_bandwidth(bytes_per_s) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (1.23, "1.2 s"),
        (59.96, "1m"),
        (75.2, "1m 15s"),
        (3599.7, "1h"),
        (7384, "2h 3m"),
        (86_399, "1d"),
        (3 * 86_400 + 4 * 3600, "3d 4h"),
        (-1.5, "-1.5 s"),
    ],
)
def test_a_duration_is_written_in_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
