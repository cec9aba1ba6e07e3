"""Adapters against a model: those that pass, their bytes, and the reasons for a refusal."""

from dataclasses import replace

import pytest

from localllm.core.model.quants import GgmlType, row_bytes
from localllm.core.model.spec import MetadataValue, ModelSpec, TensorInfo
from localllm.core.sizing import footprint
from localllm.core.sizing.load import LoadSettings, Lora
from localllm.core.sizing.lora import lora_of
from tests.core import forge
from tests.core.forge_models import attention, experts, heads, llama, model, moe_keys

Shapes = dict[str, tuple[int, ...]]
RANK = 8
MODEL = forge.spec(llama("tiny", 1000, width=64, layers=3, inner=96, q=4, kv=2, context=512))
KEYS: dict[str, MetadataValue] = {
    "general.architecture": "llama",
    "general.type": "adapter",
    "adapter.type": "lora",
    "adapter.lora.alpha": 16.0,
}


def adapter(shapes: Shapes, kind: GgmlType = GgmlType.F32, **keys: MetadataValue) -> ModelSpec:
    metadata = KEYS | {name.replace("__", "."): value for name, value in keys.items()}
    tensors = tuple(
        TensorInfo(name=name, shape=shape, type=kind, offset=0, size_bytes=_bytes(shape, kind))
        for name, shape in shapes.items()
    )
    return replace(MODEL, metadata=metadata, tensors=tensors)


def _bytes(shape: tuple[int, ...], kind: GgmlType) -> int:
    rows = 1
    for side in shape[1:]:
        rows *= side
    return row_bytes(kind, shape[0]) * rows


def pair(name: str, inner: int, outer: int, rank: int = RANK, *more: int) -> Shapes:
    return {f"{name}.lora_a": (inner, rank, *more), f"{name}.lora_b": (rank, outer, *more)}


QUERY = pair("blk.1.attn_q.weight", 64, 64)


def passed(header: ModelSpec, spec: ModelSpec = MODEL) -> Lora:
    return lora_of(header, spec, path="adapter.gguf", scale=0.5)


def test_an_adapter_is_weighed_by_where_its_weights_lie() -> None:
    shapes = QUERY | pair("blk.2.ffn_down.weight", 96, 64) | pair("output.weight", 64, 1000)
    shapes |= {"token_embd.weight.lora_a": (RANK, 1000), "token_embd.weight.lora_b": (RANK, 64)}
    lora = passed(adapter(shapes))
    assert lora.layer_bytes == (0, 4 * RANK * (64 + 64), 4 * RANK * (96 + 64))
    assert lora.output_bytes == lora.input_bytes == 4 * RANK * 1064
    assert lora.scale == 0.5
    assert lora.pairs == ((RANK, 64), (RANK, 1000))


def test_experts_have_a_pair_for_each() -> None:
    spec = forge.spec(
        model(
            "moe", "llama", 1000,
            lambda i: attention(64, 64, 32) + experts(64, 96, 4),
            width=64, layers=2, feed_forward=96, context=512,
            keys={**heads(4, 2), "rope.dimension_count": 16, **moe_keys(4, 2, 96)},
        )
    )  # fmt: skip
    lora = passed(adapter(pair("blk.0.ffn_up_exps.weight", 64, 96, RANK, 4)), spec)
    assert lora.layer_bytes[0] == 4 * 4 * RANK * (64 + 96)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (adapter(QUERY, general__type="model"), "of type 'model', not an adapter"),
        (adapter(QUERY, adapter__type="ia3"), "of type 'ia3'"),
        (replace(adapter(QUERY), architecture="qwen3"), "made for a qwen3 model"),
        (adapter(QUERY, adapter__alora__invocation_tokens=(1, 2)), "activated LoRA"),
        (adapter(QUERY, adapter__lora__alpha=float("nan")), "not a finite number"),
        (adapter(QUERY, adapter__lora__alpha=16), "not a finite number"),
        (adapter({}), "no .lora_a and .lora_b"),
        (adapter({"blk.0.attn_norm.weight": (64,)}), "no .lora_a and .lora_b"),
        (adapter(QUERY | {"blk.0.attn_q.bias": (64,)}), "neither a .lora_a nor"),
        (adapter(pair("blk.0.attn_q.weight.lora_a", 64, 64)), "neither a .lora_a nor"),
        (adapter({"blk.1.attn_q.weight.lora_a": (64, RANK)}), "only one of"),
        (adapter(pair("blk.3.attn_q.weight", 64, 64)), "which this model does not have"),
        (adapter(pair("blk.1.attn_q.weight", 32, 64)), "the weight is 64 x 64"),
        (adapter(pair("blk.1.attn_q.weight", 64, 128)), "8 x 128, and the weight is 64 x 64"),
        (adapter(pair("blk.1.attn_q.weight", 64, 64, RANK, 2)), "64 x 8 x 2"),
        (adapter(pair("blk.1.attn_norm.weight", 64, 64)), "the weight is 64:"),
        (
            adapter({"blk.1.attn_q.weight.lora_a": (64, 8), "blk.1.attn_q.weight.lora_b": (4, 64)}),
            "64 x 8 and 4 x 64",
        ),
        (adapter(QUERY, GgmlType.I32), "is I32 beside"),
        (adapter(pair("token_embd.weight", 64, 1000)), "token_embd.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_one_sentence(header: ModelSpec, reason: str) -> None:
    from localllm.errors import GgufError

    with pytest.raises(GgufError) as refused:
        passed(header)
    assert reason in str(refused.value)


def test_an_embedding_that_is_also_the_output_cannot_be_adapted() -> None:
    from localllm.errors import GgufError

    tied = forge.spec(
        llama("tied", 1000, width=64, layers=1, inner=96, q=4, kv=2, context=512, tied=True)
    )
    shapes: Shapes = {
        "token_embd.weight.lora_a": (RANK, 1000),
        "token_embd.weight.lora_b": (RANK, 64),
    }
    with pytest.raises(GgufError, match="also this model's output matrix"):
        passed(adapter(shapes), tied)


def test_adapters_are_counted_in_the_footprint_and_beside_their_layers() -> None:
    lora = passed(adapter(QUERY))
    plain = LoadSettings(context=256)
    adapted = replace(plain, loras=(lora, lora))
    without, with_two = footprint.of(MODEL, plain), footprint.of(MODEL, adapted)
    assert with_two.adapter_bytes == 2 * lora.size_bytes
    added_scratch = with_two.compute_bytes - without.compute_bytes
    assert 0 <= added_scratch <= 256 * 4 * 2 * (RANK + 64)
    assert with_two.total_bytes - without.total_bytes == 2 * lora.size_bytes + added_scratch
    parts = zip(footprint.layers(MODEL, adapted), footprint.layers(MODEL, plain), strict=True)
    added = [each.weights_bytes - bare.weights_bytes for each, bare in parts]
    assert added == [0, 0, 2 * lora.size_bytes, 0, 0]
