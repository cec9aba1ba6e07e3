"""Numbers and white space that end before a model's answer is cut."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.sampling.run_limits import (
    MAX_BLANKS,
    MAX_FRACTION_DIGITS,
    RunLimits,
    is_blank,
    largest_next,
)

PIECES = [str(i).encode() for i in range(1000)] + [b"0" * 16, b".", b"e", b"E-", b",", b"}", b'"x']
LIMITS = RunLimits(PIECES, [])
ALL = np.arange(len(PIECES) - 1)  # no text


def grown(start: str, seed: int) -> str:
    """Write digits as long as they are allowed."""
    text, random = start, np.random.default_rng(seed)
    for _ in range(60):
        allowed = LIMITS.narrow(ALL, text.encode())
        digits = [each for each in allowed if PIECES[each].isdigit()]
        if not digits:
            return text
        text += PIECES[random.choice(digits)].decode()
    raise AssertionError(f"{text} goes on")


@given(st.integers(0, 2**32), st.sampled_from(["1", "-9", "[12", '{"a": 5', "922337203685477580"]))
def test_an_integer_stays_in_int64(seed: int, start: str) -> None:
    digits = grown(start, seed).lstrip("[-").removeprefix('{"a": ')
    assert int(digits) <= 2**63 - 1
    assert len(digits) >= 18


@given(st.integers(0, 2**32), st.sampled_from(["0.1", "-3.25", "9999999999999999999.9"]))
def test_a_fraction_ends(seed: int, start: str) -> None:
    assert len(grown(start, seed).partition(".")[2]) == MAX_FRACTION_DIGITS


@given(st.integers(0, 2**32), st.sampled_from(["9999999999999999999e", "1.5E-", "2e+1", "1e2"]))
def test_an_exponent_stays_in_a_double(seed: int, start: str) -> None:
    number = float(grown(start, seed))
    assert math.isfinite(number)
    assert number > 0


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(1e-280, 1e280))
def test_every_number_can_be_written(value: float) -> None:
    text = json.dumps(value)
    for at in range(1, len(text)):
        room = largest_next(text[:at].encode())
        if text[at].isdigit() and room is not None:
            assert room, text[:at]
            assert int(text[at]) <= room[0]


@pytest.mark.parametrize("tail", [b"", b"abc", b"-", b"e", b"true", b'"', b"1 "])
def test_no_number_has_no_limit(tail: bytes) -> None:
    assert largest_next(tail) is None


def test_digits_of_a_text_go_on() -> None:
    with_text = np.arange(len(PIECES))
    assert LIMITS.narrow(with_text, b'"' + b"1" * 40).tolist() == with_text.tolist()


def test_the_last_tokens_that_are_left_are_never_taken() -> None:
    only = np.array([5, 7])
    assert LIMITS.narrow(only, b"1" * 30).tolist() == [5, 7]


@pytest.mark.parametrize("unit", [b" ", b"\n", b"\\n", b"\\t", b'\\"', b"\\\\", b" \\r\\n"])
def test_white_space_and_escapes_end(unit: bytes) -> None:
    pieces = [b" ", b"\n", b"\\", b"a", b'"']
    limits = RunLimits(pieces, [])
    run = b"a" + unit * MAX_BLANKS
    assert limits.narrow(np.arange(5), run[-160:]).tolist() == [3, 4]
    assert is_blank(b"\\u0000" * MAX_BLANKS)
    assert not is_blank(b"x" * MAX_BLANKS)
    assert not is_blank(unit * 4 + b"x")
    assert limits.narrow(np.arange(5), b'{"a": "b ' + unit * 4).tolist() == [0, 1, 2, 3, 4]
