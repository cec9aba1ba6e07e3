"""The constants of the GGUF format and the encoding of its values, for the reader and the writer.

After `gguf.h` of ggml (llama.cpp b11434): everything is little-endian; a text is its length in 8
bytes and its UTF-8; an array is the type of its elements, their count, and the elements.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

MAGIC = b"GGUF"
VERSIONS = (2, 3)

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class ValueType(IntEnum):
    """The type of a header's value (`enum gguf_type`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12

    @property
    def label(self) -> str:
        """The name of the type in messages."""
        return _LABELS[self]


_LABELS: Mapping[ValueType, str] = MappingProxyType(
    {
        ValueType.UINT8: "u8",
        ValueType.INT8: "i8",
        ValueType.UINT16: "u16",
        ValueType.INT16: "i16",
        ValueType.UINT32: "u32",
        ValueType.INT32: "i32",
        ValueType.FLOAT32: "f32",
        ValueType.BOOL: "bool",
        ValueType.STRING: "text",
        ValueType.ARRAY: "array",
        ValueType.UINT64: "u64",
        ValueType.INT64: "i64",
        ValueType.FLOAT64: "f64",
    }
)

SCALARS: Mapping[ValueType, struct.Struct] = MappingProxyType(
    {
        ValueType.UINT8: struct.Struct("<B"),
        ValueType.INT8: struct.Struct("<b"),
        ValueType.UINT16: struct.Struct("<H"),
        ValueType.INT16: struct.Struct("<h"),
        ValueType.UINT32: U32,
        ValueType.INT32: struct.Struct("<i"),
        ValueType.FLOAT32: struct.Struct("<f"),
        ValueType.BOOL: struct.Struct("<?"),
        ValueType.UINT64: U64,
        ValueType.INT64: struct.Struct("<q"),
        ValueType.FLOAT64: struct.Struct("<d"),
    }
)
"""The encoding of every type of a fixed length."""
