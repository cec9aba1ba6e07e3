"""The architecture of a GGUF file from its first bytes, without the rest of the header.

A header of a large vocabulary takes a second to check; a list of a hundred models has no time for
it, and asks for one word only. What is read here is shown and compared, never given to native code.
"""

from typing import BinaryIO

from localllm.core.gguf.byte_reader import ByteReader
from localllm.core.gguf.format import MAGIC, SCALARS, VERSIONS, ValueType
from localllm.errors import GgufError

_KEY = b"general.architecture"
_MOST_KEYS = 64
_MAX_TEXT_BYTES = 1 << 16


def read_architecture(stream: BinaryIO, file_bytes: int) -> str | None:
    """Return the value of general.architecture; None where the first keys do not have it.

    `stream` stands at the start of the file. Raises what `stream.read` raises.
    """
    reader = ByteReader(stream, file_bytes)
    try:
        if bytes(reader.take(len(MAGIC), "the magic")) != MAGIC:
            return None
        if reader.u32("the version") not in VERSIONS:
            return None
        reader.u64("the number of tensors")
        for _ in range(min(reader.u64("the number of keys"), _MOST_KEYS)):
            key = _text(reader)
            kind = ValueType(reader.u32("a type"))
            if key == _KEY:
                return _text(reader).decode("utf-8") if kind is ValueType.STRING else None
            _skip(reader, kind)
    except (GgufError, ValueError):  # ValueError: no such type, no UTF-8
        return None
    return None


def _text(reader: ByteReader) -> bytes:
    length = reader.u64("a length")
    if length > _MAX_TEXT_BYTES:
        raise GgufError("a text before the architecture is too long")
    return reader.text(length, "a text")


def _skip(reader: ByteReader, kind: ValueType) -> None:
    if kind is ValueType.STRING:
        _text(reader)
    elif kind is ValueType.ARRAY:
        raise GgufError("a list stands before the architecture")
    else:
        reader.take(SCALARS[kind].size, "a value")
