"""The tensors of a layer, layout by layout.

Each function follows `load_arch_tensors` of the file of the same name under llama.cpp's
`src/models/`. An architecture whose row has no layout is unknown here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from localllm.core.catalogue.blueprint.parts import (
    ALTUP,
    LAUREL,
    Row,
    attention,
    delta_net,
    experts,
    feed_forward,
    fused_attention,
    mamba2,
    norms,
    per_layer_inputs,
    plain_ffn,
    swiglu,
)
from localllm.core.catalogue.blueprint.shape import Layer, Shape
from localllm.core.model.architecture import TensorLayout

Rows = Callable[[Shape, Layer], list[Row]]

_FOUR_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


def layer_rows(s: Shape, layer: Layer) -> list[Row]:
    """List the tensors of one layer; KeyError for an architecture that is not known here."""
    if s.arch.layout is None:
        raise KeyError(s.architecture)
    return _LAYOUTS[s.arch.layout](s, layer)


def _llama(s: Shape, a: Layer) -> list[Row]:
    """Pre-norm, gated feed-forward or experts: also Qwen, Mistral, Granite, SmolLM3 and others."""
    return attention(s, a) + norms(s.width, "attn_norm", "ffn_norm") + feed_forward(s, a)


def _post_norm_ffn(s: Shape, a: Layer) -> list[Row]:
    """The norm before the feed-forward is named for the attention it follows."""
    around = norms(s.width, "attn_norm", "post_attention_norm")
    return attention(s, a) + around + feed_forward(s, a)


def _qwen3next(s: Shape, a: Layer) -> list[Row]:
    return _qwen35(s, a, fused=True)


def _qwen35(s: Shape, a: Layer, *, fused: bool = False) -> list[Row]:
    mixer = delta_net(s, fused=fused) if a.recurrent else attention(s, a, gated=True)
    rows = mixer + norms(s.width, "attn_norm", "post_attention_norm") + feed_forward(s, a)
    if a.experts:
        rows.append(("ffn_gate_inp_shexp.weight", (s.width,)))
    return rows


def _gemma(s: Shape, a: Layer) -> list[Row]:
    return attention(s, a) + norms(s.width, *_FOUR_NORMS) + swiglu(s, a.ff)


def _gemma3n(s: Shape, a: Layer) -> list[Row]:
    return [
        *_gemma(s, a),
        *per_layer_inputs(s),
        ("altup_correct_coef.weight", (ALTUP, ALTUP)),
        ("altup_predict_coef.weight", (ALTUP, ALTUP * ALTUP)),
        ("altup_router.weight", (s.width, ALTUP)),
        *norms(s.width, "altup_router_norm", "altup_correct_scale", "laurel_post_norm"),
        ("laurel_l.weight", (s.width, LAUREL)),
        ("laurel_r.weight", (LAUREL, s.width)),
    ]


def _gemma4(s: Shape, a: Layer) -> list[Row]:
    """Full-attention layers of the large models have no value matrix: it is the key's. Layers
    that share another's cache have key and value matrices all the same, unused."""
    rows = _gemma(s, a)
    if "shared_v" in s.extra and not a.window:
        rows = [row for row in rows if row[0] != "attn_v.weight"]
    rows += [*per_layer_inputs(s), ("layer_output_scale.weight", (1,))]
    if a.experts:
        rows += experts(s, a)
        rows.append(("ffn_gate_inp.scale", (s.width,)))
        rows.append(("ffn_down_exps.scale", (s.experts,)))
        rows += norms(s.width, "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
    return rows


def _phi3(s: Shape, a: Layer) -> list[Row]:
    return [
        *fused_attention(s, a),
        *norms(s.width, "attn_norm", "ffn_norm"),
        ("ffn_up.weight", (s.width, 2 * a.ff)),
        ("ffn_down.weight", (a.ff, s.width)),
    ]


def _glm4(s: Shape, a: Layer) -> list[Row]:
    return [
        *attention(s, a),
        *norms(s.width, *_FOUR_NORMS),
        ("ffn_up.weight", (s.width, 2 * a.ff)),
        ("ffn_down.weight", (a.ff, s.width)),
    ]


def _olmo2(s: Shape, a: Layer) -> list[Row]:
    return [
        *attention(s, a),
        ("attn_q_norm.weight", (s.head_size(a) * a.heads,)),
        ("attn_k_norm.weight", (s.head_size(a) * a.kv_heads,)),
        *norms(s.width, "post_attention_norm", "post_ffw_norm"),
        *swiglu(s, a.ff),
    ]


def _exaone4(s: Shape, a: Layer) -> list[Row]:
    around = norms(s.width, "post_attention_norm", "post_ffw_norm")
    return attention(s, a) + around + swiglu(s, a.ff)


def _cohere(s: Shape, a: Layer) -> list[Row]:
    return attention(s, a) + norms(s.width, "attn_norm") + swiglu(s, a.ff)


def _starcoder2(s: Shape, a: Layer) -> list[Row]:
    return [
        *attention(s, a),
        *norms(s.width, "attn_norm", "ffn_norm"),
        ("attn_norm.bias", (s.width,)),
        ("ffn_norm.bias", (s.width,)),
        *plain_ffn(s, a.ff, bias=True),
    ]


def _deepseek2(s: Shape, a: Layer) -> list[Row]:
    """Multi-head latent attention: keys and values come out of one narrow vector."""
    rank, rope = s.number("attention.kv_lora_rank"), s.number("rope.dimension_count")
    key, value = s.number("attention.key_length_mla"), s.number("attention.value_length_mla")
    q_rank = s.number("attention.q_lora_rank", 0)
    rows: list[Row] = [
        ("attn_kv_a_mqa.weight", (s.width, rank + rope)),
        ("attn_kv_a_norm.weight", (rank,)),
        ("attn_k_b.weight", (key - rope, rank, a.heads)),
        ("attn_v_b.weight", (rank, value, a.heads)),
        ("attn_output.weight", (a.heads * value, s.width)),
    ]
    if q_rank:
        rows.append(("attn_q_a.weight", (s.width, q_rank)))
        rows.append(("attn_q_a_norm.weight", (q_rank,)))
        rows.append(("attn_q_b.weight", (q_rank, a.heads * key)))
    else:
        rows.append(("attn_q.weight", (s.width, a.heads * key)))
    return rows + norms(s.width, "attn_norm", "ffn_norm") + feed_forward(s, a)


def _gpt_oss(s: Shape, a: Layer) -> list[Row]:
    n, ff = s.experts, s.number("expert_feed_forward_length")
    return [
        *_post_norm_ffn(s, a),
        ("attn_sinks.weight", (a.heads,)),
        ("ffn_gate_inp.bias", (n,)),
        ("ffn_gate_exps.bias", (ff, n)),
        ("ffn_up_exps.bias", (ff, n)),
        ("ffn_down_exps.bias", (s.width, n)),
    ]


def _granite_hybrid(s: Shape, a: Layer) -> list[Row]:
    mixer = mamba2(s) if a.recurrent else attention(s, a)
    return mixer + norms(s.width, "attn_norm", "ffn_norm") + feed_forward(s, a)


def _falcon_h1(s: Shape, a: Layer) -> list[Row]:
    """State space and attention side by side. Its feed-forward norm has no ".weight"."""
    around: list[Row] = [("attn_norm.weight", (s.width,)), ("ffn_norm", (s.width,))]
    return mamba2(s) + attention(s, a) + around + swiglu(s, a.ff)


def _lfm2(s: Shape, a: Layer) -> list[Row]:
    if a.recurrent:
        mixer: list[Row] = [
            ("shortconv.conv.weight", (s.number("shortconv.l_cache"), s.width)),
            ("shortconv.in_proj.weight", (s.width, 3 * s.width)),
            ("shortconv.out_proj.weight", (s.width, s.width)),
        ]
    else:
        mixer = attention(s, a)
    return mixer + norms(s.width, "attn_norm", "ffn_norm") + feed_forward(s, a)


def _nemotron_h(s: Shape, a: Layer) -> list[Row]:
    """Each layer is one of three: state space, attention, or feed-forward."""
    norm = norms(s.width, "attn_norm")
    if a.recurrent:
        return norm + mamba2(s)
    if a.ff == 0:
        return norm + attention(s, a)
    if not a.experts:
        return norm + plain_ffn(s, a.ff, bias=False)
    n, ff = s.experts, s.number("expert_feed_forward_length")
    shared = s.number("expert_shared_feed_forward_length")
    return [
        *norm,
        ("ffn_gate_inp.weight", (s.width, n)),
        ("exp_probs_b.bias", (n,)),
        ("ffn_up_exps.weight", (s.width, ff, n)),
        ("ffn_down_exps.weight", (ff, s.width, n)),
        ("ffn_up_shexp.weight", (s.width, shared)),
        ("ffn_down_shexp.weight", (shared, s.width)),
    ]


def _bert(s: Shape, a: Layer) -> list[Row]:
    """Encoders of the BERT kind: Nomic's have no biases and a gate, or experts."""
    heads = fused_attention if "fused_qkv" in s.extra else attention
    rows = heads(s, a) + norms(s.width, "attn_output_norm", "layer_output_norm")
    rows += [("attn_output_norm.bias", (s.width,)), ("layer_output_norm.bias", (s.width,))]
    if "fused_qkv" in s.extra and "qkv_bias" in s.extra:
        rows.append(("attn_qkv.bias", (3 * s.width,)))
        rows.append(("attn_output.bias", (s.width,)))
    if a.experts:
        rows.append(("ffn_gate_inp.weight", (s.width, s.experts)))
        rows.append(("ffn_up_exps.weight", (s.width, a.ff, s.experts)))
        return [*rows, ("ffn_down_exps.weight", (a.ff, s.width, s.experts))]
    if "gated_ffn" in s.extra:
        return rows + swiglu(s, a.ff)
    return rows + plain_ffn(s, a.ff, bias="ffn_bias" in s.extra)


_LAYOUTS: Mapping[TensorLayout, Rows] = MappingProxyType(
    {
        TensorLayout.LLAMA: _llama,
        TensorLayout.BERT: _bert,
        TensorLayout.COHERE: _cohere,
        TensorLayout.DEEPSEEK2: _deepseek2,
        TensorLayout.EXAONE4: _exaone4,
        TensorLayout.FALCON_H1: _falcon_h1,
        TensorLayout.GEMMA: _gemma,
        TensorLayout.GEMMA3N: _gemma3n,
        TensorLayout.GEMMA4: _gemma4,
        TensorLayout.GLM4: _glm4,
        TensorLayout.GPT_OSS: _gpt_oss,
        TensorLayout.GRANITE_HYBRID: _granite_hybrid,
        TensorLayout.LFM2: _lfm2,
        TensorLayout.NEMOTRON_H: _nemotron_h,
        TensorLayout.NOMIC_BERT: _bert,
        TensorLayout.OLMO2: _olmo2,
        TensorLayout.PHI3: _phi3,
        TensorLayout.POST_NORM_FFN: _post_norm_ffn,
        TensorLayout.QWEN3NEXT: _qwen3next,
        TensorLayout.QWEN35: _qwen35,
        TensorLayout.STARCODER2: _starcoder2,
    }
)
