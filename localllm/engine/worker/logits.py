"""One row of logits, as llama.cpp left it, and the log probabilities it means."""

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]


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
