"""One row of logits, as llama.cpp left it: its log probabilities, and a draw among a few tokens.

Imported when a request needs it: numpy costs every other start of a worker time and memory.
"""

import ctypes
from collections.abc import Collection

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.intp]
"""Token ids, ascending."""

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data` in llama.h."""


def row_of(context: int, index: int, vocabulary: int) -> Row:
    """Output row `index` of the last decode: float32 [vocabulary], llama.cpp's own memory.
    Valid until the next decode."""
    return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, index), shape=(vocabulary,))


def logprobs(row: Row, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural logarithm of `token`'s probability, and the `top` most likely tokens with
    theirs, best first; equal ones by token."""
    shifted = row.astype(np.float64) - float(row.max())
    total = float(np.log(np.exp(shifted).sum()))
    best: list[int] = []
    if top:
        found = np.argpartition(-row, min(top, len(row) - 1))[:top]
        best = sorted((int(each) for each in found), key=lambda each: (-float(row[each]), each))
    return float(shifted[token]) - total, [(each, float(shifted[each]) - total) for each in best]


def lead(row: Row, allowed: Allowed | None = None) -> float:
    """How much larger the largest logit (of the `allowed` tokens) is than the next one."""
    values = row if allowed is None else row[allowed]
    best = int(values.argmax())
    others = (values[:best], values[best + 1 :])
    return float(values[best]) - max((float(o.max()) for o in others if len(o)), default=-np.inf)


def all_but(tokens: Collection[int], vocabulary: int) -> Allowed:
    """Every token of the vocabulary but these."""
    return np.setdiff1d(np.arange(vocabulary), np.array(list(tokens), np.intp))


def draw(chain: object, row: Row, allowed: Allowed) -> int:
    """Let a sampler chain choose among the `allowed` tokens, at least one.

    The chain sees these tokens alone: a logit of minus infinity would be a candidate, whose
    entropy is no number (llama_sampler_typical).
    """
    candidates = np.zeros(len(allowed), _CANDIDATE)
    candidates["id"] = allowed
    candidates["logit"] = row[allowed]
    data = candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
    found = llama.llama_token_data_array(data=data, size=len(allowed), selected=-1, sorted=False)
    llama.llama_sampler_apply(chain, ctypes.byref(found))
    return int(found.data[found.selected].id)
