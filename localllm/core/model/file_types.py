"""The quant labels of llama.cpp: their numbers in `general.file_type`, the type that most tensors
get, and the labels and split numbers in file names.

A label is a mix of element types, not a type (`core/catalogue/quant_mix.py` knows which tensor gets
which). Names are outside text; nothing here raises, whatever they hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from localllm.core.model.quants import GgmlType


@dataclass(frozen=True, slots=True)
class FileType:
    """A quant label: its number in `general.file_type` and the type most tensors get."""

    number: int
    default: GgmlType


# llama.h, enum llama_ftype; llama-quant.cpp, llama_ftype_get_default_type.
FILE_TYPES: Mapping[str, FileType] = MappingProxyType(
    {
        "F32": FileType(0, GgmlType.F32),
        "F16": FileType(1, GgmlType.F16),
        "BF16": FileType(32, GgmlType.BF16),
        "Q8_0": FileType(7, GgmlType.Q8_0),
        "Q6_K": FileType(18, GgmlType.Q6_K),
        "Q5_K_M": FileType(17, GgmlType.Q5_K),
        "Q5_K_S": FileType(16, GgmlType.Q5_K),
        "Q5_1": FileType(9, GgmlType.Q5_1),
        "Q5_0": FileType(8, GgmlType.Q5_0),
        "Q4_K_M": FileType(15, GgmlType.Q4_K),
        "Q4_K_S": FileType(14, GgmlType.Q4_K),
        "Q4_1": FileType(3, GgmlType.Q4_1),
        "Q4_0": FileType(2, GgmlType.Q4_0),
        "MXFP4": FileType(38, GgmlType.MXFP4),
        "IQ4_NL": FileType(25, GgmlType.IQ4_NL),
        "IQ4_XS": FileType(30, GgmlType.IQ4_XS),
        "Q3_K_L": FileType(13, GgmlType.Q3_K),
        "Q3_K_M": FileType(12, GgmlType.Q3_K),
        "Q3_K_S": FileType(11, GgmlType.Q3_K),
        "IQ3_M": FileType(27, GgmlType.IQ3_S),
        "IQ3_S": FileType(26, GgmlType.IQ3_S),
        "IQ3_XS": FileType(22, GgmlType.IQ3_S),
        "IQ3_XXS": FileType(23, GgmlType.IQ3_XXS),
        "Q2_K": FileType(10, GgmlType.Q2_K),
        "Q2_K_S": FileType(21, GgmlType.Q2_K),
        "IQ2_M": FileType(29, GgmlType.IQ2_S),
        "IQ2_S": FileType(28, GgmlType.IQ2_XS),
        "IQ2_XS": FileType(20, GgmlType.IQ2_XS),
        "IQ2_XXS": FileType(19, GgmlType.IQ2_XXS),
        "IQ1_M": FileType(31, GgmlType.IQ1_M),
        "IQ1_S": FileType(24, GgmlType.IQ1_S),
    }
)
"""The mixes whose rules are known here."""

# Mixes that llama.cpp reads and whose rules are not known here.
_OTHERS = {36: "TQ1_0", 37: "TQ2_0", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"}

QUANT_LABELS: Mapping[int, str] = MappingProxyType(
    {each.number: label for label, each in FILE_TYPES.items()} | _OTHERS
)
"""`general.file_type` as the label that uploaders use."""

ALIASES: Mapping[str, str] = MappingProxyType({"MXFP4_MOE": "MXFP4"})
"""Labels that mean another one: llama.cpp's own word for 38 is not what the files are called."""

FORK = "ik_llama.cpp"
"""The fork of llama.cpp whose own quants are published most."""
_FORK_LABEL = re.compile(
    r"(?:UD-)?(?:IQ[1-6]_K(?:S{1,2}|L|T)?|IQ[12]_BN|I2_S|Q6_0|Q8_KV|.+_R(?:4|8|16))", re.IGNORECASE
)
# ik_llama.cpp, `enum llama_ftype` in include/llama.h (2026-05): its types, and every type
# interleaved by rows (_R4, _R8, _R16). None of these is a label of llama.cpp's.

_LABELS = sorted({*QUANT_LABELS.values(), *ALIASES}, key=len, reverse=True)
_QUANT = re.compile(rf"(?:^|[-._ ])({'|'.join(_LABELS)})$", re.IGNORECASE)
_SPLIT = re.compile(
    r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<suffix>\.gguf)", re.I
)
# Whatever is built like a quant's label, publishers' own ("UD-Q4_K_XL", "Q6_K_L") included.
_LABEL = re.compile(
    r"(?<![A-Z0-9])"
    r"((?:UD-)?(?:I?Q[1-9]_[0-9A-Z]{1,3}(?:_[0-9A-Z]{1,3}){0,3}|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|FP?16|FP?32))"
    r"(?![A-Z0-9])",
    re.IGNORECASE,
)


def quant_in(stem: str) -> str | None:
    """Find the quant that a file's name ends in: "SmolLM2.Q4_1" -> "Q4_1"."""
    match = _QUANT.search(stem)
    if match is None:
        return None
    label = match[1].upper()
    return ALIASES.get(label, label)


def label_in(text: str) -> str | None:
    """Find the last word in a name that is built like a quant's label, known to llama.cpp or not:
    "Qwen3-8B-UD-Q4_K_XL" -> "UD-Q4_K_XL"."""
    found = _LABEL.findall(text)
    return found[-1].upper() if found else None


def fork_of(label: str | None) -> str | None:
    """Return the fork of llama.cpp that alone reads a label's types; None for all others."""
    return FORK if label is not None and _FORK_LABEL.fullmatch(label) else None


def without_quant(stem: str) -> str:
    """Cut the quant off the end of a file's name."""
    return _QUANT.sub("", stem)


def split_of(file_name: str) -> tuple[str, int, int] | None:
    """Split the name of a part of a split model into stem, number and count; None for others."""
    match = _SPLIT.fullmatch(file_name)
    return (match["stem"], int(match["number"]), int(match["count"])) if match else None


def split_name(stem: str, number: int, count: int, suffix: str = ".gguf") -> str:
    """Build the name of one part, as llama.cpp does (`llama_split_path`)."""
    return f"{stem}-{number:05d}-of-{count:05d}{suffix}"
