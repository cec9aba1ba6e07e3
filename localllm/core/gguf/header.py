"""A whole header: start, keys, tensors, and where the data lies.

The order of the checks is here: each part is checked before the next one is read. The ranges of
values that later arithmetic and native code rely on are below.
"""

import re
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from localllm.core.gguf.byte_reader import DAMAGED, ByteReader
from localllm.core.gguf.format import MAGIC, VERSIONS
from localllm.core.gguf.metadata import Numbers, Strings, read_pairs
from localllm.core.gguf.tensors import check_layout, read_tensors
from localllm.core.model.spec import MAX_LAYERS, MetadataValue, ModelSpec, TensorInfo
from localllm.errors import GgufError

_FOREIGN = {
    b"vers": "a Git LFS pointer, not the model itself",
    b"<!do": "a web page",
    b"<!DO": "a web page",
    b"<htm": "a web page",
    b"PK\3\4": "a zip archive or PyTorch checkpoint",
    b"lmgg": "in a format from before GGUF (2023)",
    b"fmgg": "in a format from before GGUF (2023)",
    b"tjgg": "in a format from before GGUF (2023)",
}
"""Files that people take for a GGUF, by their first four bytes."""


def read(stream: BinaryIO, file_bytes: int) -> ModelSpec:
    """Read the header of a GGUF file (version 2 or 3, little-endian) and check all of it.

    `stream` stands at the start of the file and needs only `read`; exactly the header is taken
    from it, no tensor data. `file_bytes` is the real length of the file: the stream may be just
    its beginning. A file without tensors (a vocabulary, the first part of some split models) is a
    valid header. Memory stays under 64 MiB whatever the file says.

    Raises GgufError for everything that is wrong, HeaderIncomplete (a GgufError) when the stream
    ends inside the header of a longer file, and what `stream.read` raises.
    """
    reader = ByteReader(stream, file_bytes)
    version, tensor_count, key_count = _start(reader)
    metadata = read_pairs(reader, key_count)
    architecture = _architecture(metadata)
    alignment = _alignment(metadata)
    _check_values(metadata, architecture)
    tensors = read_tensors(reader, tensor_count)
    data_offset = _data_offset(reader, tensors, alignment)
    return ModelSpec(
        architecture=architecture,
        metadata=metadata,
        tensors=tensors,
        version=version,
        alignment=alignment,
        data_offset=data_offset,
        file_bytes=file_bytes,
    )


def _start(reader: ByteReader) -> tuple[int, int, int]:
    """Return version, number of tensors and number of keys."""
    magic = bytes(reader.take(len(MAGIC), "the start of a GGUF header"))
    if magic != MAGIC:
        what = _FOREIGN.get(magic, "not a GGUF file: it does not begin with the letters GGUF")
        raise GgufError(f"this is {what}. Give a GGUF file, or download it again.")
    version = reader.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise GgufError(
            "this GGUF file is big-endian, made for another kind of processor. Get the"
            " little-endian file of this model."
        )
    if version not in VERSIONS:
        age = "too old" if version < min(VERSIONS) else "newer than what is known, or damaged"
        raise GgufError(
            f"this GGUF file has version {version}, which is {age}; versions 2 and 3 are read."
            " Get another file of this model."
        )
    return version, reader.u64("the number of tensors"), reader.u64("the number of keys")


def _data_offset(reader: ByteReader, tensors: tuple[TensorInfo, ...], alignment: int) -> int:
    """Return where the tensor data starts. Raises GgufError when the file ends before it ends."""
    if not tensors:
        return reader.position
    start = -(-reader.position // alignment) * alignment
    needed = start + check_layout(tensors, alignment)
    if needed > reader.file_bytes:
        raise GgufError(
            f"the file is {reader.file_bytes} bytes, its tensors need {needed}: the download is"
            f" not complete ({needed - reader.file_bytes} bytes are missing). Download it again."
        )
    return start


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


def _architecture(metadata: Mapping[str, MetadataValue]) -> str:
    """Return `general.architecture`. Raises GgufError when it is missing or not a plain name."""
    value = metadata.get("general.architecture")
    if value is None:
        if _is_later_part(metadata):
            return UNKNOWN_ARCHITECTURE
        raise GgufError(
            "the header has no general.architecture, so nobody can tell what model this is."
            " Image models of stable-diffusion.cpp are such files; they are no language models."
            " Is it meant to be one? Then download it again."
        )
    if not isinstance(value, str) or not _ARCHITECTURE.fullmatch(value):
        raise GgufError(f"general.architecture is {value!a:.60}, not a plain name. {DAMAGED}")
    return value


def _alignment(metadata: Mapping[str, MetadataValue]) -> int:
    """Return `general.alignment` or its default. Raises GgufError for an impossible one."""
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not _MIN_ALIGNMENT <= value <= _MAX_ALIGNMENT:
        allowed = f"{_MIN_ALIGNMENT} to {_MAX_ALIGNMENT}"
        raise GgufError(f"general.alignment is {value!a:.40}; {allowed} is possible. {DAMAGED}")
    if value & (value - 1):
        raise GgufError(f"general.alignment is {value}, not a power of two. {DAMAGED}")
    return value


def _check_values(metadata: Mapping[str, MetadataValue], prefix: str) -> None:
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
