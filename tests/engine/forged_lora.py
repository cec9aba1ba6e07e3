"""LoRA adapters with random weights, for any GGUF model, and the same merged into it by hand."""

from pathlib import Path

import gguf
import numpy as np

RANK, ALPHA = 4, 8.0


def forge(
    path: Path, model: Path, *names: str, seed: int = 5, size: float = 0.1, rank: int = RANK
) -> Path:
    """An adapter for these weights of `model` (default: queries, values and the feed-forward)."""
    random = np.random.default_rng(seed)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    chosen = names or tuple(n for n in tensors if n.split(".")[-2] in _USUAL)
    writer = gguf.GGUFWriter(path, architecture(model))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name in chosen:
        inner, outer, *experts = (int(n) for n in tensors[name].shape)
        a = random.normal(0, size, (*experts, rank, inner))
        b = random.normal(0, size, (*experts, outer, rank))
        if name == "token_embd.weight":  # its rows are looked up, not multiplied
            a, b = random.normal(0, size, (outer, rank)), random.normal(0, size, (inner, rank))
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float32))
    write(writer)
    return path


def weights_of(model: Path) -> list[str]:
    return [tensor.name for tensor in gguf.GGUFReader(model).tensors]


_USUAL = ("attn_q", "attn_v", "ffn_up", "ffn_down")


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture(model: Path) -> str:
    field = gguf.GGUFReader(model).fields["general.architecture"]
    return bytes(field.parts[field.data[0]]).decode()


def merge(model: Path, adapter: Path, scale: float) -> None:
    """Add scale x alpha / rank x B A to the weights of an F32 model, in its file."""
    reader = gguf.GGUFReader(model, "r+")
    weights = {tensor.name: tensor for tensor in reader.tensors}
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(adapter).tensors}
    for name in {name.removesuffix(".lora_a") for name in found if name.endswith(".lora_a")}:
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        added = a @ b.T if name == "token_embd.weight" else b @ a
        weights[name].data[:] += scale * ALPHA / b.shape[-1] * added
    reader.data.flush()
