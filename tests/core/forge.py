"""Sparse GGUF files with true headers: published hyperparameters, every tensor, no data.

llama.cpp's dry run opens them as it would the real files, and `spec` is what a parser reads from
them. The models are in `forge_models`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

from localllm.core.model.quants import GgmlType, row_bytes
from localllm.core.model.spec import MetadataValue, ModelSpec, TensorInfo

ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32_ALWAYS = ("ssm_conv1d", "ssm_a", "ssm_d", "shortconv.conv", "time_mix_lerp", "lerp_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forged:
    """One model: `keys` without the architecture's prefix, tensors by name and shape."""

    name: str
    architecture: str
    keys: dict[str, MetadataValue]
    vocabulary: int
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    general: dict[str, MetadataValue]

    @property
    def metadata(self) -> dict[str, MetadataValue]:
        own = {f"{self.architecture}.{key}": value for key, value in self.keys.items()}
        return {
            "general.architecture": self.architecture,
            "general.name": self.name,
            "tokenizer.ggml.model": "no_vocab",
            **self.general,
            **own,
            f"{self.architecture}.vocab_size": self.vocabulary,
        }


def spec(forged: Forged) -> ModelSpec:
    """What a parser reads from the file that `write` writes."""
    tensors = _placed(forged)
    header = _header(forged, tensors)
    return ModelSpec(
        architecture=forged.architecture,
        metadata=forged.metadata,
        tensors=tensors,
        version=3,
        alignment=ALIGNMENT,
        data_offset=len(header),
        file_bytes=len(header) + _data_bytes(tensors),
    )


def write(forged: Forged, path: Path) -> None:
    """Write the header; the data is a hole in the file."""
    tensors = _placed(forged)
    header = _header(forged, tensors)
    with path.open("wb") as out:
        out.write(header)
        out.truncate(len(header) + _data_bytes(tensors))


def _placed(forged: Forged) -> tuple[TensorInfo, ...]:
    kinds = [_kind(name, shape) for name, shape in forged.tensors]
    sizes = [
        row_bytes(kind, shape[0]) * prod(shape[1:])
        for kind, (_, shape) in zip(kinds, forged.tensors, strict=True)
    ]
    offsets = accumulate((_aligned(size) for size in sizes), initial=0)
    return tuple(
        TensorInfo(name=name, shape=shape, type=kind, offset=offset, size_bytes=size)
        for (name, shape), kind, size, offset in zip(
            forged.tensors, kinds, sizes, offsets, strict=False
        )
    )


def _kind(name: str, shape: tuple[int, ...]) -> GgmlType:
    plain = len(shape) == 1 or any(part in name for part in _F32_ALWAYS)
    if plain or "norm" in name or name.endswith(".bias"):
        return GgmlType.F32
    return GgmlType.Q8_0 if shape[0] % 32 == 0 else GgmlType.F16


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _data_bytes(tensors: Sequence[TensorInfo]) -> int:
    return tensors[-1].offset + _aligned(tensors[-1].size_bytes)


def _header(forged: Forged, tensors: Sequence[TensorInfo]) -> bytes:
    pairs = b"".join(_text(key) + _value(value) for key, value in forged.metadata.items())
    infos = b"".join(
        _text(t.name)
        + struct.pack("<I", len(t.shape))
        + struct.pack(f"<{len(t.shape)}Q", *t.shape)
        + struct.pack("<IQ", t.type, t.offset)
        for t in tensors
    )
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(forged.metadata))
    header = start + pairs + infos
    return header + bytes(-len(header) % ALIGNMENT)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: MetadataValue) -> bytes:
    kind = _kind_of(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        element = _kind_of(value[0])
        body = b"".join(_scalar(element, item) for item in value)
        return struct.pack("<IIQ", _ARRAY, element, len(value)) + body
    return struct.pack("<I", kind) + _scalar(kind, value)


def _kind_of(value: MetadataValue) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _UINT32
    if isinstance(value, float):
        return _FLOAT32
    return _STRING if isinstance(value, str) else _ARRAY


def _scalar(kind: int, value: MetadataValue) -> bytes:
    if kind == _STRING:
        return _text(str(value))
    return struct.pack({_BOOL: "<?", _UINT32: "<I", _FLOAT32: "<f"}[kind], value)
