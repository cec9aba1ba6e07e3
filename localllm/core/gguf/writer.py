"""A GGUF file that is only a header: enough for llama.cpp's dry run to size a model that is not
on this disk."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from localllm.core.model.spec import MetadataValue, ModelSpec

# `enum gguf_type` in ggml's gguf.h
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64, _FLOAT64 = range(4, 13)
_CODES = {
    _UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?", _UINT64: "<Q", _INT64: "<q",
    _FLOAT64: "<d",
}  # fmt: skip
_MAX_FLOAT32 = 3.4028234663852886e38
_PATTERN = "attention.sliding_window_pattern"

_ANY_VALUE: Mapping[str, MetadataValue] = MappingProxyType(
    {
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-6,
        "attention.group_norm_epsilon": 1e-6,
        "attention.group_norm_groups": 1,
        "attention.causal": True,
        "logit_scale": 1.0,
        "expert_weights_scale": 1.0,
    }
)
"""Keys that llama.cpp wants and that change no size, for specs that hold only what sizing reads."""

_LEFT_OUT = ("tokenizer.", "split.")
_TOKEN_TYPES = "tokenizer.ggml.token_type_count"
"""Read before the tokenizer's kind is looked at (`llama_vocab::impl::load`)."""

_SECTIONS = (16, 24, 24, 0)  # rope.dimension_sections of the vision models, likewise


def header_bytes(spec: ModelSpec) -> bytes:
    """The header as a GGUF file of version 3 begins, padded to where its data would start.

    One file holds all tensors, also of a split model, and of the tokenizer only the length is
    kept: a dry run asks for no more.
    """
    metadata = {**dict(_wanted(spec)), **dict(_kept(spec))}
    pairs = b"".join(_string(key) + _value(key, value) for key, value in metadata.items())
    infos, offset = [], 0
    for tensor in spec.tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos.append(_string(tensor.name) + shape + struct.pack("<IQ", tensor.type, offset))
        offset += -(-tensor.size_bytes // spec.alignment) * spec.alignment
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(spec.tensors), len(metadata)) + pairs
    head += b"".join(infos)
    return head + bytes(-len(head) % spec.alignment)


def _kept(spec: ModelSpec) -> Iterator[tuple[str, MetadataValue]]:
    """The keys that change a size, or that llama.cpp must have."""
    for key, value in spec.metadata.items():
        if not key.startswith(_LEFT_OUT) or key == _TOKEN_TYPES:
            yield key, value
    yield "tokenizer.ggml.model", "no_vocab"
    tokens = spec.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence):
        yield f"{spec.architecture}.vocab_size", len(tokens)


def _wanted(spec: ModelSpec) -> Iterator[tuple[str, MetadataValue]]:
    for key, value in _ANY_VALUE.items():
        yield f"{spec.architecture}.{key}", value
    if spec.arch.mrope:
        yield f"{spec.architecture}.rope.dimension_sections", _SECTIONS


def _value(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        # A pattern of layers is a list of flags, also where it was written as 0 and 1.
        items = [bool(item) for item in value] if key.endswith(_PATTERN) else list(value)
        kind = _kind(items)
        body = b"".join(_scalar(kind, item) for item in items)
        return struct.pack("<IIQ", _ARRAY, kind, len(items)) + body
    kind = _kind([value])
    return struct.pack("<I", kind) + _scalar(kind, value)


def _kind(values: Sequence[object]) -> int:
    """The type that holds all of these; the one llama.cpp expects wherever they fit in it."""
    match values[0] if values else 0:
        case bool():
            return _BOOL
        case int():
            numbers = [value for value in values if isinstance(value, int)] or [0]
            low, high = min(numbers), max(numbers)
            if low >= 0:
                return _UINT32 if high < 2**32 else _UINT64
            return _INT32 if low >= -(2**31) and high < 2**31 else _INT64
        case float():
            return _FLOAT32 if all(_is_short(value) for value in values) else _FLOAT64
    return _STRING


def _is_short(value: object) -> bool:
    """Whether a number can be written in 32 bits, infinity and NaN included."""
    return isinstance(value, float) and not _MAX_FLOAT32 < abs(value) < float("inf")


def _scalar(kind: int, value: object) -> bytes:
    if kind == _STRING:
        return _string(str(value))
    return struct.pack(_CODES[kind], value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
