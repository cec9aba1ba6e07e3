"""Published recurrent, hybrid and encoder models of the forge."""

from tests.core.forge import Forged
from tests.core.forge_models import (
    NORM,
    Row,
    attention,
    experts,
    gated,
    head_norms,
    heads,
    mamba1,
    mamba2,
    model,
    moe_keys,
    ssm_keys,
)


def _rwkv6(i: int) -> list[Row]:
    n, inner = 2048, 7168
    return [
        *((f"{name}.{kind}", (n,)) for name in ("attn_norm", "attn_norm_2", "time_mix_ln")
          for kind in ("weight", "bias")),
        ("time_mix_w1.weight", (n, 160)), ("time_mix_w2.weight", (32, n, 5)),
        ("time_mix_lerp_x.weight", (n, 1, 1)), ("time_mix_lerp_fused.weight", (n, 1, 1, 5)),
        ("time_mix_first.weight", (64, n // 64)), ("time_mix_decay.weight", (n,)),
        ("time_mix_decay_w1.weight", (n, 64)), ("time_mix_decay_w2.weight", (64, n)),
        *((f"time_mix_{name}.weight", (n, n))
          for name in ("key", "value", "receptance", "gate", "output")),
        ("channel_mix_lerp_k.weight", (n, 1, 1)), ("channel_mix_lerp_r.weight", (n, 1, 1)),
        ("channel_mix_key.weight", (n, inner)), ("channel_mix_value.weight", (inner, n)),
        ("channel_mix_receptance.weight", (n, n)),
    ]  # fmt: skip


def _rwkv7(i: int) -> list[Row]:
    n, inner = 2048, 8192
    value = 64 if i else 96  # the first layer's are loaded and not used
    lora = (("w", 96), ("a", 96), ("v", value))
    return [
        *((f"{name}.{kind}", (n,)) for name in ("attn_norm", "attn_norm_2", "time_mix_ln")
          for kind in ("weight", "bias")),
        *((f"time_mix_{x}0.weight", (n,)) for x, _ in lora),
        *((f"time_mix_{x}1.weight", (n, rank)) for x, rank in lora),
        *((f"time_mix_{x}2.weight", (rank, n)) for x, rank in lora),
        ("time_mix_g1.weight", (n, 256)), ("time_mix_g2.weight", (256, n)),
        ("time_mix_lerp_fused.weight", (n, 1, 1, 6)),
        *((f"time_mix_{x}.weight", (n,)) for x in ("k_k", "k_a", "r_k")),
        *((f"time_mix_{x}.weight", (n, n)) for x in ("key", "value", "receptance", "output")),
        ("channel_mix_lerp_k.weight", (n, 1, 1)),
        ("channel_mix_key.weight", (n, inner)), ("channel_mix_value.weight", (inner, n)),
    ]  # fmt: skip


_RWKV_OUTSIDE: list[Row] = [
    ("token_embd_norm.weight", (2048,)), ("token_embd_norm.bias", (2048,)),
    ("output_norm.bias", (2048,)),
]  # fmt: skip

RECURRENT = (
    model("mamba-2.8b", "mamba", 50280, lambda i: mamba1(2560, 5120, 16, 160),
          width=2560, layers=64, feed_forward=0, context=1048576, tied=True,
          keys={**heads(0, 0), **ssm_keys(4, 5120, 16, 160)}),
    model("Mamba-Codestral-7B", "mamba2", 32768, lambda i: mamba2(4096, 8192, 128, 128, 8),
          width=4096, layers=64, feed_forward=0, context=1048576,
          keys={**heads(0, 0), **ssm_keys(4, 8192, 128, 128, 8)}),
    model("RWKV-6-Finch-1.6B", "rwkv6", 65536, _rwkv6, width=2048, layers=24,
          feed_forward=7168, context=1048576, outside=_RWKV_OUTSIDE,
          keys={**heads(0, 0), "wkv.head_size": 64, "time_mix_extra_dim": 32,
                "time_decay_extra_dim": 64, "rescale_every_n_layers": 6,
                "attention.layer_norm_epsilon": 1e-5}),
    model("RWKV-7-Goose-1.5B", "rwkv7", 65536, _rwkv7, width=2048, layers=24,
          feed_forward=8192, context=1048576, outside=_RWKV_OUTSIDE,
          keys={**heads(0, 0), "wkv.head_size": 64, "attention.decay_lora_rank": 96,
                "attention.iclr_lora_rank": 96, "attention.value_residual_mix_lora_rank": 64,
                "attention.gate_lora_rank": 256, "attention.layer_norm_epsilon": 1e-5}),
)  # fmt: skip


def _jamba(i: int) -> list[Row]:
    mixer = attention(4096, 4096, 1024) if i % 8 == 4 else mamba1(4096, 8192, 16, 256, norms=True)
    return mixer + (experts(4096, 14336, 16) if i % 2 else gated(4096, 14336))


_GRANITE_ATTENTION = (5, 15, 25, 35)
_LFM2_ATTENTION = (2, 5, 8, 10, 12, 14)
_NEMOTRON = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"


def _granite(i: int) -> list[Row]:
    attends = i in _GRANITE_ATTENTION
    mixer = attention(1536, 1536, 512) if attends else mamba2(1536, 3072, 128, 48, 1)
    return mixer + experts(1536, 512, 64, 1024)


def _lfm2(i: int) -> list[Row]:
    if i in _LFM2_ATTENTION:
        return [*attention(2048, 2048, 512), *head_norms(64), *gated(2048, 8192)]
    return [
        ("attn_norm.weight", (2048,)), ("shortconv.conv.weight", (3, 2048)),
        ("shortconv.in_proj.weight", (2048, 6144)), ("shortconv.out_proj.weight", (2048, 2048)),
        *gated(2048, 8192),
    ]  # fmt: skip


def _nemotron(i: int) -> list[Row]:
    kind = _NEMOTRON[i]
    if kind == "M":
        return mamba2(4096, 8192, 128, 128, 8)
    if kind == "*":
        return attention(4096, 4096, 1024)
    return [("attn_norm.weight", (4096,)), ("ffn_up.weight", (4096, 21504)),
            ("ffn_down.weight", (21504, 4096))]  # fmt: skip


def _qwen3next(i: int) -> list[Row]:
    tail: list[Row] = [
        ("post_attention_norm.weight", (2048,)), *experts(2048, 512, 512, 512)[1:],
        ("ffn_gate_inp_shexp.weight", (2048,)),
    ]  # fmt: skip
    if i % 4 == 3:
        q_and_gate = attention(2048, 4096, 512)
        q_and_gate[1] = ("attn_q.weight", (2048, 8192))
        return [*q_and_gate, *head_norms(256), *tail]
    return [
        ("attn_norm.weight", (2048,)), ("attn_qkv.weight", (2048, 8192)),
        ("attn_gate.weight", (2048, 4096)), ("ssm_conv1d.weight", (4, 8192)),
        ("ssm_dt.bias", (32,)), ("ssm_a", (32,)), ("ssm_ba.weight", (2048, 64)),
        ("ssm_norm.weight", (128,)), ("ssm_out.weight", (4096, 2048)), *tail,
    ]  # fmt: skip


def _falcon(i: int) -> list[Row]:
    both = mamba2(2048, 3072, 256, 48, 1)[1:] + attention(2048, 1024, 256)
    rows = [row for row in both if row[0] != "ssm_norm.weight"] + gated(2048, 4096)
    return [("ffn_norm" if name == "ffn_norm.weight" else name, shape) for name, shape in rows]


def _per_layer(layers: int, kv: int, attends: tuple[int, ...]) -> list[int]:
    return [kv if i in attends else 0 for i in range(layers)]


HYBRID = (
    model("Jamba-v0.1", "jamba", 65536, _jamba, width=4096, layers=32, feed_forward=14336,
          context=262144,
          keys={**heads(32, _per_layer(32, 8, (4, 12, 20, 28))), "expert_count": 16,
                "expert_used_count": 2, **ssm_keys(4, 8192, 16, 256)}),
    model("granite-4.0-h-tiny", "granitehybrid", 100352, _granite, width=1536, layers=40,
          feed_forward=512, context=131072, tied=True,
          keys={**heads(12, _per_layer(40, 4, _GRANITE_ATTENTION)), **moe_keys(64, 6, 512),
                "expert_shared_feed_forward_length": 1024, "rope.dimension_count": 128,
                **ssm_keys(4, 3072, 128, 48, 1)}),
    model("LFM2-1.2B", "lfm2", 65536, _lfm2, width=2048, layers=16, feed_forward=8192,
          context=128000, tied=True, norm="token_embd_norm",
          keys={**heads(32, _per_layer(16, 8, _LFM2_ATTENTION)), "shortconv.l_cache": 3}),
    model("Nemotron-H-8B", "nemotron_h", 131072, _nemotron, width=4096, layers=52,
          feed_forward=[21504 if kind == "-" else 0 for kind in _NEMOTRON], context=8192,
          keys={**heads(32, [8 if kind == "*" else 0 for kind in _NEMOTRON], 128),
                **NORM, "attention.layer_norm_epsilon": 1e-5,
                **ssm_keys(4, 8192, 128, 128, 8)}),
    model("Qwen3-Next-80B-A3B", "qwen3next", 151936, _qwen3next, width=2048, layers=48,
          feed_forward=5120, context=262144,
          keys={**heads(16, 2, 256), "rope.dimension_count": 64, **moe_keys(512, 10, 512),
                "expert_shared_feed_forward_length": 512, **ssm_keys(4, 4096, 128, 32, 16)}),
    model("Falcon-H1-1.5B", "falcon-h1", 65537, _falcon, width=2048, layers=24,
          feed_forward=4096, context=131072,
          keys={**heads(8, 2, 128), **ssm_keys(4, 3072, 256, 48, 1)}),
)  # fmt: skip


def _bert(i: int) -> list[Row]:
    n, inner = 1024, 4096
    names = ("attn_q", "attn_k", "attn_v", "attn_output")
    return [
        *((f"{name}.weight", (n, n)) for name in names),
        *((f"{name}.bias", (n,)) for name in names),
        *((f"{name}.{kind}", (n,)) for name in ("attn_output_norm", "layer_output_norm")
          for kind in ("weight", "bias")),
        ("ffn_up.weight", (n, inner)), ("ffn_up.bias", (inner,)),
        ("ffn_down.weight", (inner, n)), ("ffn_down.bias", (n,)),
    ]  # fmt: skip


ENCODERS = (
    model("bge-large-en", "bert", 30522, _bert, width=1024, layers=24, feed_forward=4096,
          context=512, tied=True, norm="",
          outside=[("position_embd.weight", (1024, 512)), ("token_types.weight", (1024, 2)),
                   ("token_embd_norm.weight", (1024,)), ("token_embd_norm.bias", (1024,))],
          keys={**heads(16, 16), "attention.layer_norm_epsilon": 1e-12,
                "attention.causal": False, "pooling_type": 2},
          general={"tokenizer.ggml.token_type_count": 2}),
)  # fmt: skip

EVERY_RECURRENT: tuple[Forged, ...] = (*RECURRENT, *HYBRID, *ENCODERS)

ENCODER = next(forged for forged in EVERY_RECURRENT if forged.architecture == "bert")
"""A model that only embeds."""
