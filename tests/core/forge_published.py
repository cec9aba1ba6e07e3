"""Published models by name. Where a value is not published with the weights it is not used."""

from tests.core.forge import Forged
from tests.core.forge_models import (
    Row,
    attention,
    experts,
    gated,
    gemma,
    head_norms,
    heads,
    llama,
    model,
    moe_keys,
    post_norms,
)

DENSE = (
    llama("Llama-3.1-8B", 128256, width=4096, layers=32, inner=14336, q=32, kv=8,
          context=131072, outside=[("rope_freqs.weight", (64,))]),
    llama("SmolLM2-135M", 49152, width=576, layers=30, inner=1536, q=9, kv=3, context=8192,
          tied=True),
    model("Qwen2.5-3B", "qwen2", 151936,
          lambda i: attention(2048, 2048, 256, bias=True) + gated(2048, 11008),
          width=2048, layers=36, feed_forward=11008, context=32768, tied=True,
          keys=heads(16, 2)),
    model("Qwen3-8B", "qwen3", 151936,
          lambda i: attention(4096, 4096, 1024) + head_norms(128) + gated(4096, 12288),
          width=4096, layers=36, feed_forward=12288, context=40960, keys=heads(32, 8, 128)),
    model("Phi-4", "phi3", 100352,
          lambda i: [("attn_norm.weight", (5120,)), ("attn_qkv.weight", (5120, 7680)),
                     ("attn_output.weight", (5120, 5120)), ("ffn_norm.weight", (5120,)),
                     ("ffn_up.weight", (5120, 35840)), ("ffn_down.weight", (17920, 5120))],
          width=5120, layers=40, feed_forward=17920, context=16384, keys=heads(40, 10, 128)),
    model("command-r-35B", "command-r", 256000,
          lambda i: attention(8192, 8192, 8192) + gated(8192, 22528)[1:],
          width=8192, layers=40, feed_forward=22528, context=131072, tied=True,
          keys={**heads(64, 64, 128), "logit_scale": 0.0625,
                "attention.layer_norm_epsilon": 1e-5}),
    model("StarCoder2-3B", "starcoder2", 49152,
          lambda i: [*attention(3072, 3072, 256, bias=True), ("attn_norm.bias", (3072,)),
                     ("attn_output.bias", (3072,)), ("ffn_norm.weight", (3072,)),
                     ("ffn_norm.bias", (3072,)), ("ffn_up.weight", (3072, 12288)),
                     ("ffn_up.bias", (12288,)), ("ffn_down.weight", (12288, 3072)),
                     ("ffn_down.bias", (3072,))],
          width=3072, layers=30, feed_forward=12288, context=16384, tied=True,
          outside=[("output_norm.bias", (3072,))],
          keys={**heads(24, 2), "attention.layer_norm_epsilon": 1e-5}),
)  # fmt: skip

_OPENELM_Q = [12] * 5 + [16] * 7 + [20] * 4
_OPENELM_FF = [768, 1024, 1280, 1536, 1792, 2048, 2560, 2816, 3072, 3328, 3584, 3840, 4352, 4608,
               4864, 5120]  # fmt: skip


def _openelm(i: int) -> list[Row]:
    q, kv, inner = _OPENELM_Q[i], _OPENELM_Q[i] // 4, _OPENELM_FF[i]
    return [
        ("attn_norm.weight", (1280,)),
        ("attn_qkv.weight", (1280, (q + 2 * kv) * 64)),
        ("attn_output.weight", (q * 64, 1280)),
        *head_norms(64),
        *gated(1280, inner),
    ]


DENSE_VARIED = (
    model("OpenELM-270M", "openelm", 32000, _openelm, width=1280, layers=16,
          feed_forward=_OPENELM_FF, context=2048, tied=True,
          keys=heads(_OPENELM_Q, [q // 4 for q in _OPENELM_Q], 64)),
)  # fmt: skip

SLIDING = (
    gemma("gemma-2-9b", "gemma2", 256000, width=3584, layers=42, inner=14336, q=16, kv=8,
          window=4096),
    gemma("gemma-3-12b", "gemma3", 262208, width=3840, layers=48, inner=15360, q=16, kv=8,
          window=1024, context=131072, normed=True),
    gemma("gemma-3-270m", "gemma3", 262144, width=640, layers=18, inner=2048, q=4, kv=1,
          window=512, context=32768, normed=True),
    model("command-r7b", "cohere2", 256000,
          lambda i: attention(4096, 4096, 1024) + gated(4096, 14336)[1:],
          width=4096, layers=32, feed_forward=14336, context=8192, tied=True,
          keys={**heads(32, 8, 128), "attention.sliding_window": 4096, "logit_scale": 0.25,
                "attention.layer_norm_epsilon": 1e-5}),
    model("gpt-oss-20b", "gpt-oss", 201088,
          lambda i: [*attention(2880, 4096, 512, bias=True), ("attn_output.bias", (2880,)),
                     ("attn_sinks.weight", (64,)), ("post_attention_norm.weight", (2880,)),
                     *experts(2880, 2880, 32)[1:], ("ffn_gate_inp.bias", (32,)),
                     ("ffn_gate_exps.bias", (2880, 32)), ("ffn_up_exps.bias", (2880, 32)),
                     ("ffn_down_exps.bias", (2880, 32))],
          width=2880, layers=24, feed_forward=2880, context=131072,
          keys={**heads(64, 8, 64), **moe_keys(32, 4, 2880), "attention.sliding_window": 128}),
    model("Llama-4-Scout", "llama4", 202048,
          lambda i: attention(5120, 5120, 1024) + experts(5120, 8192, 16, 8192),
          width=5120, layers=48, feed_forward=16384, context=10485760,
          keys={**heads(40, 8, 128), **moe_keys(16, 1, 8192),
                "interleave_moe_layer_step": 1}),
    model("EXAONE-4.0-32B", "exaone4", 102400,
          lambda i: attention(5120, 5120, 1024)[1:] + head_norms(128) + post_norms(5120)
          + gated(5120, 27392)[1:],
          width=5120, layers=64, feed_forward=27392, context=131072,
          keys={**heads(40, 8, 128), "attention.sliding_window": 4096}),
)  # fmt: skip


def _gemma3n(i: int) -> list[Row]:
    return [
        *attention(2048, 2048, 512), *head_norms(256), *post_norms(2048), *gated(2048, 16384),
        ("inp_gate.weight", (2048, 256)), ("proj.weight", (256, 2048)),
        ("post_norm.weight", (2048,)), ("altup_correct_coef.weight", (4, 4)),
        ("altup_correct_scale.weight", (2048,)), ("altup_predict_coef.weight", (4, 16)),
        ("altup_router.weight", (2048, 4)), ("altup_router_norm.weight", (2048,)),
        ("laurel_l.weight", (2048, 64)), ("laurel_r.weight", (64, 2048)),
        ("laurel_post_norm.weight", (2048,)),
    ]  # fmt: skip


SHARED = (
    model("gemma-3n-E4B", "gemma3n", 262144, _gemma3n, width=2048, layers=35,
          feed_forward=16384, context=32768, tied=True,
          outside=[("altup_proj.weight", (2048, 2048, 3)),
                   ("altup_unembd_proj.weight", (2048, 2048, 3)),
                   ("per_layer_token_embd.weight", (256 * 35, 262144)),
                   ("per_layer_model_proj.weight", (2048, 256 * 35)),
                   ("per_layer_proj_norm.weight", (256,))],
          keys={**heads(8, 2, 256), "attention.sliding_window": 512}),
)  # fmt: skip

MIXTURES: tuple[Forged, ...] = (
    model("Mixtral-8x7B", "llama", 32000,
          lambda i: attention(4096, 4096, 1024) + experts(4096, 14336, 8),
          width=4096, layers=32, feed_forward=14336, context=32768,
          keys={**heads(32, 8), "rope.dimension_count": 128, "expert_count": 8,
                "expert_used_count": 2}),
    model("Qwen3-30B-A3B", "qwen3moe", 151936,
          lambda i: attention(2048, 4096, 512) + head_norms(128) + experts(2048, 768, 128),
          width=2048, layers=48, feed_forward=6144, context=40960,
          keys={**heads(32, 4, 128), **moe_keys(128, 8, 768)}),
)  # fmt: skip


def _glm_air(i: int) -> list[Row]:
    inner: list[Row] = gated(4096, 10944) if i == 0 else experts(4096, 1408, 128, 1408)
    rows = [*attention(4096, 12288, 1024, bias=True), ("post_attention_norm.weight", (4096,))]
    if i:
        rows.append(("exp_probs_b.bias", (128,)))
    if i == 46:
        rows += [("nextn.eh_proj.weight", (8192, 4096)), ("nextn.enorm.weight", (4096,))]
        rows.append(("nextn.hnorm.weight", (4096,)))
    return rows + inner[1:]


MIXTURES += (
    model("GLM-4.5-Air", "glm4moe", 151552, _glm_air, width=4096, layers=47,
          feed_forward=10944, context=131072,
          keys={**heads(96, 8, 128), **moe_keys(128, 8, 1408), "expert_shared_count": 1,
                "leading_dense_block_count": 1, "nextn_predict_layers": 1,
                "rope.dimension_count": 64}),
)  # fmt: skip


def _latent(width: int, q: int, dense: int, i: int, first: int, *, q_rank: int = 0,
            moe: tuple[int, int, int]) -> list[Row]:  # fmt: skip
    inner, count, shared = moe
    query: list[Row] = [("attn_q.weight", (width, q * 192))]
    if q_rank:
        query = [("attn_q_a.weight", (width, q_rank)), ("attn_q_a_norm.weight", (q_rank,))]
        query.append(("attn_q_b.weight", (q_rank, q * 192)))
    return [
        ("attn_norm.weight", (width,)), *query,
        ("attn_kv_a_mqa.weight", (width, 576)), ("attn_kv_a_norm.weight", (512,)),
        ("attn_k_b.weight", (128, 512, q)), ("attn_v_b.weight", (512, 128, q)),
        ("attn_output.weight", (q * 128, width)),
        *(gated(width, dense) if i < first else experts(width, inner, count, shared)),
    ]  # fmt: skip


_LATENT = {"attention.kv_lora_rank": 512, "attention.key_length_mla": 192,
           "attention.value_length_mla": 128, "attention.key_length": 576,
           "attention.value_length": 512, "rope.dimension_count": 64}  # fmt: skip
LATENT = (
    model("DeepSeek-V2-Lite", "deepseek2", 102400,
          lambda i: _latent(2048, 16, 10944, i, 1, moe=(1408, 64, 2816)),
          width=2048, layers=27, feed_forward=10944, context=163840,
          keys={**heads(16, 1), **_LATENT, **moe_keys(64, 6, 1408), "expert_shared_count": 2,
                "leading_dense_block_count": 1}),
    model("DeepSeek-V3", "deepseek2", 129280,
          lambda i: _latent(7168, 128, 18432, i, 3, q_rank=1536, moe=(2048, 256, 2048)),
          width=7168, layers=61, feed_forward=18432, context=163840,
          keys={**heads(128, 1), **_LATENT, **moe_keys(256, 8, 2048),
                "attention.q_lora_rank": 1536, "expert_shared_count": 1,
                "leading_dense_block_count": 3, "expert_gating_func": 2,
                "expert_group_count": 8, "expert_group_used_count": 4}),
)  # fmt: skip

EVERY_ATTENTION: tuple[Forged, ...] = (
    *DENSE, *DENSE_VARIED, *SLIDING, *SHARED, *MIXTURES, *LATENT,
)  # fmt: skip
