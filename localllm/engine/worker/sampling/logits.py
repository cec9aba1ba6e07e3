"""One row of logits, as llama.cpp left it: its log probabilities, and a draw among a few tokens.

Imported when a request needs it: numpy costs every other start of a worker time and memory.
"""

import contextlib
import ctypes
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.intp]
"""Token ids, ascending."""

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data` in llama.h."""

_BLOCK = 256
"""Logits that are compared at once when the largest are looked for."""


def row_of(context: int, index: int, vocabulary: int) -> Row:
    """Output row `index` of the last decode: float32 [vocabulary], llama.cpp's own memory.
    Valid until the next decode."""
    found = llama.llama_get_logits_ith(context, index)
    memory = (ctypes.c_float * vocabulary).from_address(ctypes.addressof(found.contents))
    return np.frombuffer(memoryview(memory), np.float32)


def logprobs(row: Row, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural logarithm of `token`'s probability, and the `top` most likely tokens with
    theirs, best first; equal ones by token."""
    best = likeliest(row, top) if top else []
    peak = row[best[0]] if best else row.max()
    # In float32, numpy's pairwise sum is exact to six digits, at a third of float64's time.
    shares = np.subtract(row, peak, out=_scratch(len(row)))
    total = float(peak) + math.log(float(np.exp(shares, out=shares).sum()))
    return float(row[token]) - total, [(each, float(row[each]) - total) for each in best]


def lead(row: Row, allowed: Allowed | None = None) -> float:
    """How much larger the largest logit (of the `allowed` tokens) is than the next one."""
    values = row if allowed is None else row[allowed]
    best = int(values.argmax())
    others = (values[:best], values[best + 1 :])
    return float(values[best]) - max((float(o.max()) for o in others if len(o)), default=-np.inf)


@functools.lru_cache(1)
def _scratch(size: int) -> Row:
    """Memory that is used again: a new array of this size costs as much as filling it."""
    return np.empty(size, np.float32)


def likeliest(row: Row, top: int) -> list[int]:
    """The `top` tokens of the largest logits, best first; equal ones by token.

    Each of the `top` blocks of the largest maxima has one logit at least that is as large as the
    least of these maxima: no smaller one counts. Two passes over the row instead of a sort.
    """
    whole = len(row) // _BLOCK * _BLOCK
    maxima = row[:whole].reshape(-1, _BLOCK).max(axis=1)
    least = np.partition(maxima, -top)[-top] if top <= len(maxima) else -np.inf
    ids = np.flatnonzero(~(row < least))  # what is no number comes last, but it comes
    return [int(each) for each in ids[np.argsort(-row[ids], kind="stable")[:top]]]


@functools.lru_cache(8)
def all_but(tokens: frozenset[int], vocabulary: int) -> Allowed:
    """Every token of the vocabulary but these."""
    return np.delete(np.arange(vocabulary), list(tokens))


def draw(chain: object, row: Row, allowed: Allowed) -> int:
    """Let a sampler chain choose among the `allowed` tokens, at least one.

    The chain sees these tokens alone: a logit of minus infinity would be a candidate, whose
    entropy is no number (llama_sampler_typical).
    """
    candidates = _candidates(row, allowed)
    return int(candidates["id"][_apply(chain, candidates)])


@contextlib.contextmanager
def changed(
    row: Row, bias: Sequence[tuple[int, float]], chain: object, lately: Iterable[int]
) -> Iterator[None]:
    """Add the bias, then let a chain that changes each token by itself work on these and those
    that were there `lately`; as long as the context lasts."""
    named = {*lately, *(token for token, _ in bias)}
    tokens = np.fromiter(named, np.intp, len(named))
    before = row[tokens]
    if bias:
        np.add.at(row, *_columns(tuple(bias)))
    candidates = _candidates(row, tokens)
    if named:
        _apply(chain, candidates)
    row[tokens] = candidates["logit"]
    try:
        yield
    finally:
        row[tokens] = before


@functools.lru_cache(64)
def _columns(bias: tuple[tuple[int, float], ...]) -> tuple[Allowed, Row]:
    return (
        np.array([token for token, _ in bias], np.intp),
        np.array([value for _, value in bias], np.float32),
    )


def _candidates(row: Row, tokens: Allowed) -> npt.NDArray[np.void]:
    candidates = np.zeros(len(tokens), _CANDIDATE)
    candidates["id"] = tokens
    candidates["logit"] = row[tokens]
    return candidates


def _apply(chain: object, candidates: npt.NDArray[np.void]) -> int:
    """Let a chain work on these. Which of them it has selected, if it does."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
    found = llama.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
    llama.llama_sampler_apply(chain, ctypes.byref(found))
    return int(found.selected)
