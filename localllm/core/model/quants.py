"""ggml's element types: block sizes and bytes, as `ggml.c` (type_traits) defines them.

Values from llama.cpp b11434, `gguf-py/gguf/constants.py` (GGML_QUANT_SIZES).
"""

from dataclasses import dataclass
from enum import IntEnum


class GgmlType(IntEnum):
    """Tensor element types that a GGUF file may hold (retired ids are left out on purpose)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


@dataclass(frozen=True, slots=True)
class Block:
    """A quantization block: `elements` values stored in `size_bytes` bytes."""

    elements: int
    size_bytes: int


BLOCKS: dict[GgmlType, Block] = {
    GgmlType.F32: Block(1, 4),
    GgmlType.F16: Block(1, 2),
    GgmlType.Q4_0: Block(32, 18),
    GgmlType.Q4_1: Block(32, 20),
    GgmlType.Q5_0: Block(32, 22),
    GgmlType.Q5_1: Block(32, 24),
    GgmlType.Q8_0: Block(32, 34),
    GgmlType.Q8_1: Block(32, 36),
    GgmlType.Q2_K: Block(256, 84),
    GgmlType.Q3_K: Block(256, 110),
    GgmlType.Q4_K: Block(256, 144),
    GgmlType.Q5_K: Block(256, 176),
    GgmlType.Q6_K: Block(256, 210),
    GgmlType.Q8_K: Block(256, 292),
    GgmlType.IQ2_XXS: Block(256, 66),
    GgmlType.IQ2_XS: Block(256, 74),
    GgmlType.IQ3_XXS: Block(256, 98),
    GgmlType.IQ1_S: Block(256, 50),
    GgmlType.IQ4_NL: Block(32, 18),
    GgmlType.IQ3_S: Block(256, 110),
    GgmlType.IQ2_S: Block(256, 82),
    GgmlType.IQ4_XS: Block(256, 136),
    GgmlType.I8: Block(1, 1),
    GgmlType.I16: Block(1, 2),
    GgmlType.I32: Block(1, 4),
    GgmlType.I64: Block(1, 8),
    GgmlType.F64: Block(1, 8),
    GgmlType.IQ1_M: Block(256, 56),
    GgmlType.BF16: Block(1, 2),
    GgmlType.TQ1_0: Block(256, 54),
    GgmlType.TQ2_0: Block(256, 66),
    GgmlType.MXFP4: Block(32, 17),
    GgmlType.NVFP4: Block(64, 36),
    GgmlType.Q1_0: Block(128, 18),
    GgmlType.Q2_0: Block(64, 18),
}


RETIRED: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Type ids that older files hold and llama.cpp no longer reads (`enum ggml_type`, ggml.h)."""

FORK_TYPES: dict[int, str] = {
    133: "Q6_0",
    134: "IQ1_BN",
    135: "IQ2_BN",
    137: "IQ2_K",
    138: "IQ3_K",
    139: "IQ4_K",
    140: "IQ5_K",
    141: "IQ6_K",
    144: "IQ4_KS",
    145: "IQ2_KS",
    146: "IQ4_KSS",
    151: "Q8_KV",
    152: "IQ5_KS",
    153: "IQ2_KT",
    154: "IQ3_KT",
    155: "IQ4_KT",
    156: "IQ3_KS",
    157: "IQ2_KL",
    158: "IQ1_KT",
}
"""Type ids of ik_llama.cpp, a fork (`enum ggml_type` in its ggml.h, 2026-05)."""
_INTERLEAVED = 200
"""Added to the id of a type that this fork has interleaved by rows."""


def fork_type(number: int) -> str | None:
    """Return the name of a type that only ik_llama.cpp reads; None for every other id."""
    base = number - _INTERLEAVED
    if base in FORK_TYPES or base in set(GgmlType):
        return f"{FORK_TYPES.get(base) or GgmlType(base).name} in rows"
    return FORK_TYPES.get(number)


def row_bytes(kind: GgmlType, elements: int) -> int:
    """Return the bytes of `elements` contiguous values (`ggml_row_size`).

    Raises ValueError when they do not fill whole blocks.
    """
    block = BLOCKS[kind]
    if elements % block.elements:
        raise ValueError(f"{elements} values do not fill blocks of {block.elements} ({kind.name})")
    return elements // block.elements * block.size_bytes
