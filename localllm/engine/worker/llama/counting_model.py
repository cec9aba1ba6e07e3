"""A model of 300 KB that counts: after token n comes n + 1. It proves that a build computes.

Its weights have the types that models are made of, so that the kernels of each are run, and its
answer is known beforehand: the output's row of n + 1 is the embedding of n, which the layer between
them blurs and must not hide.
"""

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from localllm.core.gguf.writer import header_bytes
from localllm.core.model.quants import GgmlType, row_bytes
from localllm.core.model.spec import ModelSpec, TensorInfo
from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.model import BatchToken, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import LoadFailed

VOCABULARY = 32
PROMPT = (3, 4, 5)
EXPECTED = (6, 7, 8)
"""The three tokens that follow."""

EXPECTED_LOGITS = (30.21, 33.31, 30.09)
"""Measured on AVX2 with llama.cpp 0c1e570 and 86a2835, which agree in all digits (2026-11-30);
without the layer between embedding and output it is 45."""

TOLERANCE = 0.05
"""Of a logit: other instruction sets round and quantize activations in another order."""

_WIDTH, _HEADS = 256, 4
_PATTERN = _WIDTH // VOCABULARY  # numbers of the embedding that are not 0
_ALIGNMENT = 32
_SCALE = 0.06
"""The largest weights of the layer, about: large enough to matter, too small to hide the answer."""

_LAYER = {
    "attn_norm": None,
    "attn_q": GgmlType.Q4_0,
    "attn_k": GgmlType.Q8_0,
    "attn_v": GgmlType.Q4_K,
    "attn_output": GgmlType.Q6_K,
    "ffn_norm": None,
    "ffn_gate": GgmlType.Q5_0,
    "ffn_up": GgmlType.Q4_K,
    "ffn_down": GgmlType.F16,
}


def write_counting_model(path: Path) -> None:
    """Write the model as a GGUF file. Raises OSError."""
    draw = random.Random(1)
    tensors = {
        "token_embd.weight": (GgmlType.F32, _rows(GgmlType.F32, range(VOCABULARY))),
        "output_norm.weight": (GgmlType.F32, _ones()),
        "output.weight": (
            GgmlType.F16,
            _rows(GgmlType.F16, [(n - 1) % VOCABULARY for n in range(VOCABULARY)]),
        ),
    }
    for name, kind in _LAYER.items():
        tensors[f"blk.0.{name}.weight"] = (
            (GgmlType.F32, _ones()) if kind is None else (kind, _weights(kind, draw))
        )
    spec = _spec({name: (kind, len(data)) for name, (kind, data) in tensors.items()})
    with path.open("wb") as out:
        out.write(header_bytes(spec))
        for _, data in tensors.values():
            out.write(data + bytes(-len(data) % _ALIGNMENT))


def count(path: Path, log: NativeLog) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Decode on the processor: the three tokens after PROMPT, each with its logit.

    Raises LoadFailed when llama.cpp does not take the model, RuntimeError when it cannot compute.
    """
    settings = LoadSettings(context=64, batch=32, ubatch=32, threads=1, gpu_layers=0, devices=())
    model = Model(str(path), settings, log=log, on_progress=lambda _: None)
    try:
        if model.vocab.size != VOCABULARY:
            raise LoadFailed(f"the test model has {VOCABULARY} tokens, not {model.vocab.size}")
        tokens, logits, position = list[int](), list[float](), 0
        batch: Sequence[int] = PROMPT
        while len(tokens) < len(EXPECTED):
            last = len(batch) - 1
            model.decode([BatchToken(t, position + i, 0, i == last) for i, t in enumerate(batch)])
            row = llama.llama_get_logits_ith(model.handle, last)[:VOCABULARY]
            position += len(batch)
            tokens.append(max(range(VOCABULARY), key=row.__getitem__))
            logits.append(row[tokens[-1]])
            batch = tokens[-1:]
    finally:
        model.close()
    return tuple(tokens), tuple(logits)


def is_expected(tokens: Sequence[int], logits: Sequence[float]) -> bool:
    """Return True for the right answer, with about the right logits."""
    return tuple(tokens) == EXPECTED and all(
        abs(found - right) <= TOLERANCE * right  # also False for what is no number
        for found, right in zip(logits, EXPECTED_LOGITS, strict=True)
    )


def _spec(sizes: dict[str, tuple[GgmlType, int]]) -> ModelSpec:
    tensors, offset = [], 0
    for name, (kind, size) in sizes.items():
        rows = size // row_bytes(kind, _WIDTH)
        tensors.append(
            TensorInfo(
                name=name,
                shape=(_WIDTH,) if rows == 1 else (_WIDTH, rows),
                type=kind,
                offset=offset,
                size_bytes=size,
            )
        )
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return ModelSpec(
        architecture="llama",
        metadata={
            "general.architecture": "llama",
            "general.name": "localllm's test of an engine",
            "llama.vocab_size": VOCABULARY,
            "llama.context_length": 64,
            "llama.embedding_length": _WIDTH,
            "llama.block_count": 1,
            "llama.feed_forward_length": _WIDTH,
            "llama.attention.head_count": _HEADS,
            "llama.attention.head_count_kv": _HEADS,
            "llama.rope.dimension_count": _WIDTH // _HEADS,
        },
        tensors=tuple(tensors),
        version=3,
        alignment=_ALIGNMENT,
        data_offset=0,
        file_bytes=offset,
    )


def _ones() -> bytes:
    return struct.pack(f"<{_WIDTH}f", *[1.0] * _WIDTH)


def _rows(kind: GgmlType, tokens: Sequence[int]) -> bytes:
    """Write the embedding of each token: ones at places that no other token has."""
    code = "f" if kind is GgmlType.F32 else "e"
    return b"".join(
        struct.pack(f"<{_WIDTH}{code}", *(float(i // _PATTERN == token) for i in range(_WIDTH)))
        for token in tokens
    )


def _weights(kind: GgmlType, draw: random.Random) -> bytes:
    """Write a square of random weights of about _SCALE, without a bias (ggml-common.h: the blocks
    of each type)."""
    values = _WIDTH * _WIDTH
    if kind is GgmlType.F16:
        return struct.pack(f"<{values}e", *(draw.uniform(-_SCALE, _SCALE) for _ in range(values)))
    return b"".join(_block(kind, draw) for _ in range(values // _BLOCK_VALUES[kind]))


_BLOCK_VALUES = {
    GgmlType.Q4_0: 32,
    GgmlType.Q5_0: 32,
    GgmlType.Q8_0: 32,
    GgmlType.Q4_K: 256,
    GgmlType.Q6_K: 256,
}


def _block(kind: GgmlType, draw: random.Random) -> bytes:
    match kind:
        case GgmlType.Q4_0:  # scale * (q - 8)
            return struct.pack("<e", _SCALE / 8) + draw.randbytes(16)
        case GgmlType.Q5_0:  # scale * (q - 16)
            return struct.pack("<e", _SCALE / 16) + draw.randbytes(4 + 16)
        case GgmlType.Q8_0:  # scale * q
            return struct.pack("<e", _SCALE / 128) + draw.randbytes(32)
        case GgmlType.Q4_K:  # scale * 8 * q - minimum * 8, eight times
            scale = _SCALE / 8 / 7.5
            return (
                struct.pack("<ee", scale, scale * 7.5)
                + bytes([8] * 8 + [0x88] * 4)
                + draw.randbytes(128)
            )
        case _:  # Q6_K: scale * 8 * (q - 32), sixteen times
            return draw.randbytes(128 + 64) + bytes([8] * 16) + struct.pack("<e", _SCALE / 8 / 32)
