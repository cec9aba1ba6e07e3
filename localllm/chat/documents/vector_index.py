"""Search by meaning: the cosine between the vector of a question and those of all passages.

Every vector is compared. That is exact, and on a laptop takes a hundredth of a second for a
hundred thousand passages, where an index of neighbours would be one more thing to keep.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Rows of length 1."""


class VectorIndex:
    """The vectors of many passages, with their numbers."""

    def __init__(self, ids: Sequence[int], vectors: Vectors) -> None:
        self._ids = np.asarray(ids, dtype=np.int64)
        self._vectors = vectors

    def search(self, vector: Vectors, limit: int) -> list[int]:
        """Return the numbers of the passages that are nearest to a vector, the best first."""
        if not len(self._ids) or self._vectors.shape[1] != vector.shape[0]:
            return []
        scores = self._vectors @ vector
        limit = min(limit, len(scores))
        best = np.argpartition(scores, -limit)[-limit:]
        ordered = best[np.argsort(-scores[best], kind="stable")]
        return [int(number) for number in self._ids[ordered]]


def unit_rows(rows: Vectors) -> Vectors:
    """Scale rows to length 1; a row of zeros, or with a value that is no number, becomes zeros."""
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit
