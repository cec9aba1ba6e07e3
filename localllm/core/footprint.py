"""The memory one load needs, part by part, in exact bytes.

(The formulas follow; the value they give is the contract.)
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One breakdown, shown as it is everywhere.

    `weights_bytes` sums the tensors that are loaded; `overhead_bytes` is the repacked copy, the
    interpreter and the vocabulary.
    """

    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.recurrent_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.overhead_bytes
        )
