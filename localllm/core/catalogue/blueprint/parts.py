"""The building blocks of layers: attention, feed-forward, experts, state spaces.

Names and shapes follow `load_arch_tensors` in the files of llama.cpp's `src/models/`; optional
tensors appear where the published files carry them.
"""

from localllm.core.catalogue.blueprint.shape import Layer, Shape

Row = tuple[str, tuple[int, ...]]
"""A tensor's name, without its layer, and its shape in ggml order."""

# llama-hparams.h: n_altup and laurel_rank are constants, not header keys.
ALTUP = 4
LAUREL = 64


def norms(width: int, *names: str) -> list[Row]:
    """One weight per name, `width` long."""
    return [(f"{name}.weight", (width,)) for name in names]


def attention(s: Shape, a: Layer, *, gated: bool = False) -> list[Row]:
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
        rows += norms(s.head_size(a), "attn_q_norm", "attn_k_norm")
    return rows


def fused_attention(s: Shape, a: Layer) -> list[Row]:
    """Query, key and value in one matrix."""
    size = s.head_size(a)
    return [
        ("attn_qkv.weight", (s.width, size * (a.heads + 2 * a.kv_heads))),
        ("attn_output.weight", (size * a.heads, s.width)),
    ]


def swiglu(s: Shape, ff: int, suffix: str = "") -> list[Row]:
    """A gated feed-forward; `suffix` tells a shared expert's from the plain one."""
    return [
        (f"ffn_gate{suffix}.weight", (s.width, ff)),
        (f"ffn_up{suffix}.weight", (s.width, ff)),
        (f"ffn_down{suffix}.weight", (ff, s.width)),
    ]


def experts(s: Shape, a: Layer) -> list[Row]:
    """Router, routed experts and, where there are any, shared ones."""
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
    count = s.number("expert_shared_count", s.arch.shared_experts)
    shared = s.number("expert_shared_feed_forward_length", ff * count)
    return rows + (swiglu(s, shared, "_shexp") if shared else [])


def feed_forward(s: Shape, a: Layer) -> list[Row]:
    """Experts or a gated feed-forward, as the layer has it."""
    return experts(s, a) if a.experts else swiglu(s, a.ff)


def mamba2(s: Shape) -> list[Row]:
    """A state space (Mamba 2)."""
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


def delta_net(s: Shape, *, fused: bool) -> list[Row]:
    """Gated delta net; `fused`: `beta` and `alpha` are one matrix (Qwen3-Next), not two."""
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
    if fused:
        return [*rows, ("ssm_ba.weight", (s.width, 2 * heads))]
    return [
        *rows,
        ("ssm_beta.weight", (s.width, heads)),
        ("ssm_alpha.weight", (s.width, heads)),
    ]


def plain_ffn(s: Shape, ff: int, *, bias: bool) -> list[Row]:
    """A feed-forward without a gate."""
    rows: list[Row] = [("ffn_up.weight", (s.width, ff)), ("ffn_down.weight", (ff, s.width))]
    return rows + ([("ffn_up.bias", (ff,)), ("ffn_down.bias", (s.width,))] if bias else [])


def per_layer_inputs(s: Shape) -> list[Row]:
    """The per-layer embeddings of Gemma 3n and 4, where the model has them."""
    per_layer = s.number("embedding_length_per_layer_input", 0)
    if not per_layer:
        return []
    return [
        ("inp_gate.weight", (s.width, per_layer)),
        ("proj.weight", (per_layer, s.width)),
        ("post_norm.weight", (s.width,)),
    ]
