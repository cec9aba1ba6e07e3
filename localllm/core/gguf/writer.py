"""A GGUF file that is only a header without its tokenizer: all that a dry run needs.

A dry run of llama.cpp spends nearly all its time on the vocabulary (0.5 s for 262,144 tokens) and
uses only its length. With a header written from a `ModelSpec` it takes a twentieth, and a model
that is not on this disk can be sized the same way.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from localllm.core.gguf.format import MAGIC, SCALARS, U32, U64, VERSIONS, ValueType
from localllm.core.model.spec import MetadataValue, ModelSpec

_LARGEST_FLOAT32 = 3.4028234663852886e38
_PATTERN = "attention.sliding_window_pattern"

_DEFAULTS: Mapping[str, MetadataValue] = MappingProxyType(
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
"""Keys that llama.cpp requires and that change no size, for specs that hold only what sizing reads
(those of the catalogue)."""

_MROPE_SECTIONS = (16, 24, 24, 0)  # likewise, where rotations have sections

_LEFT_OUT = ("tokenizer.", "split.")
_TOKEN_TYPES = "tokenizer.ggml.token_type_count"
"""Read before the tokenizer's kind is looked at (`llama_vocab::impl::load`)."""


def header_bytes(spec: ModelSpec) -> bytes:
    """Write a header as a GGUF file of version 3 begins, padded to where its data would start.

    One file holds all tensors, also of a split model. Of the tokenizer only the length is written
    ("no_vocab" and `vocab_size`).
    """
    metadata = {**dict(_defaults(spec)), **dict(_sized(spec))}
    pairs = b"".join(_text(key) + _value(key, value) for key, value in metadata.items())
    infos, offset = [], 0
    for tensor in spec.tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos.append(_text(tensor.name) + shape + U32.pack(tensor.type) + U64.pack(offset))
        offset += -(-tensor.size_bytes // spec.alignment) * spec.alignment
    counts = U64.pack(len(spec.tensors)) + U64.pack(len(metadata))
    header = MAGIC + U32.pack(VERSIONS[-1]) + counts + pairs + b"".join(infos)
    return header + bytes(-len(header) % spec.alignment)


def _sized(spec: ModelSpec) -> Iterator[tuple[str, MetadataValue]]:
    """Yield the keys of the spec that can change a size."""
    for key, value in spec.metadata.items():
        if not key.startswith(_LEFT_OUT) or key == _TOKEN_TYPES:
            yield key, value
    yield "tokenizer.ggml.model", "no_vocab"
    tokens = spec.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence):
        yield f"{spec.architecture}.vocab_size", len(tokens)


def _defaults(spec: ModelSpec) -> Iterator[tuple[str, MetadataValue]]:
    for key, value in _DEFAULTS.items():
        yield f"{spec.architecture}.{key}", value
    if spec.arch.mrope:
        yield f"{spec.architecture}.rope.dimension_sections", _MROPE_SECTIONS


def _value(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        # llama.cpp reads a pattern of layers as flags; some files hold 0 and 1
        items = [bool(item) for item in value] if key.endswith(_PATTERN) else list(value)
        kind = _type_of(items)
        body = b"".join(_scalar(kind, item) for item in items)
        return U32.pack(ValueType.ARRAY) + U32.pack(kind) + U64.pack(len(items)) + body
    kind = _type_of([value])
    return U32.pack(kind) + _scalar(kind, value)


def _type_of(values: Sequence[object]) -> ValueType:
    """The type that holds all of these; the one llama.cpp expects wherever they fit in it."""
    match values[0] if values else 0:
        case bool():
            return ValueType.BOOL
        case int():
            numbers = [value for value in values if isinstance(value, int)] or [0]
            low, high = min(numbers), max(numbers)
            if low >= 0:
                return ValueType.UINT32 if high < 2**32 else ValueType.UINT64
            fits = low >= -(2**31) and high < 2**31
            return ValueType.INT32 if fits else ValueType.INT64
        case float():
            fits = all(_fits_float32(value) for value in values)
            return ValueType.FLOAT32 if fits else ValueType.FLOAT64
    return ValueType.STRING


def _fits_float32(value: object) -> bool:
    """True for a number that can be written in 32 bits, infinity and NaN included."""
    return isinstance(value, float) and not _LARGEST_FLOAT32 < abs(value) < float("inf")


def _scalar(kind: ValueType, value: object) -> bytes:
    return _text(str(value)) if kind is ValueType.STRING else SCALARS[kind].pack(value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return U64.pack(len(raw)) + raw
