"""A model of 2 to 5 MB whose feed-forward has one element type: it times that type's kernels.

Small enough for the caches of most processors, so that multiplying is timed and not the memory. The
rest of it is F32, which no build rearranges, and the same for every type.
"""

import random
import struct
from pathlib import Path

from localllm.core.gguf.writer import header_bytes
from localllm.core.model.quants import BLOCKS, GgmlType, row_bytes
from localllm.core.model.spec import ModelSpec, TensorInfo

VOCABULARY = 32
CONTEXT = 64
_WIDTH, _HEADS, _LAYERS = 256, 4, 2
_ALIGNMENT = 32
_BLOCKS = 64  # random blocks that are repeated: drawing all of them would take most of the time


def feed_forward_weights(width: int) -> int:
    """Count the weights of one layer's feed-forward."""
    return 3 * _WIDTH * width


def write_kernel_model(path: Path, kind: GgmlType, width: int) -> None:
    """Write the model with a feed-forward of this type and width. Raises OSError."""
    shapes: dict[str, tuple[GgmlType, tuple[int, ...]]] = {
        "token_embd.weight": (GgmlType.F32, (_WIDTH, VOCABULARY)),
        "output_norm.weight": (GgmlType.F32, (_WIDTH,)),
        "output.weight": (GgmlType.F32, (_WIDTH, VOCABULARY)),
    }
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}_norm.weight": (GgmlType.F32, (_WIDTH,)) for name in _NORMS}
        shapes |= {
            f"{block}.attn_{name}.weight": (GgmlType.F32, (_WIDTH, _WIDTH)) for name in _ATTENTION
        }
        shapes |= {
            f"{block}.ffn_gate.weight": (kind, (_WIDTH, width)),
            f"{block}.ffn_up.weight": (kind, (_WIDTH, width)),
            f"{block}.ffn_down.weight": (kind, (width, _WIDTH)),
        }
    tensors, offset = [], 0
    for name, (of, shape) in shapes.items():
        size = row_bytes(of, shape[0]) * (shape[1] if len(shape) > 1 else 1)
        tensors.append(TensorInfo(name=name, shape=shape, type=of, offset=offset, size_bytes=size))
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    patterns = {of: _pattern(of) for of in (GgmlType.F32, kind)}
    with path.open("wb") as out:
        out.write(header_bytes(_spec(tensors, width, offset)))
        for tensor in tensors:
            pattern, size = patterns[tensor.type], tensor.size_bytes
            out.write((pattern * (size // len(pattern) + 1))[:size] + bytes(-size % _ALIGNMENT))


_NORMS = ("attn", "ffn")
_ATTENTION = ("q", "k", "v", "output")


def _spec(tensors: list[TensorInfo], width: int, size: int) -> ModelSpec:
    return ModelSpec(
        architecture="llama",
        metadata={
            "general.architecture": "llama",
            "general.name": "localllm's test of kernels",
            "llama.vocab_size": VOCABULARY,
            "llama.context_length": CONTEXT,
            "llama.embedding_length": _WIDTH,
            "llama.block_count": _LAYERS,
            "llama.feed_forward_length": width,
            "llama.attention.head_count": _HEADS,
            "llama.attention.head_count_kv": _HEADS,
            "llama.rope.dimension_count": _WIDTH // _HEADS,
        },
        tensors=tuple(tensors),
        version=3,
        alignment=_ALIGNMENT,
        data_offset=0,
        file_bytes=size,
    )


def _pattern(kind: GgmlType) -> bytes:
    """Draw blocks of a type. Their scales are halves of floats at even places (ggml-common.h): with
    the upper bits of every second byte cleared none is infinite, no number or larger than 0.008."""
    draw = random.Random(kind)
    if kind is GgmlType.F32:
        return struct.pack("<1024f", *(draw.uniform(-0.05, 0.05) for _ in range(1024)))
    raw = bytearray(draw.randbytes(BLOCKS[kind].size_bytes * 2 * _BLOCKS))
    raw[1::2] = bytes(byte & 0x1F for byte in raw[1::2])
    return bytes(raw)
