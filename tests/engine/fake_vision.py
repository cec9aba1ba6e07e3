"""Image encoders of a few kilobytes with random weights, one for each way in which images take
positions, and image files for them.

Their embeddings mean nothing, but differ for different images, and come through the same code as
those of real encoders.
"""

import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

SIDE, PATCH = 32, 8
WIDTH, HEADS, FEED_FORWARD, LAYERS = 32, 2, 64, 2
PATCHES = (SIDE // PATCH) ** 2

Shapes = dict[str, tuple[int, ...]]
Sizes = Mapping[str, int]
SMALL: Sizes = {
    "image_size": SIDE, "patch_size": PATCH, "embedding_length": WIDTH,
    "feed_forward_length": FEED_FORWARD, "block_count": LAYERS, "attention.head_count": HEADS,
}  # fmt: skip


def llava(path: Path, *, embedding: int, sizes: Sizes = SMALL, seed: int = 0) -> Path:
    """One token a patch, each at the next position; every image is scaled to SIDE."""
    width, patches = sizes["embedding_length"], _patches(sizes)
    shapes = _vision(sizes) | {
        "v.position_embd.weight": (patches, width),
        "v.pre_ln.weight": (width,),
        "v.pre_ln.bias": (width,),
        "mm.0.weight": (embedding, width),
        "mm.0.bias": (embedding,),
        "mm.2.weight": (embedding, embedding),
        "mm.2.bias": (embedding,),
    }
    return _write(path, "mlp", sizes, embedding, shapes, seed)


def qwen(path: Path, *, embedding: int, sizes: Sizes = SMALL) -> Path:
    """Positions in two dimensions: an image of 4 x 2 tokens takes 4 positions."""
    width = sizes["embedding_length"]
    patch = (width, 3, sizes["patch_size"], sizes["patch_size"])
    shapes = _vision(sizes) | {
        "v.patch_embd.weight.1": patch,
        "v.post_ln.weight": (width,),
        "v.post_ln.bias": (width,),
        "mm.0.weight": (4 * width, 4 * width),
        "mm.0.bias": (4 * width,),
        "mm.2.weight": (embedding, 4 * width),
        "mm.2.bias": (embedding,),
    }
    return _write(path, "qwen2vl_merger", sizes, embedding, shapes)


def gemma(path: Path, *, embedding: int, sizes: Sizes = SMALL) -> Path:
    """Non-causal attention within an image, which stands between two texts of its own."""
    width, patches = sizes["embedding_length"], _patches(sizes)
    shapes = _vision(sizes) | {
        "v.position_embd.weight": (patches, width),
        "v.post_ln.weight": (width,),
        "v.post_ln.bias": (width,),
        "mm.input_projection.weight": (width, embedding),
        "mm.soft_emb_norm.weight": (width,),
    }
    return _write(path, "gemma3", sizes, embedding, shapes)


def _patches(sizes: Sizes) -> int:
    return (sizes["image_size"] // sizes["patch_size"]) ** 2


def _vision(sizes: Sizes) -> Shapes:
    width, forward, patch = (
        sizes[name] for name in ("embedding_length", "feed_forward_length", "patch_size")
    )
    shapes: Shapes = {"v.patch_embd.weight": (width, 3, patch, patch)}
    for i in range(sizes["block_count"]):
        for part in ("q", "k", "v", "out"):
            shapes[f"v.blk.{i}.attn_{part}.weight"] = (width, width)
            shapes[f"v.blk.{i}.attn_{part}.bias"] = (width,)
        for part in ("ln1", "ln2"):
            shapes[f"v.blk.{i}.{part}.weight"] = shapes[f"v.blk.{i}.{part}.bias"] = (width,)
        shapes[f"v.blk.{i}.ffn_up.weight"] = (forward, width)
        shapes[f"v.blk.{i}.ffn_up.bias"] = (forward,)
        shapes[f"v.blk.{i}.ffn_down.weight"] = (width, forward)
        shapes[f"v.blk.{i}.ffn_down.bias"] = (width,)
    return shapes


def _write(
    path: Path, projector: str, sizes: Sizes, embedding: int, shapes: Shapes, seed: int = 0
) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", projector)
    for name, value in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_uint32("clip.vision.projection_dim", embedding)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    numbers = np.random.default_rng(seed)
    for name, shape in shapes.items():
        scale = 1.0 if len(shape) == 1 else 1.0 / np.sqrt(np.prod(shape[1:]))
        writer.add_tensor(name, numbers.normal(0, scale, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def png(seed: int, *, width: int = 24, height: int = 16) -> bytes:
    """Colours by lot."""
    lot = random.Random(seed)
    rows = b"".join(b"\0" + lot.randbytes(3 * width) for _ in range(height))
    return packed_png(width, height, rows)


def packed_png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG that says it is of that size, whatever `rows` are."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int, *, marker: int = 0xC0, before: bytes = b"") -> bytes:
    """The beginning of a JPEG, as far as its frame header."""
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0\x00\x04ab" + before + frame


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
