"""A whole header: start, keys, tensors, and where the data lies.

The order of the checks is here: each part is checked before the next one is read.
"""

from typing import BinaryIO

from localllm.core.gguf import checks
from localllm.core.gguf.byte_reader import ByteReader
from localllm.core.gguf.format import MAGIC, VERSIONS
from localllm.core.gguf.metadata import read_pairs
from localllm.core.gguf.tensors import check_layout, read_tensors
from localllm.core.model.spec import ModelSpec, TensorInfo
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
    architecture = checks.architecture(metadata)
    alignment = checks.alignment(metadata)
    checks.check_values(metadata, architecture)
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
        what = _FOREIGN.get(magic, f"not a GGUF file: it starts with {magic!r}, not {MAGIC!r}")
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
