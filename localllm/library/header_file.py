"""A GGUF file that is only a header: enough for llama.cpp's dry run to size a model that is not
on this disk."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from localllm.core.model import MetadataValue, ModelSpec

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9  # `enum gguf_type` in ggml's gguf.h
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

_SECTIONS = (16, 24, 24, 0)  # rope.dimension_sections of the vision models, likewise


def write_header(spec: ModelSpec, path: Path) -> None:
    """Write the header of `spec` without any tensor data. Raises OSError."""
    path.write_bytes(header_bytes(spec))


def header_bytes(spec: ModelSpec) -> bytes:
    """The header as a GGUF file of version 3 begins, padded to where its data would start."""
    metadata = {**dict(_wanted(spec)), **spec.metadata}
    pairs = b"".join(_string(key) + _value(key, value) for key, value in metadata.items())
    infos = b"".join(
        _string(tensor.name)
        + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        + struct.pack("<IQ", tensor.type, tensor.offset)
        for tensor in spec.tensors
    )
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(spec.tensors), len(metadata)) + pairs + infos
    return head + bytes(-len(head) % spec.alignment)


def _wanted(spec: ModelSpec) -> Iterator[tuple[str, MetadataValue]]:
    for key, value in _ANY_VALUE.items():
        yield f"{spec.architecture}.{key}", value
    if "vl" in spec.architecture or spec.architecture.startswith("qwen35"):
        yield f"{spec.architecture}.rope.dimension_sections", _SECTIONS


def _value(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        # A pattern of layers is a list of flags, also where it was written as 0 and 1.
        items = [bool(item) for item in value] if key.endswith(_PATTERN) else list(value)
        kind = _kind(items[0]) if items else _UINT32
        body = b"".join(_scalar(kind, item) for item in items)
        return struct.pack("<IIQ", _ARRAY, kind, len(items)) + body
    kind = _kind(value)
    return struct.pack("<I", kind) + _scalar(kind, value)


def _kind(value: object) -> int:
    match value:
        case bool():
            return _BOOL
        case int():
            return _UINT32
        case float():
            return _FLOAT32
        case _:
            return _STRING


def _scalar(kind: int, value: object) -> bytes:
    if kind == _STRING:
        return _string(str(value))
    return struct.pack({_BOOL: "<?", _UINT32: "<I", _FLOAT32: "<f"}[kind], value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
