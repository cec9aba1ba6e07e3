"""The forge's models: hyperparameters as their publishers state them (config.json), tensors as
llama.cpp b11434 loads them (`load_arch_tensors` in `src/models/*.cpp`)."""

from collections.abc import Callable, Iterable

from localllm.core.model.spec import MetadataValue
from tests.core.forge import Forged

Row = tuple[str, tuple[int, ...]]
Keys = dict[str, MetadataValue]
NORM: Keys = {"attention.layer_norm_rms_epsilon": 1e-6}


def model(
    name: str,
    architecture: str,
    vocabulary: int,
    layer: Callable[[int], Iterable[Row]],
    *,
    width: int,
    layers: int,
    feed_forward: MetadataValue,
    context: int,
    outside: Iterable[Row] = (),
    tied: bool = False,
    norm: str = "output_norm",
    keys: Keys,
    general: Keys | None = None,
) -> Forged:
    rows: list[Row] = [("token_embd.weight", (width, vocabulary))]
    if norm:
        rows.append((f"{norm}.weight", (width,)))
    if not tied:
        rows.append(("output.weight", (width, vocabulary)))
    rows += list(outside)
    for i in range(layers):
        rows += [(f"blk.{i}.{part}", shape) for part, shape in layer(i)]
    return Forged(
        name=name,
        architecture=architecture,
        vocabulary=vocabulary,
        tensors=tuple(rows),
        general=general or {},
        keys={
            **({} if "attention.layer_norm_epsilon" in keys else NORM),
            "block_count": layers,
            "embedding_length": width,
            "feed_forward_length": feed_forward,
            "context_length": context,
            **keys,
        },
    )


def heads(count: MetadataValue, kv: MetadataValue, length: int | None = None) -> Keys:
    keys: Keys = {"attention.head_count": count, "attention.head_count_kv": kv}
    if length is not None:
        keys |= {"attention.key_length": length, "attention.value_length": length}
        keys["rope.dimension_count"] = length
    return keys


def attention(width: int, q: int, kv: int, *, bias: bool = False) -> list[Row]:
    rows: list[Row] = [
        ("attn_norm.weight", (width,)),
        ("attn_q.weight", (width, q)),
        ("attn_k.weight", (width, kv)),
        ("attn_v.weight", (width, kv)),
        ("attn_output.weight", (q, width)),
    ]
    if bias:
        rows += [("attn_q.bias", (q,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,))]
    return rows


def gated(width: int, inner: int) -> list[Row]:
    return [
        ("ffn_norm.weight", (width,)),
        ("ffn_gate.weight", (width, inner)),
        ("ffn_up.weight", (width, inner)),
        ("ffn_down.weight", (inner, width)),
    ]


def experts(width: int, inner: int, count: int, shared: int = 0) -> list[Row]:
    rows: list[Row] = [
        ("ffn_norm.weight", (width,)),
        ("ffn_gate_inp.weight", (width, count)),
        ("ffn_gate_exps.weight", (width, inner, count)),
        ("ffn_up_exps.weight", (width, inner, count)),
        ("ffn_down_exps.weight", (inner, width, count)),
    ]
    if shared:
        rows += [
            ("ffn_gate_shexp.weight", (width, shared)),
            ("ffn_up_shexp.weight", (width, shared)),
            ("ffn_down_shexp.weight", (shared, width)),
        ]
    return rows


def head_norms(length: int) -> list[Row]:
    return [("attn_q_norm.weight", (length,)), ("attn_k_norm.weight", (length,))]


def post_norms(width: int) -> list[Row]:
    return [("post_attention_norm.weight", (width,)), ("post_ffw_norm.weight", (width,))]


def llama(
    name: str,
    vocabulary: int,
    *,
    width: int,
    layers: int,
    inner: int,
    q: int,
    kv: int,
    context: int,
    tied: bool = False,
    outside: Iterable[Row] = (),
) -> Forged:
    length = width // q
    return model(
        name, "llama", vocabulary,
        lambda i: attention(width, q * length, kv * length) + gated(width, inner),
        width=width, layers=layers, feed_forward=inner, context=context, tied=tied,
        outside=outside, keys={**heads(q, kv), "rope.dimension_count": length},
    )  # fmt: skip


def moe_keys(count: int, used: int, inner: int) -> Keys:
    return {
        "expert_count": count,
        "expert_used_count": used,
        "expert_feed_forward_length": inner,
    }


def ssm_keys(conv: int, inner: int, state: int, rank: int, groups: int | None = None) -> Keys:
    keys: Keys = {
        "ssm.conv_kernel": conv,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return keys if groups is None else {**keys, "ssm.group_count": groups}


def mamba1(width: int, inner: int, state: int, rank: int, *, norms: bool = False) -> list[Row]:
    rows: list[Row] = [
        ("attn_norm.weight", (width,)),
        ("ssm_in.weight", (width, 2 * inner)),
        ("ssm_conv1d.weight", (4, inner)),
        ("ssm_conv1d.bias", (inner,)),
        ("ssm_x.weight", (inner, rank + 2 * state)),
        ("ssm_dt.weight", (rank, inner)),
        ("ssm_dt.bias", (inner,)),
        ("ssm_a", (state, inner)),
        ("ssm_d", (inner,)),
        ("ssm_out.weight", (inner, width)),
    ]
    if norms:
        rows += [("ssm_dt_norm.weight", (rank,)), ("ssm_b_norm.weight", (state,))]
        rows.append(("ssm_c_norm.weight", (state,)))
    return rows


def mamba2(width: int, inner: int, state: int, rank: int, groups: int) -> list[Row]:
    channels = inner + 2 * groups * state
    return [
        ("attn_norm.weight", (width,)),
        ("ssm_in.weight", (width, inner + channels + rank)),
        ("ssm_conv1d.weight", (4, channels)),
        ("ssm_conv1d.bias", (channels,)),
        ("ssm_dt.bias", (rank,)),
        ("ssm_a", (1, rank)),
        ("ssm_d", (1, rank)),
        ("ssm_norm.weight", (inner // groups, groups)),
        ("ssm_out.weight", (inner, width)),
    ]


def gemma(
    name: str, architecture: str, vocabulary: int, *, width: int, layers: int, inner: int,
    q: int, kv: int, window: int, context: int = 8192, normed: bool = False,
) -> Forged:  # fmt: skip
    extra = head_norms(256) if normed else []
    return model(
        name, architecture, vocabulary,
        lambda i: attention(width, q * 256, kv * 256) + extra + post_norms(width)
        + gated(width, inner),
        width=width, layers=layers, feed_forward=inner, context=context, tied=True,
        keys={**heads(q, kv, 256), "attention.sliding_window": window},
    )  # fmt: skip
