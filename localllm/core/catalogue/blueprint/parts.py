"""The building blocks of layers: attention, feed-forward, experts, state spaces.

Names and shapes follow `load_arch_tensors` in the files of llama.cpp's `src/models/`; optional
tensors appear where the published files carry them.
"""

from localllm.core.catalogue.blueprint.hparams import HParams, LayerParams

NamedShape = tuple[str, tuple[int, ...]]
"""A tensor's name, without its layer, and its shape in ggml order."""

# llama-hparams.h: n_altup and laurel_rank are constants, not header keys.
ALTUP = 4
LAUREL = 64


def norms(width: int, *names: str) -> list[NamedShape]:
    """List one weight per name, `width` long."""
    return [(f"{name}.weight", (width,)) for name in names]


def attention(h: HParams, layer: LayerParams, *, gated: bool = False) -> list[NamedShape]:
    """List query, key, value and output matrices; `gated`: with a query of twice the width."""
    q = h.head_size(layer) * layer.heads
    k, v = h.head_size(layer) * layer.kv_heads, h.head_size(layer, "value") * layer.kv_heads
    out = h.head_size(layer, "value") * layer.heads
    q_rows = 2 * q if gated else q
    rows: list[NamedShape] = [
        ("attn_q.weight", (h.width, q_rows)),
        ("attn_k.weight", (h.width, k)),
        ("attn_v.weight", (h.width, v)),
        ("attn_output.weight", (out, h.width)),
    ]
    if "qkv_bias" in h.extra:
        rows += [("attn_q.bias", (q_rows,)), ("attn_k.bias", (k,)), ("attn_v.bias", (v,))]
    if "output_bias" in h.extra:
        rows.append(("attn_output.bias", (h.width,)))
    if "qk_norm" in h.extra:
        rows += norms(h.head_size(layer), "attn_q_norm", "attn_k_norm")
    return rows


def fused_attention(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """List the output matrix, and query, key and value in one."""
    size = h.head_size(layer)
    return [
        ("attn_qkv.weight", (h.width, size * (layer.heads + 2 * layer.kv_heads))),
        ("attn_output.weight", (size * layer.heads, h.width)),
    ]


def swiglu(h: HParams, ff: int, suffix: str = "") -> list[NamedShape]:
    """List a gated feed-forward part; `suffix` tells a shared expert's from the plain one."""
    return [
        (f"ffn_gate{suffix}.weight", (h.width, ff)),
        (f"ffn_up{suffix}.weight", (h.width, ff)),
        (f"ffn_down{suffix}.weight", (ff, h.width)),
    ]


def experts(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """List router, routed experts and, where there are any, shared ones."""
    n, ff = h.experts, h.number("expert_feed_forward_length", layer.ff)
    rows: list[NamedShape] = [
        ("ffn_gate_inp.weight", (h.width, n)),
        ("ffn_down_exps.weight", (ff, h.width, n)),
    ]
    if "fused_experts" in h.extra:
        rows.append(("ffn_gate_up_exps.weight", (h.width, 2 * ff, n)))
    else:
        rows.append(("ffn_gate_exps.weight", (h.width, ff, n)))
        rows.append(("ffn_up_exps.weight", (h.width, ff, n)))
    if "expert_bias" in h.extra:
        rows.append(("exp_probs_b.bias", (n,)))
    count = h.number("expert_shared_count", h.arch.shared_experts)
    shared = h.number("expert_shared_feed_forward_length", ff * count)
    return rows + (swiglu(h, shared, "_shexp") if shared else [])


def feed_forward(h: HParams, layer: LayerParams) -> list[NamedShape]:
    """List experts or a gated feed-forward part, as the layer has it."""
    return experts(h, layer) if layer.experts else swiglu(h, layer.ff)


def mamba2(h: HParams) -> list[NamedShape]:
    """List the tensors of a state space (Mamba 2)."""
    inner, state = h.number("ssm.inner_size"), h.number("ssm.state_size")
    groups, heads = h.number("ssm.group_count"), h.number("ssm.time_step_rank")
    convolved = inner + 2 * groups * state
    rows: list[NamedShape] = [
        ("ssm_in.weight", (h.width, inner + convolved + heads)),
        ("ssm_conv1d.weight", (h.number("ssm.conv_kernel"), convolved)),
        ("ssm_conv1d.bias", (convolved,)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (1, heads)),
        ("ssm_d", (1, heads)),
        ("ssm_out.weight", (inner, h.width)),
    ]
    if "no_ssm_norm" not in h.extra:
        rows.append(("ssm_norm.weight", (inner // groups, groups)))
    return rows


def delta_net(h: HParams, *, fused: bool) -> list[NamedShape]:
    """List the tensors of a gated delta net; `fused`: `beta` and `alpha` are one matrix, not two
    (Qwen3-Next)."""
    state, groups = h.number("ssm.state_size"), h.number("ssm.group_count")
    heads = h.number("ssm.time_step_rank")
    keys, values = state * groups, state * heads
    rows: list[NamedShape] = [
        ("attn_qkv.weight", (h.width, 2 * keys + values)),
        ("attn_gate.weight", (h.width, values)),
        ("ssm_conv1d.weight", (h.number("ssm.conv_kernel"), 2 * keys + values)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (heads,)),
        ("ssm_norm.weight", (state,)),
        ("ssm_out.weight", (values, h.width)),
    ]
    if fused:
        return [*rows, ("ssm_ba.weight", (h.width, 2 * heads))]
    return [
        *rows,
        ("ssm_beta.weight", (h.width, heads)),
        ("ssm_alpha.weight", (h.width, heads)),
    ]


def plain_ffn(h: HParams, ff: int, *, bias: bool) -> list[NamedShape]:
    """List a feed-forward part without a gate."""
    rows: list[NamedShape] = [("ffn_up.weight", (h.width, ff)), ("ffn_down.weight", (ff, h.width))]
    return rows + ([("ffn_up.bias", (ff,)), ("ffn_down.bias", (h.width,))] if bias else [])


def per_layer_inputs(h: HParams) -> list[NamedShape]:
    """List the per-layer embeddings of Gemma 3n and 4, where the model has them."""
    per_layer = h.number("embedding_length_per_layer_input", 0)
    if not per_layer:
        return []
    return [
        ("inp_gate.weight", (h.width, per_layer)),
        ("proj.weight", (per_layer, h.width)),
        ("post_norm.weight", (h.width,)),
    ]
