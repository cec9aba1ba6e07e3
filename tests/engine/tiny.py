"""Models of a few kilobytes with random weights: one of each kind of memory llama.cpp has.

They say nothing sensible, but they say it through the same code as the real ones, at thousands
of tokens a second: what a test needs that asks whether two roads lead to the same answer.
One token is one printable character.
"""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, FEED_FORWARD = 64, 2, 96
WINDOW = 24
CHARACTERS = tuple(chr(code) for code in range(33, 127))
END = len(CHARACTERS)
_RNN_INNER, _RNN_STATE, _RNN_RANK, _RNN_CONV = 2 * WIDTH, 8, 4, 4
_EXPERTS = 4
_FULL_EVERY = 6  # layers: gemma3's pattern, which the architecture fixes

Shapes = dict[str, tuple[int, ...]]


def _attention(i: int) -> Shapes:
    return {f"blk.{i}.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}


def _feed_forward(i: int) -> Shapes:
    return {
        f"blk.{i}.ffn_gate.weight": (FEED_FORWARD, WIDTH),
        f"blk.{i}.ffn_up.weight": (FEED_FORWARD, WIDTH),
        f"blk.{i}.ffn_down.weight": (WIDTH, FEED_FORWARD),
    }


def _norms(i: int, *names: str, width: int = WIDTH) -> Shapes:
    return {f"blk.{i}.{name}_norm.weight": (width,) for name in names}


def _head_norms(i: int) -> Shapes:
    return _norms(i, "attn_q", "attn_k", width=WIDTH // HEADS)


def plain(
    path: Path,
    *,
    edit: Callable[[gguf.GGUFWriter], None] = lambda _: None,
    tensors: Callable[[Shapes], Shapes] = lambda shapes: shapes,
) -> Path:
    """Attention to everything (llama). `edit` changes the keys, `tensors` the shapes by name."""
    writer = _writer(path, "llama", layers=2)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    edit(writer)
    return _write(
        path,
        writer,
        lambda i: _norms(i, "attn", "ffn") | _attention(i) | _feed_forward(i),
        layers=2,
        tensors=tensors,
    )


INFILL = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
"""The control tokens of `infill`, behind END, with the names that llama.cpp knows them by."""


def infill(path: Path, *, edit: Callable[[gguf.GGUFWriter], None] = lambda _: None) -> Path:
    """One with the tokens that fill in the middle (llama)."""

    def with_tokens(writer: gguf.GGUFWriter) -> None:
        edit(writer)
        keys = writer.kv_data[0]
        keys["tokenizer.ggml.tokens"].value.extend(INFILL)
        keys["tokenizer.ggml.token_type"].value.extend([gguf.TokenType.CONTROL] * len(INFILL))

    def with_rows(shapes: Shapes) -> Shapes:
        rows = END + 1 + len(INFILL)
        return {
            name: (rows, WIDTH) if shape == (END + 1, WIDTH) else shape
            for name, shape in shapes.items()
        }

    return plain(path, edit=with_tokens, tensors=with_rows)


def experts(path: Path) -> Path:
    """Two of four feed-forward parts for each token (llama)."""
    writer = _writer(path, "llama", layers=2)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_expert_count(_EXPERTS)
    writer.add_expert_used_count(2)
    return _write(
        path,
        writer,
        lambda i: _norms(i, "attn", "ffn") | _attention(i) | _expert_parts(i),
        layers=2,
    )


def _expert_parts(i: int) -> Shapes:
    return {
        f"blk.{i}.ffn_gate_inp.weight": (_EXPERTS, WIDTH),
        f"blk.{i}.ffn_gate_exps.weight": (_EXPERTS, FEED_FORWARD, WIDTH),
        f"blk.{i}.ffn_up_exps.weight": (_EXPERTS, FEED_FORWARD, WIDTH),
        f"blk.{i}.ffn_down_exps.weight": (_EXPERTS, WIDTH, FEED_FORWARD),
    }


def windowed(path: Path) -> Path:
    """Attention to the last WINDOW tokens, in one layer of six to everything (gemma3)."""
    writer = _writer(path, "gemma3", layers=_FULL_EVERY)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_sliding_window(WINDOW)
    norms = ("attn", "ffn", "post_attention", "post_ffw")
    return _write(
        path,
        writer,
        lambda i: _norms(i, *norms) | _head_norms(i) | _attention(i) | _feed_forward(i),
        layers=_FULL_EVERY,
    )


def two_dimensional(path: Path) -> Path:
    """Positions of its own for every dimension of a picture (qwen2vl)."""
    writer = _writer(path, "qwen2vl", layers=2)
    half = WIDTH // HEADS // 2
    writer.add_rope_dimension_sections([half // 2, half // 4, half // 4, 0])

    def layer(i: int) -> Shapes:
        biases = {f"blk.{i}.attn_{part}.bias": (WIDTH,) for part in ("q", "k", "v")}
        return _norms(i, "attn", "ffn") | _attention(i) | biases | _feed_forward(i)

    return _write(path, writer, layer, layers=2)


def recurrent(path: Path) -> Path:
    """A state that only goes forward (mamba)."""
    writer = _writer(path, "mamba", layers=2)
    _add_ssm(writer)
    return _write(path, writer, lambda i: _norms(i, "attn") | _mamba(i), layers=2)


def hybrid(path: Path) -> Path:
    """One layer with such a state, one that attends (jamba)."""
    writer = _writer(path, "jamba", layers=2, kv_heads=[0, HEADS])
    _add_ssm(writer)

    def layer(i: int) -> Shapes:
        mixer = _attention(i) if i else _mamba(i) | _inner_norms(i)
        return _norms(i, "attn", "ffn") | mixer | _feed_forward(i)

    return _write(path, writer, layer, layers=2)


def rolling_back(path: Path) -> Path:
    """One layer with a state of which earlier ones are kept, one that attends (lfm2)."""
    writer = _writer(path, "lfm2", layers=2, kv_heads=[0, HEADS])
    writer.add_uint32("lfm2.shortconv.l_cache", 3)
    writer.add_vocab_size(END + 1)

    def layer(i: int) -> Shapes:
        mixer: Shapes = {
            f"blk.{i}.shortconv.conv.weight": (WIDTH, 3),
            f"blk.{i}.shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
            f"blk.{i}.shortconv.out_proj.weight": (WIDTH, WIDTH),
        }
        if i:
            mixer = _attention(i) | _head_norms(i)
        return _norms(i, "attn", "ffn") | mixer | _feed_forward(i)

    def with_its_norm(shapes: Shapes) -> Shapes:
        own: Shapes = {"token_embd_norm.weight": (WIDTH,)}
        return own | {name: shape for name, shape in shapes.items() if name != "output_norm.weight"}

    return _write(path, writer, layer, layers=2, tensors=with_its_norm)


def _mamba(i: int) -> Shapes:
    return {
        f"blk.{i}.ssm_in.weight": (2 * _RNN_INNER, WIDTH),
        f"blk.{i}.ssm_conv1d.weight": (_RNN_INNER, _RNN_CONV),
        f"blk.{i}.ssm_conv1d.bias": (_RNN_INNER,),
        f"blk.{i}.ssm_x.weight": (_RNN_RANK + 2 * _RNN_STATE, _RNN_INNER),
        f"blk.{i}.ssm_dt.weight": (_RNN_INNER, _RNN_RANK),
        f"blk.{i}.ssm_dt.bias": (_RNN_INNER,),
        f"blk.{i}.ssm_a": (_RNN_INNER, _RNN_STATE),
        f"blk.{i}.ssm_d": (_RNN_INNER,),
        f"blk.{i}.ssm_out.weight": (WIDTH, _RNN_INNER),
    }


def _inner_norms(i: int) -> Shapes:
    return {
        f"blk.{i}.ssm_dt_norm.weight": (_RNN_RANK,),
        f"blk.{i}.ssm_b_norm.weight": (_RNN_STATE,),
        f"blk.{i}.ssm_c_norm.weight": (_RNN_STATE,),
    }


def _add_ssm(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(_RNN_CONV)
    writer.add_ssm_inner_size(_RNN_INNER)
    writer.add_ssm_state_size(_RNN_STATE)
    writer.add_ssm_time_step_rank(_RNN_RANK)


def _writer(
    path: Path, architecture: str, *, layers: int, kv_heads: int | list[int] = HEADS
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*CHARACTERS, "<end>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * END + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["~ ~"])
    writer.add_eos_token_id(END)
    return writer


def _write(
    path: Path,
    writer: gguf.GGUFWriter,
    layer: Callable[[int], Shapes],
    *,
    layers: int,
    tensors: Callable[[Shapes], Shapes] = lambda shapes: shapes,
) -> Path:
    shapes: Shapes = {
        "token_embd.weight": (END + 1, WIDTH),
        "output.weight": (END + 1, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for i in range(layers):
        shapes |= layer(i)
    random = np.random.default_rng(1)
    for name, shape in tensors(shapes).items():
        writer.add_tensor(name, _values(name, shape, random))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if name.endswith("norm.weight"):
        values = np.ones(shape)
    elif name.endswith("ssm_a"):
        values = -random.uniform(0.05, 1.0, shape)  # it decays slowly: the past matters
    else:
        values = random.normal(0, 1.5 / np.sqrt(shape[-1]), shape)
    if name.startswith("output."):
        values[END:] = 0  # never the most likely: an answer does not end by itself
    return values.astype(np.float32)
