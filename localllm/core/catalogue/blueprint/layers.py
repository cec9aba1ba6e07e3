"""The tensors of a layer, layout by layout.

Each function follows `load_arch_tensors` of the file of the same name under llama.cpp's
`src/models/`. An architecture whose row has no layout is unknown here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from localllm.core.catalogue.blueprint.hparams import HParams, LayerParams
from localllm.core.catalogue.blueprint.parts import (
    ALTUP,
    LAUREL,
    NamedShape,
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
from localllm.core.model.architecture import TensorLayout

_Layout = Callable[[HParams, LayerParams], list[NamedShape]]

_FOUR_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


def layer_tensors(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """List the tensors of one layer; KeyError for an architecture that is not known here."""
    if h.arch.layout is None:
        raise KeyError(h.architecture)
    return _LAYOUTS[h.arch.layout](h, layer)


def _llama(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """Pre-norm, gated feed-forward or experts: also Qwen, Mistral, Granite, SmolLM3 and others."""
    return attention(h, layer) + norms(h.width, "attn_norm", "ffn_norm") + feed_forward(h, layer)


def _post_norm_ffn(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """The norm before the feed-forward is named for the attention it follows."""
    around = norms(h.width, "attn_norm", "post_attention_norm")
    return attention(h, layer) + around + feed_forward(h, layer)


def _qwen3next(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return _qwen35(h, layer, fused=True)


def _qwen35(h: HParams, layer: LayerParams, *, fused: bool = False) -> list[NamedShape]:
    mixer = delta_net(h, fused=fused) if layer.recurrent else attention(h, layer, gated=True)
    rows = mixer + norms(h.width, "attn_norm", "post_attention_norm") + feed_forward(h, layer)
    if layer.experts:
        rows.append(("ffn_gate_inp_shexp.weight", (h.width,)))
    return rows


def _gemma(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return attention(h, layer) + norms(h.width, *_FOUR_NORMS) + swiglu(h, layer.ff)


def _gemma3n(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return [
        *_gemma(h, layer),
        *per_layer_inputs(h),
        ("altup_correct_coef.weight", (ALTUP, ALTUP)),
        ("altup_predict_coef.weight", (ALTUP, ALTUP * ALTUP)),
        ("altup_router.weight", (h.width, ALTUP)),
        *norms(h.width, "altup_router_norm", "altup_correct_scale", "laurel_post_norm"),
        ("laurel_l.weight", (h.width, LAUREL)),
        ("laurel_r.weight", (LAUREL, h.width)),
    ]


def _gemma4(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """Full-attention layers of the large models have no value matrix: it is the key's. Layers
    that share another's cache have key and value matrices all the same, unused."""
    rows = _gemma(h, layer)
    if "shared_v" in h.extra and not layer.window:
        rows = [row for row in rows if row[0] != "attn_v.weight"]
    rows += [*per_layer_inputs(h), ("layer_output_scale.weight", (1,))]
    if layer.experts:
        rows += experts(h, layer)
        rows.append(("ffn_gate_inp.scale", (h.width,)))
        rows.append(("ffn_down_exps.scale", (h.experts,)))
        rows += norms(h.width, "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
    return rows


def _phi3(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return [
        *fused_attention(h, layer),
        *norms(h.width, "attn_norm", "ffn_norm"),
        ("ffn_up.weight", (h.width, 2 * layer.ff)),
        ("ffn_down.weight", (layer.ff, h.width)),
    ]


def _glm4(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return [
        *attention(h, layer),
        *norms(h.width, *_FOUR_NORMS),
        ("ffn_up.weight", (h.width, 2 * layer.ff)),
        ("ffn_down.weight", (layer.ff, h.width)),
    ]


def _olmo2(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return [
        *attention(h, layer),
        ("attn_q_norm.weight", (h.head_size(layer) * layer.heads,)),
        ("attn_k_norm.weight", (h.head_size(layer) * layer.kv_heads,)),
        *norms(h.width, "post_attention_norm", "post_ffw_norm"),
        *swiglu(h, layer.ff),
    ]


def _exaone4(h: HParams, layer: LayerParams) -> list[NamedShape]:
    around = norms(h.width, "post_attention_norm", "post_ffw_norm")
    return attention(h, layer) + around + swiglu(h, layer.ff)


def _cohere(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return attention(h, layer) + norms(h.width, "attn_norm") + swiglu(h, layer.ff)


def _starcoder2(h: HParams, layer: LayerParams) -> list[NamedShape]:
    return [
        *attention(h, layer),
        *norms(h.width, "attn_norm", "ffn_norm"),
        ("attn_norm.bias", (h.width,)),
        ("ffn_norm.bias", (h.width,)),
        *plain_ffn(h, layer.ff, bias=True),
    ]


def _deepseek2(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """Multi-head latent attention: keys and values come out of one narrow vector."""
    rank, rope = h.number("attention.kv_lora_rank"), h.number("rope.dimension_count")
    key, value = h.number("attention.key_length_mla"), h.number("attention.value_length_mla")
    q_rank = h.number("attention.q_lora_rank", 0)
    rows: list[NamedShape] = [
        ("attn_kv_a_mqa.weight", (h.width, rank + rope)),
        ("attn_kv_a_norm.weight", (rank,)),
        ("attn_k_b.weight", (key - rope, rank, layer.heads)),
        ("attn_v_b.weight", (rank, value, layer.heads)),
        ("attn_output.weight", (layer.heads * value, h.width)),
    ]
    if q_rank:
        rows.append(("attn_q_a.weight", (h.width, q_rank)))
        rows.append(("attn_q_a_norm.weight", (q_rank,)))
        rows.append(("attn_q_b.weight", (q_rank, layer.heads * key)))
    else:
        rows.append(("attn_q.weight", (h.width, layer.heads * key)))
    return rows + norms(h.width, "attn_norm", "ffn_norm") + feed_forward(h, layer)


def _gpt_oss(h: HParams, layer: LayerParams) -> list[NamedShape]:
    n, ff = h.experts, h.number("expert_feed_forward_length")
    return [
        *_post_norm_ffn(h, layer),
        ("attn_sinks.weight", (layer.heads,)),
        ("ffn_gate_inp.bias", (n,)),
        ("ffn_gate_exps.bias", (ff, n)),
        ("ffn_up_exps.bias", (ff, n)),
        ("ffn_down_exps.bias", (h.width, n)),
    ]


def _granite_hybrid(h: HParams, layer: LayerParams) -> list[NamedShape]:
    mixer = mamba2(h) if layer.recurrent else attention(h, layer)
    return mixer + norms(h.width, "attn_norm", "ffn_norm") + feed_forward(h, layer)


def _falcon_h1(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """State space and attention side by side. Its feed-forward norm has no ".weight"."""
    around: list[NamedShape] = [("attn_norm.weight", (h.width,)), ("ffn_norm", (h.width,))]
    return mamba2(h) + attention(h, layer) + around + swiglu(h, layer.ff)


def _lfm2(h: HParams, layer: LayerParams) -> list[NamedShape]:
    if layer.recurrent:
        mixer: list[NamedShape] = [
            ("shortconv.conv.weight", (h.number("shortconv.l_cache"), h.width)),
            ("shortconv.in_proj.weight", (h.width, 3 * h.width)),
            ("shortconv.out_proj.weight", (h.width, h.width)),
        ]
    else:
        mixer = attention(h, layer)
    return mixer + norms(h.width, "attn_norm", "ffn_norm") + feed_forward(h, layer)


def _nemotron_h(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """Each layer is one of three: state space, attention, or feed-forward."""
    norm = norms(h.width, "attn_norm")
    if layer.recurrent:
        return norm + mamba2(h)
    if layer.ff == 0:
        return norm + attention(h, layer)
    if not layer.experts:
        return norm + plain_ffn(h, layer.ff, bias=False)
    n, ff = h.experts, h.number("expert_feed_forward_length")
    shared = h.number("expert_shared_feed_forward_length")
    return [
        *norm,
        ("ffn_gate_inp.weight", (h.width, n)),
        ("exp_probs_b.bias", (n,)),
        ("ffn_up_exps.weight", (h.width, ff, n)),
        ("ffn_down_exps.weight", (ff, h.width, n)),
        ("ffn_up_shexp.weight", (h.width, shared)),
        ("ffn_down_shexp.weight", (shared, h.width)),
    ]


def _bert(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """Encoders of the BERT kind: Nomic's have no biases and a gate, or experts."""
    heads = fused_attention if "fused_qkv" in h.extra else attention
    rows = heads(h, layer) + norms(h.width, "attn_output_norm", "layer_output_norm")
    rows += [("attn_output_norm.bias", (h.width,)), ("layer_output_norm.bias", (h.width,))]
    if "fused_qkv" in h.extra and "qkv_bias" in h.extra:
        rows.append(("attn_qkv.bias", (3 * h.width,)))
        rows.append(("attn_output.bias", (h.width,)))
    if layer.experts:
        rows.append(("ffn_gate_inp.weight", (h.width, h.experts)))
        rows.append(("ffn_up_exps.weight", (h.width, layer.ff, h.experts)))
        return [*rows, ("ffn_down_exps.weight", (layer.ff, h.width, h.experts))]
    if "gated_ffn" in h.extra:
        return rows + swiglu(h, layer.ff)
    return rows + plain_ffn(h, layer.ff, bias="ffn_bias" in h.extra)


_LAYOUTS: Mapping[TensorLayout, _Layout] = MappingProxyType(
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
