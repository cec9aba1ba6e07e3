"""The list of tensors of a header: names, shapes, types, and where each lies in the file."""

import struct
from math import prod

from localllm.core.gguf.byte_reader import DAMAGED, ByteReader
from localllm.core.gguf.metadata import name
from localllm.core.model.quants import BLOCKS, RETIRED, GgmlType, fork_type, row_bytes
from localllm.core.model.spec import TensorInfo
from localllm.errors import GgufError

MAX_TENSORS = 16384
"""32 for each of the 512 layers that llama.cpp reads at most (LLAMA_MAX_LAYERS)."""

_MAX_NAME = 64
"""GGML_MAX_NAME, the closing NUL counted (ggml.h)."""
_MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS (ggml.h)."""
_INT64_MAX = 2**63 - 1
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8


def read_tensors(reader: ByteReader, count: int) -> tuple[TensorInfo, ...]:
    """Read the list. Raises GgufError at the first tensor that cannot be right."""
    if count > MAX_TENSORS:
        raise GgufError(
            f"the header claims {count} tensors; at most {MAX_TENSORS} are read. {DAMAGED}"
        )
    reader.require(count * _SMALLEST_TENSOR, f"the list of {count} tensors")
    tensors: dict[str, TensorInfo] = {}
    for number in range(1, count + 1):
        tensor = _tensor(reader, f"tensor {number} of {count}")
        if tensor.name in tensors:
            raise GgufError(f"two tensors are named {tensor.name!r} (duplicate). {DAMAGED}")
        tensors[tensor.name] = tensor
    return tuple(tensors.values())


def check_layout(tensors: tuple[TensorInfo, ...], alignment: int) -> int:
    """Return the bytes of data that the tensors need.

    llama.cpp takes only one layout (`gguf_init_from_reader`): each tensor starts where the one
    before it ends, rounded up to the alignment. Raises GgufError for any other.
    """
    expected = needed = 0
    for tensor in tensors:
        _check_offset(tensor, expected, alignment)
        needed = tensor.offset + tensor.size_bytes
        expected = -(-needed // alignment) * alignment
    return needed


def _check_offset(tensor: TensorInfo, expected: int, alignment: int) -> None:
    if tensor.offset == expected:
        return
    if tensor.offset % alignment:
        why = f"is not aligned to {alignment} bytes"
    elif tensor.offset < expected:
        why = f"overlaps the tensor before it, which ends at {expected}"
    else:
        why = f"leaves a gap after the tensor before it, which ends at {expected}"
    raise GgufError(f"the tensor {tensor.name!r} at offset {tensor.offset} {why}. {DAMAGED}")


def _tensor(reader: ByteReader, what: str) -> TensorInfo:
    label = _name(reader, what)
    what = f"the tensor {label!r}"
    shape = _shape(reader, what)
    kind = _type(reader.u32(what), what)
    try:
        row = row_bytes(kind, shape[0])
    except ValueError as error:
        block = BLOCKS[kind].elements
        raise GgufError(
            f"{what} has rows of {shape[0]} values, which do not fill blocks of {block}"
            f" ({kind.name}). {DAMAGED}"
        ) from error
    size = row * prod(shape[1:])
    offset = reader.u64(what)
    if offset + size > _INT64_MAX:
        raise GgufError(
            f"{what} ends beyond 2^63 bytes (offset {offset}, size {size}: overflow). {DAMAGED}"
        )
    return TensorInfo(name=label, shape=shape, type=kind, offset=offset, size_bytes=size)


def _name(reader: ByteReader, what: str) -> str:
    what = f"the name of {what}"
    length = reader.u64(what)
    if length >= _MAX_NAME:
        raise GgufError(
            f"{what} claims a length of {length} bytes; at most {_MAX_NAME - 1} are possible."
            f" {DAMAGED}"
        )
    return name(bytes(reader.take(length, what)), what)


def _shape(reader: ByteReader, what: str) -> tuple[int, ...]:
    count = reader.u32(what)
    if not 1 <= count <= _MAX_DIMENSIONS:
        raise GgufError(
            f"{what} has {count} dimensions; 1 to {_MAX_DIMENSIONS} are possible. {DAMAGED}"
        )
    shape: tuple[int, ...] = struct.unpack(f"<{count}Q", reader.take(8 * count, what))
    if 0 in shape:
        raise GgufError(f"{what} has a dimension of 0 (shape {list(shape)}). {DAMAGED}")
    if prod(shape) >= _INT64_MAX:
        raise GgufError(f"{what} has 2^63 elements or more (shape {list(shape)}). {DAMAGED}")
    return shape


def _type(number: int, what: str) -> GgmlType:
    try:
        return GgmlType(number)
    except ValueError:
        pass
    if number in RETIRED:
        raise GgufError(
            f"{what} has the type {number} ({RETIRED[number]}), which llama.cpp no longer reads."
            " Get a newer file of this model."
        )
    if (fork := fork_type(number)) is not None:
        raise GgufError(
            f"{what} has the type {number} ({fork}) of ik_llama.cpp, another program, which"
            " llama.cpp does not read. Get another quant of this model."
        )
    raise GgufError(
        f"{what} has the unknown type {number}. Is the file newer than this version of localllm?"
        " Update it, or download the file again."
    )
