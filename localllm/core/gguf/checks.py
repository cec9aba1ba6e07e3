"""The ranges of a header's values that later arithmetic and native code rely on."""

import re
from collections.abc import Mapping, Sequence

from localllm.core.gguf.arrays import Numbers, Strings
from localllm.core.gguf.byte_reader import DAMAGED
from localllm.core.model.spec import MAX_LAYERS, MetadataValue
from localllm.errors import GgufError

DEFAULT_ALIGNMENT = 32
UNKNOWN_ARCHITECTURE = "unknown"
"""Of the parts of a split model only the first says what it is (llama.cpp's gguf-split)."""

_MIN_ALIGNMENT, _MAX_ALIGNMENT = 8, 1 << 20
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SPLIT_MAX = 65535

_FLAGS = ("attention.sliding_window_pattern", "attention.recurrent_layers")
"""One boolean or number for each layer, or a period."""

_RANGES: dict[str, tuple[int, int]] = {
    "block_count": (1, MAX_LAYERS),
    "context_length": (1, 2**31 - 1),
    "embedding_length": (1, 1 << 20),
    "feed_forward_length": (0, 1 << 24),
    "vocab_size": (0, 1 << 24),
    "nextn_predict_layers": (0, MAX_LAYERS),
    "leading_dense_block_count": (0, MAX_LAYERS),
    "full_attention_interval": (0, MAX_LAYERS),
    "expert_count": (0, 1 << 16),
    "expert_used_count": (0, 1 << 16),
    "expert_shared_count": (0, 1 << 16),
    "expert_group_count": (0, 1 << 16),
    "expert_group_used_count": (0, 1 << 16),
    "expert_feed_forward_length": (0, 1 << 24),
    "expert_shared_feed_forward_length": (0, 1 << 24),
    "attention.head_count": (0, 1 << 16),
    "attention.head_count_kv": (0, 1 << 16),
    "attention.key_length": (0, 1 << 16),
    "attention.value_length": (0, 1 << 16),
    "attention.key_length_mla": (0, 1 << 16),
    "attention.value_length_mla": (0, 1 << 16),
    "attention.key_length_swa": (0, 1 << 16),
    "attention.value_length_swa": (0, 1 << 16),
    "attention.kv_lora_rank": (0, 1 << 20),
    "attention.q_lora_rank": (0, 1 << 20),
    "attention.shared_kv_layers": (0, MAX_LAYERS),
    "attention.sliding_window": (0, 2**31 - 1),
    "rope.dimension_count": (0, 1 << 16),
    "ssm.conv_kernel": (0, 1 << 16),
    "ssm.inner_size": (0, 1 << 24),
    "ssm.state_size": (0, 1 << 20),
    "ssm.group_count": (0, 1 << 16),
    "ssm.time_step_rank": (0, 1 << 20),
    "wkv.head_size": (0, 1 << 16),
    "token_shift_count": (0, 1 << 8),
    "kda.head_dim": (0, 1 << 16),
    "shortconv.l_cache": (0, 1 << 16),
} | dict.fromkeys(_FLAGS, (0, MAX_LAYERS))
"""The smallest and largest value of each key of an architecture that `core/` computes with.
Wide: they keep arithmetic sane and refuse no model. An array has one element for each layer."""


def architecture(metadata: Mapping[str, MetadataValue]) -> str:
    """Return `general.architecture`. Raises GgufError when it is missing or not a plain name."""
    value = metadata.get("general.architecture")
    if value is None:
        if _is_later_part(metadata):
            return UNKNOWN_ARCHITECTURE
        raise GgufError(
            "the header has no general.architecture, so nobody can tell what model this is."
            " Is it a GGUF of a language model? Download it again."
        )
    if not isinstance(value, str) or not _ARCHITECTURE.fullmatch(value):
        raise GgufError(f"general.architecture is {value!a:.60}, not a plain name. {DAMAGED}")
    return value


def alignment(metadata: Mapping[str, MetadataValue]) -> int:
    """Return `general.alignment` or its default. Raises GgufError for an impossible one."""
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not _MIN_ALIGNMENT <= value <= _MAX_ALIGNMENT:
        allowed = f"{_MIN_ALIGNMENT} to {_MAX_ALIGNMENT}"
        raise GgufError(f"general.alignment is {value!a:.40}; {allowed} is possible. {DAMAGED}")
    if value & (value - 1):
        raise GgufError(f"general.alignment is {value}, not a power of two. {DAMAGED}")
    return value


def check_values(metadata: Mapping[str, MetadataValue], prefix: str) -> None:
    """Raise GgufError for a count that is no whole number or out of any sane range, and for
    vocabulary arrays of different lengths."""
    for key, (low, high) in _RANGES.items():
        value = metadata.get(f"{prefix}.{key}")
        if value is not None:
            _check_range(f"{prefix}.{key}", value, low, high)
    for key in ("split.no", "split.count"):
        if key in metadata:
            _check_range(key, metadata[key], 0, _SPLIT_MAX)
    _check_vocabulary(metadata)


def _check_range(key: str, value: MetadataValue, low: int, high: int) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        _check_number(key, value, low, high)
    elif len(value) > MAX_LAYERS:
        raise GgufError(
            f"{key} has {len(value)} elements; one for each of {MAX_LAYERS} layers is the most."
            f" {DAMAGED}"
        )
    else:
        for index, each in enumerate(value):
            # 0 is common: layers without attention or without a dense part
            _check_number(f"{key}[{index}]", each, 0, high)


def _check_number(key: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int):
        raise GgufError(f"{key} is {value!a:.40}; a whole number is needed. {DAMAGED}")
    if not low <= value <= high:
        raise GgufError(f"{key} is {value}; {low} to {high} is possible. {DAMAGED}")


def _check_vocabulary(metadata: Mapping[str, MetadataValue]) -> None:
    """llama.cpp reads one score and one type for each token, however many there are."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Strings):
        return
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        other = metadata.get(key)
        if isinstance(other, Numbers) and len(other) != len(tokens):
            raise GgufError(f"{key} has {len(other)} elements for {len(tokens)} tokens. {DAMAGED}")


def _is_later_part(metadata: Mapping[str, MetadataValue]) -> bool:
    number = metadata.get("split.no")
    return isinstance(number, int) and number > 0
