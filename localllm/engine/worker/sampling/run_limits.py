"""End numbers and white space that a small model would go on with until its answer is cut.

A JSON Schema's number has any number of digits and a string any number of spaces, and some models
know no end of either. The grammar stays as it is: near a limit the tokens that would pass it are
taken out of those that it allows, unless no other is left.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from localllm.engine.worker.sampling.logits import Allowed

MAX_INTEGER = 2**63 - 1
MAX_FRACTION_DIGITS = 20
"""A double needs 17; smaller numbers are written with an exponent."""
MAX_EXPONENT = 289
"""With 19 digits before it the number is still one that a double holds (1.8e308)."""
MAX_BLANKS = 128
"""Bytes of white space and escapes in a row. Code and tables have less."""

TAIL_BYTES = 160
"""Of an answer, for both."""

_NUMBER = re.compile(rb"(?:(\d+)(\.\d*)?)?(?:[eE][+-]?(\d*))?\Z")
_MAY_END_A_NUMBER = frozenset(b"0123456789.eE+-")
_BLANKS = re.compile(
    rb'[nrtbfu0-9a-fA-F"\\/]{0,5}'  # the end of an escape
    rb'(?:[ \t\r\n]|\\[nrtbf"\\/]|\\u00[0-9a-fA-F]{2})+\\?'
)
_NEXT_DIGITS = 18
"""Leading digits of a token that are compared by value."""


def largest_next(tail: bytes) -> tuple[int, ...] | None:
    """Return the largest values that one, two, three ... more digits of the number at the end of a
    text may have; more digits than there are values cannot follow. None: no number ends there."""
    start = len(tail)
    while start and tail[start - 1] in _MAY_END_A_NUMBER:
        start -= 1
    found = _NUMBER.search(tail, start)
    if found is None or found[1] is None:
        return None
    whole, fraction, exponent = found[1], found[2], found[3]
    if exponent is not None:
        return _room(int(exponent or 0), len(exponent), MAX_EXPONENT, 3)
    if fraction is not None:
        return tuple(10**n - 1 for n in range(1, MAX_FRACTION_DIGITS - len(fraction) + 2))
    return _room(int(whole), len(whole), MAX_INTEGER, 19)


def _room(value: int, digits: int, most: int, most_digits: int) -> tuple[int, ...]:
    room = (most - value * 10**n for n in range(1, most_digits - digits + 1))
    return tuple(min(left, 10**n - 1) for n, left in enumerate(room, start=1) if left >= 0)


def is_blank(tail: bytes) -> bool:
    """Return True when the last MAX_BLANKS bytes are white space or escapes."""
    return len(tail) >= MAX_BLANKS and _BLANKS.fullmatch(tail, len(tail) - MAX_BLANKS) is not None


Flags = npt.NDArray[np.bool_]


class RunLimits:
    """What is known of one vocabulary's tokens for these limits."""

    def __init__(self, pieces: Sequence[bytes], special: Sequence[int]) -> None:
        size = len(pieces)
        self._digits = np.zeros(size, np.uint8)
        self._value = np.zeros(size, np.int64)
        self._is_text = np.zeros(size, np.bool_)
        self._is_blank = np.zeros(size, np.bool_)
        for token, piece in enumerate(pieces):
            first = piece[:1]
            if first.isdigit():
                digits = len(piece) - len(piece.lstrip(b"0123456789"))
                self._digits[token] = min(digits, 255)
                self._value[token] = int(piece[: min(digits, _NEXT_DIGITS)])
            elif first.isalpha() and first not in b"eE":
                self._is_text[token] = True
            elif first in (b" ", b"\t", b"\r", b"\n", b"\\"):
                self._is_blank[token] = True
            elif first == b'"':
                self._is_text[token] = True
        self._is_text[list(special)] = False
        self._longest = int(self._digits.max(initial=0))

    def narrow(self, allowed: Allowed, tail: bytes) -> Allowed:
        """Leave out the tokens that would pass a limit behind this text, if others are left."""
        if not tail:
            return allowed
        if tail[-1] in _MAY_END_A_NUMBER:
            room = largest_next(tail)
            if room is None or len(room) >= max(self._longest, 3) + 1:
                return allowed
            if self._is_text[allowed].any():  # no number: text may go on here
                return allowed
            return self._among(allowed, ~self._passes(allowed, room))
        if is_blank(tail):
            return self._among(allowed, ~self._is_blank[allowed])
        return allowed

    def _passes(self, allowed: Allowed, room: tuple[int, ...]) -> Flags:
        digits = self._digits[allowed]
        most = np.zeros(256, np.int64) - 1
        most[0] = np.iinfo(np.int64).max
        for count, value in enumerate(room[:_NEXT_DIGITS], start=1):
            most[count] = value
        return self._value[allowed] > most[digits]

    @staticmethod
    def _among(allowed: Allowed, kept: Flags) -> Allowed:
        return allowed[kept] if kept.any() else allowed
