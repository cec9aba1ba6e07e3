"""What the name of a GGUF file says: its quant, and which part of a split model it is.

Names are text that anybody may have written; nothing here raises, whatever they hold.
"""

import re

from localllm.core.file_types import ALIASES, QUANT_LABELS

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
    """The quant that a file's name ends in: "SmolLM2.Q4_1" -> "Q4_1"."""
    match = _QUANT.search(stem)
    if match is None:
        return None
    label = match[1].upper()
    return ALIASES.get(label, label)


def label_in(text: str) -> str | None:
    """The last thing in a name that is built like a quant's label, known to llama.cpp or not:
    "Qwen3-8B-UD-Q4_K_XL" -> "UD-Q4_K_XL"."""
    found = _LABEL.findall(text)
    return found[-1].upper() if found else None


def without_quant(stem: str) -> str:
    """A file's name without the quant at its end."""
    return _QUANT.sub("", stem)


def split_of(file_name: str) -> tuple[str, int, int] | None:
    """Stem, number and count of a part of a split model; None for a file that is whole."""
    match = _SPLIT.fullmatch(file_name)
    return (match["stem"], int(match["number"]), int(match["count"])) if match else None


def split_name(stem: str, number: int, count: int, suffix: str = ".gguf") -> str:
    """The name of one part, as llama.cpp writes it (`llama_split_path`)."""
    return f"{stem}-{number:05d}-of-{count:05d}{suffix}"
