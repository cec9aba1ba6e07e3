"""A BERT of a few kilobytes with random weights, and what it computes written down in numpy."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.engine.forged_lora import write

WIDTH, HEADS, INNER, LAYERS, CONTEXT = 32, 2, 64, 2, 48
EPSILON = 1e-12
WORDS = ("the", "fox", "dog", "runs", "sleeps", "far", "away", "red", "blue", "sea")
PIECES = ("ly", "er", *"abcdefghijklmnopqrstuvwxyz")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = (*SPECIAL, *(f"\u2581{word}" for word in (*WORDS, *"abcdefghijklmnopqrstuvwxyz")), *PIECES)
CLS, SEP = TOKENS.index("[CLS]"), TOKENS.index("[SEP]")

Rows = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]


def token(word: str) -> int:
    return TOKENS.index(f"\u2581{word}")


def weights(*, classifier: bool = False, seed: int = 3) -> Weights:
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "position_embd.weight": (CONTEXT, WIDTH),
        "token_types.weight": (2, WIDTH),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= {f"blk.{i}.{name}.weight": (WIDTH, WIDTH), f"blk.{i}.{name}.bias": (WIDTH,)}
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{i}.{name}.weight": (WIDTH,), f"blk.{i}.{name}.bias": (WIDTH,)}
        shapes |= {f"blk.{i}.ffn_up.weight": (INNER, WIDTH), f"blk.{i}.ffn_up.bias": (INNER,)}
        shapes |= {f"blk.{i}.ffn_down.weight": (WIDTH, INNER), f"blk.{i}.ffn_down.bias": (WIDTH,)}
    if classifier:
        shapes |= {"cls.weight": (WIDTH, WIDTH), "cls.bias": (WIDTH,)}
        shapes |= {"cls.output.weight": (1, WIDTH), "cls.output.bias": (1,)}
    return {name: _values(name, shape, random) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("norm.weight"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return random.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)


def encoder(
    path: Path,
    *,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    classifier: bool = False,
    tags: tuple[str, ...] = (),
    template: str | None = None,
) -> Path:
    """The model as a file. `classifier`: with a head that scores pairs; `template` joins them."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if template is not None:
        writer.add_string("tokenizer.chat_template.rerank", template)
    if tags:
        writer.add_tags(list(tags))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(list(TOKENS))
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_type_count(2)
    for name in ("pad", "unk", "sep", "mask"):
        getattr(writer, f"add_{name}_token_id")(TOKENS.index(f"[{name.upper()}]"))
    writer.add_bos_token_id(CLS)
    writer.add_add_bos_token(True)
    for name, values in weights(classifier=classifier).items():
        writer.add_tensor(name, values)
    write(writer)
    return path


def rows(tokens: list[int], *, classifier: bool = False) -> Rows:
    """A row for each token, as `llama_model_bert` computes it."""
    w = weights(classifier=classifier)
    hidden = w["token_embd.weight"][tokens] + w["token_types.weight"][0]
    hidden = _norm(hidden + w["position_embd.weight"][: len(tokens)], w, "token_embd_norm")
    for i in range(LAYERS):
        blk = f"blk.{i}"
        hidden = _norm(hidden + _attend(hidden, w, blk), w, f"{blk}.attn_output_norm")
        inner = _linear(_gelu(_linear(hidden, w, f"{blk}.ffn_up")), w, f"{blk}.ffn_down")
        hidden = _norm(hidden + inner, w, f"{blk}.layer_output_norm")
    return hidden


def score(tokens: list[int]) -> float:
    """What the classifier says of these tokens: that of the first row."""
    w = weights(classifier=True)
    first = rows(tokens, classifier=True)[0]
    return float(_linear(np.tanh(_linear(first, w, "cls")), w, "cls.output")[0])


def _attend(hidden: Rows, w: Weights, blk: str) -> Rows:
    heads = [
        _linear(hidden, w, f"{blk}.attn_{part}").reshape(len(hidden), HEADS, -1).swapaxes(0, 1)
        for part in "qkv"
    ]
    query, key, value = heads
    scores = query @ key.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
    likely = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (likely / likely.sum(axis=-1, keepdims=True)) @ value
    return _linear(mixed.swapaxes(0, 1).reshape(len(hidden), WIDTH), w, f"{blk}.attn_output")


def _linear(x: Rows, w: Weights, name: str) -> Rows:
    return np.asarray(x @ w[f"{name}.weight"].T.astype(np.float64) + w[f"{name}.bias"])


def _norm(x: Rows, w: Weights, name: str) -> Rows:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + EPSILON)
    return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])


def _gelu(x: Rows) -> Rows:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
