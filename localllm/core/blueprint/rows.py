"""Which tensors a layer has, architecture by architecture.

Each function follows `load_arch_tensors` of the file of the same name under llama.cpp's
`src/models/`; optional tensors appear where the published files carry them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from localllm.core.blueprint.shape import Layer, Shape

Row = tuple[str, tuple[int, ...]]
Rows = Callable[[Shape, Layer], list[Row]]


def outer_rows(s: Shape) -> list[Row]:
    """List the tensors outside the layers."""
    rows: list[Row] = [("token_embd.weight", (s.width, s.vocabulary))]
    if s.architecture in _ENCODERS:
        return rows + _encoder_outside(s)
    rows.append((_OUTPUT_NORM.get(s.architecture, "output_norm.weight"), (s.width,)))
    if s.architecture == "starcoder2":
        rows.append(("output_norm.bias", (s.width,)))
    if not s.tied:
        rows.append(("output.weight", (s.width, s.vocabulary)))
    if "classifier" in s.extra:
        labels = s.gguf.get("classifier.output_labels", ())
        rows.append(
            ("cls.output.weight", (s.width, len(labels) if isinstance(labels, tuple) else 1))
        )
    rows += _rope_factors(s)
    if s.number("embedding_length_per_layer_input", 0):
        rows += _per_layer_outside(s)
    if s.number("dense_2_feat_out", 0):
        rows.append(("dense_2.weight", (s.width, s.number("dense_2_feat_out"))))
        rows.append(("dense_3.weight", (s.number("dense_3_feat_in"), s.width)))
    return rows


def layer_rows(s: Shape, layer: Layer) -> list[Row]:
    """List the tensors of one layer; KeyError for an architecture that is not known here."""
    if s.architecture not in ARCHITECTURES:
        raise KeyError(s.architecture)
    return ARCHITECTURES[s.architecture](s, layer)


# llama-hparams.h: n_altup and laurel_rank are constants, not header keys.
_ALTUP = 4
_LAUREL = 64

_OUTPUT_NORM = {"lfm2": "token_embd_norm.weight", "lfm2moe": "token_embd_norm.weight"}


def _rope_factors(s: Shape) -> list[Row]:
    half = s.number("rope.dimension_count", s.head_size(s.layer(0))) // 2
    if "rope_freqs" in s.extra:
        return [("rope_freqs.weight", (half,))]
    if "rope_long_short" in s.extra:
        return [("rope_factors_long.weight", (half,)), ("rope_factors_short.weight", (half,))]
    return []


def _per_layer_outside(s: Shape) -> list[Row]:
    per_layer = s.number("embedding_length_per_layer_input")
    rows: list[Row] = [
        ("per_layer_token_embd.weight", (per_layer * s.layers, s.vocabulary)),
        ("per_layer_model_proj.weight", (s.width, per_layer * s.layers)),
        ("per_layer_proj_norm.weight", (per_layer,)),
    ]
    if s.architecture == "gemma3n":
        rows.append(("altup_proj.weight", (s.width, s.width, _ALTUP - 1)))
        rows.append(("altup_unembd_proj.weight", (s.width, s.width, _ALTUP - 1)))
    return rows


def _encoder_outside(s: Shape) -> list[Row]:
    rows: list[Row] = [("token_embd_norm.weight", (s.width,)), ("token_embd_norm.bias", (s.width,))]
    types = s.number("token_type_count", 1)
    if "token_types" in s.extra or types > 1:
        rows.append(("token_types.weight", (s.width, types)))
    if s.architecture == "bert":
        rows.append(("position_embd.weight", (s.width, s.context)))
    if "classifier" in s.extra:
        rows += [("cls.weight", (s.width, s.width)), ("cls.bias", (s.width,))]
        rows += [("cls.output.weight", (s.width, 1)), ("cls.output.bias", (1,))]
    return rows


def _norms(width: int, *names: str) -> list[Row]:
    return [(f"{name}.weight", (width,)) for name in names]


def _attention(s: Shape, a: Layer, *, gated: bool = False) -> list[Row]:
    """Query, key, value and output matrices. `gated` doubles the query's width (Qwen3-Next)."""
    q = s.head_size(a) * a.heads
    k, v = s.head_size(a) * a.kv_heads, s.head_size(a, "value") * a.kv_heads
    out = s.head_size(a, "value") * a.heads
    q_rows = 2 * q if gated else q
    rows: list[Row] = [
        ("attn_q.weight", (s.width, q_rows)),
        ("attn_k.weight", (s.width, k)),
        ("attn_v.weight", (s.width, v)),
        ("attn_output.weight", (out, s.width)),
    ]
    if "qkv_bias" in s.extra:
        rows += [("attn_q.bias", (q_rows,)), ("attn_k.bias", (k,)), ("attn_v.bias", (v,))]
    if "output_bias" in s.extra:
        rows.append(("attn_output.bias", (s.width,)))
    if "qk_norm" in s.extra:
        rows += _norms(s.head_size(a), "attn_q_norm", "attn_k_norm")
    return rows


def _fused_attention(s: Shape, a: Layer) -> list[Row]:
    size = s.head_size(a)
    return [
        ("attn_qkv.weight", (s.width, size * (a.heads + 2 * a.kv_heads))),
        ("attn_output.weight", (size * a.heads, s.width)),
    ]


def _swiglu(s: Shape, ff: int, suffix: str = "") -> list[Row]:
    return [
        (f"ffn_gate{suffix}.weight", (s.width, ff)),
        (f"ffn_up{suffix}.weight", (s.width, ff)),
        (f"ffn_down{suffix}.weight", (ff, s.width)),
    ]


def _experts(s: Shape, a: Layer) -> list[Row]:
    n, ff = s.experts, s.number("expert_feed_forward_length", a.ff)
    rows: list[Row] = [
        ("ffn_gate_inp.weight", (s.width, n)),
        ("ffn_down_exps.weight", (ff, s.width, n)),
    ]
    if "fused_experts" in s.extra:
        rows.append(("ffn_gate_up_exps.weight", (s.width, 2 * ff, n)))
    else:
        rows.append(("ffn_gate_exps.weight", (s.width, ff, n)))
        rows.append(("ffn_up_exps.weight", (s.width, ff, n)))
    if "expert_bias" in s.extra:
        rows.append(("exp_probs_b.bias", (n,)))
    count = s.number("expert_shared_count", 1 if s.architecture == "llama4" else 0)
    shared = s.number("expert_shared_feed_forward_length", ff * count)
    return rows + (_swiglu(s, shared, "_shexp") if shared else [])


def _feed_forward(s: Shape, a: Layer) -> list[Row]:
    return _experts(s, a) if a.experts else _swiglu(s, a.ff)


def _mamba2(s: Shape) -> list[Row]:
    inner, state = s.number("ssm.inner_size"), s.number("ssm.state_size")
    groups, heads = s.number("ssm.group_count"), s.number("ssm.time_step_rank")
    convolved = inner + 2 * groups * state
    rows: list[Row] = [
        ("ssm_in.weight", (s.width, inner + convolved + heads)),
        ("ssm_conv1d.weight", (s.number("ssm.conv_kernel"), convolved)),
        ("ssm_conv1d.bias", (convolved,)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (1, heads)),
        ("ssm_d", (1, heads)),
        ("ssm_out.weight", (inner, s.width)),
    ]
    if "no_ssm_norm" not in s.extra:
        rows.append(("ssm_norm.weight", (inner // groups, groups)))
    return rows


def _delta_net(s: Shape) -> list[Row]:
    """Gated delta net: `beta` and `alpha` are one matrix in Qwen3-Next, two in Qwen3.5."""
    state, groups = s.number("ssm.state_size"), s.number("ssm.group_count")
    heads = s.number("ssm.time_step_rank")
    keys, values = state * groups, state * heads
    rows: list[Row] = [
        ("attn_qkv.weight", (s.width, 2 * keys + values)),
        ("attn_gate.weight", (s.width, values)),
        ("ssm_conv1d.weight", (s.number("ssm.conv_kernel"), 2 * keys + values)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (heads,)),
        ("ssm_norm.weight", (state,)),
        ("ssm_out.weight", (values, s.width)),
    ]
    if s.architecture == "qwen3next":
        return [*rows, ("ssm_ba.weight", (s.width, 2 * heads))]
    return [
        *rows,
        ("ssm_beta.weight", (s.width, heads)),
        ("ssm_alpha.weight", (s.width, heads)),
    ]


def _llama(s: Shape, a: Layer) -> list[Row]:
    """Pre-norm, gated feed-forward or experts: also Qwen, Mistral, Granite, SmolLM3 and others."""
    return _attention(s, a) + _norms(s.width, "attn_norm", "ffn_norm") + _feed_forward(s, a)


def _post_norm_ffn(s: Shape, a: Layer) -> list[Row]:
    """The norm before the feed-forward is named for the attention it follows."""
    norms = _norms(s.width, "attn_norm", "post_attention_norm")
    return _attention(s, a) + norms + _feed_forward(s, a)


def _qwen35(s: Shape, a: Layer) -> list[Row]:
    mixer = _delta_net(s) if a.recurrent else _attention(s, a, gated=True)
    rows = mixer + _norms(s.width, "attn_norm", "post_attention_norm") + _feed_forward(s, a)
    if a.experts:
        rows.append(("ffn_gate_inp_shexp.weight", (s.width,)))
    return rows


def _gemma(s: Shape, a: Layer) -> list[Row]:
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    return _attention(s, a) + _norms(s.width, *norms) + _swiglu(s, a.ff)


def _gemma3n(s: Shape, a: Layer) -> list[Row]:
    return [
        *_gemma(s, a),
        *_per_layer_inputs(s),
        ("altup_correct_coef.weight", (_ALTUP, _ALTUP)),
        ("altup_predict_coef.weight", (_ALTUP, _ALTUP * _ALTUP)),
        ("altup_router.weight", (s.width, _ALTUP)),
        *_norms(s.width, "altup_router_norm", "altup_correct_scale", "laurel_post_norm"),
        ("laurel_l.weight", (s.width, _LAUREL)),
        ("laurel_r.weight", (_LAUREL, s.width)),
    ]


def _per_layer_inputs(s: Shape) -> list[Row]:
    per_layer = s.number("embedding_length_per_layer_input", 0)
    if not per_layer:
        return []
    return [
        ("inp_gate.weight", (s.width, per_layer)),
        ("proj.weight", (per_layer, s.width)),
        ("post_norm.weight", (s.width,)),
    ]


def _gemma4(s: Shape, a: Layer) -> list[Row]:
    """Full-attention layers of the large models have no value matrix: it is the key's. Layers
    that share another's cache have key and value matrices all the same, unused."""
    rows = _gemma(s, a)
    if "shared_v" in s.extra and not a.window:
        rows = [row for row in rows if row[0] != "attn_v.weight"]
    rows += [*_per_layer_inputs(s), ("layer_output_scale.weight", (1,))]
    if a.experts:
        rows += _experts(s, a)
        rows.append(("ffn_gate_inp.scale", (s.width,)))
        rows.append(("ffn_down_exps.scale", (s.experts,)))
        rows += _norms(s.width, "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
    return rows


def _phi3(s: Shape, a: Layer) -> list[Row]:
    return [
        *_fused_attention(s, a),
        *_norms(s.width, "attn_norm", "ffn_norm"),
        ("ffn_up.weight", (s.width, 2 * a.ff)),
        ("ffn_down.weight", (a.ff, s.width)),
    ]


def _glm4(s: Shape, a: Layer) -> list[Row]:
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    return [
        *_attention(s, a),
        *_norms(s.width, *norms),
        ("ffn_up.weight", (s.width, 2 * a.ff)),
        ("ffn_down.weight", (a.ff, s.width)),
    ]


def _olmo2(s: Shape, a: Layer) -> list[Row]:
    return [
        *_attention(s, a),
        ("attn_q_norm.weight", (s.head_size(a) * a.heads,)),
        ("attn_k_norm.weight", (s.head_size(a) * a.kv_heads,)),
        *_norms(s.width, "post_attention_norm", "post_ffw_norm"),
        *_swiglu(s, a.ff),
    ]


def _exaone4(s: Shape, a: Layer) -> list[Row]:
    norms = _norms(s.width, "post_attention_norm", "post_ffw_norm")
    return _attention(s, a) + norms + _swiglu(s, a.ff)


def _cohere(s: Shape, a: Layer) -> list[Row]:
    return _attention(s, a) + _norms(s.width, "attn_norm") + _swiglu(s, a.ff)


def _starcoder2(s: Shape, a: Layer) -> list[Row]:
    return [
        *_attention(s, a),
        *_norms(s.width, "attn_norm", "ffn_norm"),
        ("attn_norm.bias", (s.width,)),
        ("ffn_norm.bias", (s.width,)),
        *_plain_ffn(s, a.ff, bias=True),
    ]


def _plain_ffn(s: Shape, ff: int, *, bias: bool) -> list[Row]:
    rows: list[Row] = [("ffn_up.weight", (s.width, ff)), ("ffn_down.weight", (ff, s.width))]
    return rows + ([("ffn_up.bias", (ff,)), ("ffn_down.bias", (s.width,))] if bias else [])


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
    return rows + _norms(s.width, "attn_norm", "ffn_norm") + _feed_forward(s, a)


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
    mixer = _mamba2(s) if a.recurrent else _attention(s, a)
    return mixer + _norms(s.width, "attn_norm", "ffn_norm") + _feed_forward(s, a)


def _falcon_h1(s: Shape, a: Layer) -> list[Row]:
    """State space and attention side by side. Its feed-forward norm has no ".weight"."""
    norms: list[Row] = [("attn_norm.weight", (s.width,)), ("ffn_norm", (s.width,))]
    return _mamba2(s) + _attention(s, a) + norms + _swiglu(s, a.ff)


def _lfm2(s: Shape, a: Layer) -> list[Row]:
    if a.recurrent:
        mixer: list[Row] = [
            ("shortconv.conv.weight", (s.number("shortconv.l_cache"), s.width)),
            ("shortconv.in_proj.weight", (s.width, 3 * s.width)),
            ("shortconv.out_proj.weight", (s.width, s.width)),
        ]
    else:
        mixer = _attention(s, a)
    return mixer + _norms(s.width, "attn_norm", "ffn_norm") + _feed_forward(s, a)


def _nemotron_h(s: Shape, a: Layer) -> list[Row]:
    """Each layer is one of three: state space, attention, or feed-forward."""
    norm = _norms(s.width, "attn_norm")
    if a.recurrent:
        return norm + _mamba2(s)
    if a.ff == 0:
        return norm + _attention(s, a)
    if not a.experts:
        return norm + _plain_ffn(s, a.ff, bias=False)
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
    attention = _fused_attention if "fused_qkv" in s.extra else _attention
    rows = attention(s, a) + _norms(s.width, "attn_output_norm", "layer_output_norm")
    rows += [("attn_output_norm.bias", (s.width,)), ("layer_output_norm.bias", (s.width,))]
    if "fused_qkv" in s.extra and "qkv_bias" in s.extra:
        rows.append(("attn_qkv.bias", (3 * s.width,)))
        rows.append(("attn_output.bias", (s.width,)))
    if a.experts:
        rows.append(("ffn_gate_inp.weight", (s.width, s.experts)))
        rows.append(("ffn_up_exps.weight", (s.width, a.ff, s.experts)))
        return [*rows, ("ffn_down_exps.weight", (a.ff, s.width, s.experts))]
    if "gated_ffn" in s.extra:
        return rows + _swiglu(s, a.ff)
    return rows + _plain_ffn(s, a.ff, bias="ffn_bias" in s.extra)


_ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v3"})

ARCHITECTURES: Mapping[str, Rows] = MappingProxyType(
    {
        **dict.fromkeys(
            [
                "llama",
                "qwen2",
                "qwen2vl",
                "qwen3",
                "qwen3vl",
                "qwen3moe",
                "qwen3vlmoe",
                "mistral3",
                "granite",
                "granitemoe",
                "smollm3",
                "internlm2",
                "llama4",
                "ernie4_5",
                "ernie4_5-moe",
            ],
            _llama,
        ),
        **dict.fromkeys(("glm4moe", "seed_oss"), _post_norm_ffn),
        **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), _qwen35),
        **dict.fromkeys(("gemma2", "gemma3", "gemma-embedding"), _gemma),
        **dict.fromkeys(("command-r", "cohere2"), _cohere),
        **dict.fromkeys(("lfm2", "lfm2moe"), _lfm2),
        **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), _nemotron_h),
        **dict.fromkeys(sorted(_ENCODERS), _bert),
        "gemma3n": _gemma3n,
        "gemma4": _gemma4,
        "phi3": _phi3,
        "glm4": _glm4,
        "olmo2": _olmo2,
        "exaone4": _exaone4,
        "starcoder2": _starcoder2,
        "deepseek2": _deepseek2,
        "gpt-oss": _gpt_oss,
        "granitehybrid": _granite_hybrid,
        "falcon-h1": _falcon_h1,
    }
)
