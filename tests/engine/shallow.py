"""A real model with only its first layers: the same vocabulary, template and keys, a fraction of
the time. What it says is nonsense; what becomes of it is the same."""

import struct
from pathlib import Path

from localllm.core import gguf
from tests.core.malformed import counted


def shallow(source: Path, target: Path, *, layers: int = 2) -> Path:
    """Write the first `layers` layers of the model in `source` to `target`."""
    with source.open("rb") as stream:
        spec = gguf.read(stream, source.stat().st_size)
        stream.seek(0)
        header = stream.read(spec.data_offset)
        kept = [t for t in spec.tensors if _layer(t.name) < layers]
        key = counted(f"{spec.architecture}.block_count".encode()) + struct.pack("<I", 4)
        place = header.index(key) + len(key)  # of an unsigned number of 32 bits
        pairs = header[24 : header.index(counted(spec.tensors[0].name.encode()), place)]
        pairs = pairs[: place - 24] + struct.pack("<I", layers) + pairs[place - 20 :]
        infos, data = b"", bytearray()
        for tensor in kept:
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            infos += counted(tensor.name.encode()) + shape
            infos += struct.pack("<IQ", tensor.type, len(data))
            stream.seek(spec.data_offset + tensor.offset)
            data += stream.read(tensor.size_bytes)
            data += bytes(-len(data) % spec.alignment)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(kept), len(spec.metadata)) + pairs + infos
    target.write_bytes(start + bytes(-len(start) % spec.alignment) + data)
    return target


def _layer(tensor: str) -> int:
    """The layer of a tensor, or -1 for one of the whole model."""
    prefix, number, *_ = tensor.split(".")
    return int(number) if prefix == "blk" else -1
