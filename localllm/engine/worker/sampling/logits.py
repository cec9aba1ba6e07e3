"""One row of logits in llama.cpp's memory: log probabilities, and drawing among a few tokens.

Imported when a request needs it: numpy costs every other start of a worker time and memory.
"""

import contextlib
import ctypes
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from localllm.engine.worker.binding import llama

Logits = npt.NDArray[np.float32]
"""One row, float32 [vocabulary size]."""
Allowed = npt.NDArray[np.intp]
"""Token ids, ascending."""

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data` in llama.h."""

_BLOCK = 256
"""Logits that are compared at once when the largest are looked for."""


def logits_of(context: int, row: int, vocab_size: int) -> Logits:
    """Return output row `row` of the last decode, in llama.cpp's own memory: valid until the next
    decode."""
    found = llama.llama_get_logits_ith(context, row)
    memory = (ctypes.c_float * vocab_size).from_address(ctypes.addressof(found.contents))
    return np.frombuffer(memoryview(memory), np.float32)


def logprobs(logits: Logits, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the natural logarithm of `token`'s probability, and the `top` most likely tokens with
    theirs, best first; equal ones by token."""
    best = top_tokens(logits, top) if top else []
    peak = logits[best[0]] if best else logits.max()
    # In float32, numpy's pairwise sum is exact to six digits, at a third of float64's time.
    shares = np.subtract(logits, peak, out=_scratch(len(logits)))
    total = float(peak) + math.log(float(np.exp(shares, out=shares).sum()))
    return float(logits[token]) - total, [(each, float(logits[each]) - total) for each in best]


def top_margin(logits: Logits, allowed: Allowed | None = None) -> float:
    """Return the difference between the largest logit (of the `allowed` tokens) and the next."""
    values = logits if allowed is None else logits[allowed]
    best = int(values.argmax())
    others = (values[:best], values[best + 1 :])
    return float(values[best]) - max((float(o.max()) for o in others if len(o)), default=-np.inf)


@functools.lru_cache(1)
def _scratch(size: int) -> Logits:
    """Return memory that is reused: a new array of this size costs as much as filling it."""
    return np.empty(size, np.float32)


def top_tokens(logits: Logits, count: int) -> list[int]:
    """Return the `count` tokens of the largest logits, best first; equal ones by token.

    Each of the `count` blocks of the largest maxima has one logit at least that is as large as the
    least of these maxima: no smaller one counts. Two passes over the row instead of a sort.
    """
    whole = len(logits) // _BLOCK * _BLOCK
    maxima = logits[:whole].reshape(-1, _BLOCK).max(axis=1)
    least = np.partition(maxima, -count)[-count] if count <= len(maxima) else -np.inf
    ids = np.flatnonzero(~(logits < least))  # NaN comes last, but it comes
    return [int(each) for each in ids[np.argsort(-logits[ids], kind="stable")[:count]]]


@functools.lru_cache(8)
def all_except(tokens: frozenset[int], vocab_size: int) -> Allowed:
    """Return every token of the vocabulary but these."""
    return np.delete(np.arange(vocab_size), list(tokens))


def only(token: int) -> Allowed:
    """Return this token alone."""
    return np.array([token])


def draw_among(chain: object, logits: Logits, allowed: Allowed) -> int:
    """Let a sampler chain choose among the `allowed` tokens, at least one.

    The chain sees these tokens alone: a logit of minus infinity would be a candidate, whose
    entropy is no number (llama_sampler_typical).
    """
    candidates = _candidates(logits, allowed)
    return int(candidates["id"][_apply(chain, candidates)])


@contextlib.contextmanager
def adjusted(
    logits: Logits, bias: Sequence[tuple[int, float]], chain: object, recent: Iterable[int]
) -> Iterator[None]:
    """Add the bias, then let a chain that changes each token by itself work on these tokens and
    the `recent` ones; until the context ends."""
    named = {*recent, *(token for token, _ in bias)}
    tokens = np.fromiter(named, np.intp, len(named))
    before = logits[tokens]
    if bias:
        np.add.at(logits, *_columns(tuple(bias)))
    candidates = _candidates(logits, tokens)
    if named:
        _apply(chain, candidates)
    logits[tokens] = candidates["logit"]
    try:
        yield
    finally:
        logits[tokens] = before


@functools.lru_cache(64)
def _columns(bias: tuple[tuple[int, float], ...]) -> tuple[Allowed, Logits]:
    return (
        np.array([token for token, _ in bias], np.intp),
        np.array([value for _, value in bias], np.float32),
    )


def _candidates(logits: Logits, tokens: Allowed) -> npt.NDArray[np.void]:
    candidates = np.zeros(len(tokens), _CANDIDATE)
    candidates["id"] = tokens
    candidates["logit"] = logits[tokens]
    return candidates


def _apply(chain: object, candidates: npt.NDArray[np.void]) -> int:
    """Let a chain work on these. Returns the index that it has selected, if it selects."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
    array = llama.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
    llama.llama_sampler_apply(chain, ctypes.byref(array))
    return int(array.selected)
