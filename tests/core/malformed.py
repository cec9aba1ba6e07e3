"""GGUF files byte by byte: a writer that can lie about anything it writes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

from localllm.core.model.quants import GgmlType, row_bytes

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
CODES = {
    U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?",
    U64: "Q", I64: "q", F64: "d",
}  # fmt: skip

Scalar = str | bytes | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One key. `raw` is its type and value as the file has them."""

    key: bytes
    raw: bytes
    key_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor; `offset` None is where it belongs."""

    name: bytes
    shape: tuple[int, ...] = (32,)
    type: int = GgmlType.F32
    offset: int | None = None
    name_length: int | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A whole file; what is None is written as it is true."""

    pairs: tuple[Pair, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def header(self) -> bytes:
        """Everything before the padding."""
        counts = (
            _or(self.tensor_count, len(self.tensors)),
            _or(self.key_count, len(self.pairs)),
        )
        parts = [self.magic, self.version, struct.pack("<QQ", *counts)]
        parts += [counted(pair.key, pair.key_length) + pair.raw for pair in self.pairs]
        parts += [
            _info(tensor, _or(tensor.offset, offset))
            for tensor, offset in zip(self.tensors, self.true_offsets(), strict=False)
        ]
        return b"".join(parts)

    def build(self) -> bytes:
        """The header and as much data as it truly needs, all zero."""
        header = self.header()
        if not self.tensors:
            return header
        data = self.true_offsets()[-1] + _size(self.tensors[-1])
        return header + bytes(self._padded(len(header)) - len(header) + data)

    def true_offsets(self) -> list[int]:
        """Where each tensor belongs, whatever it says."""
        sizes = [self._padded(_size(tensor)) for tensor in self.tensors[:-1]]
        return list(accumulate(sizes, initial=0))

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


def counted(raw: bytes, length: int | None = None) -> bytes:
    """A text as the format has it, its length before it."""
    return struct.pack("<Q", _or(length, len(raw))) + raw


def scalar(kind: int, value: Scalar) -> bytes:
    """A value without its type."""
    if isinstance(value, str):
        value = value.encode()
    return counted(value) if isinstance(value, bytes) else struct.pack("<" + CODES[kind], value)


def pair(key: str, kind: int, value: Scalar) -> Pair:
    return Pair(key=key.encode(), raw=struct.pack("<I", kind) + scalar(kind, value))


def array(key: str, kind: int, values: Sequence[Scalar], *, count: int | None = None) -> Pair:
    """An array; `count` is what it claims to have."""
    start = struct.pack("<IIQ", ARRAY, kind, _or(count, len(values)))
    return Pair(key=key.encode(), raw=start + b"".join(scalar(kind, each) for each in values))


def good() -> File:
    """A small model that passes."""
    return File(
        pairs=(
            pair("general.architecture", TEXT, "llama"),
            pair("llama.block_count", U32, 1),
            pair("llama.context_length", U32, 2048),
            pair("llama.embedding_length", U32, 32),
            pair("llama.attention.head_count", U32, 4),
            array("tokenizer.ggml.tokens", TEXT, ["<s>", "a", "b"]),
            array("tokenizer.ggml.scores", F32, [0.0, -1.0, -2.0]),
            array("tokenizer.ggml.token_type", I32, [3, 1, 1]),
        ),
        tensors=(
            Tensor(name=b"token_embd.weight", shape=(32, 3), type=GgmlType.Q8_0),
            Tensor(name=b"output_norm.weight"),
        ),
    )


def with_pair(*added: Pair) -> File:
    """The good file with more keys, or with others in the place of its own."""
    file = good()
    keys = {each.key for each in added}
    return replace(file, pairs=(*(p for p in file.pairs if p.key not in keys), *added))


def with_tensor(*added: Tensor) -> File:
    """The good file with more tensors at the end of its list."""
    file = good()
    return replace(file, tensors=(*file.tensors, *added))


def _info(tensor: Tensor, offset: int) -> bytes:
    dimensions = struct.pack("<I", _or(tensor.dimensions, len(tensor.shape)))
    shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
    place = struct.pack("<IQ", tensor.type, offset)
    return counted(tensor.name, tensor.name_length) + dimensions + shape + place


def _size(tensor: Tensor) -> int:
    """Bytes of data; 0 where a lie makes them unknown or too many to write."""
    try:
        size = row_bytes(GgmlType(tensor.type), tensor.shape[0]) * prod(tensor.shape[1:])
    except (ValueError, IndexError):
        return 0
    return size if size < 1 << 20 else 0


def _or(stated: int | None, true: int) -> int:
    return true if stated is None else stated
