"""The counts that follow from a model's header."""

import pytest

from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import MetadataValue, ModelSpec, TensorInfo
from localllm.errors import GgufError
from tests.core.forge import Forged, spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

MODELS: dict[str, Forged] = {f.name: f for f in (*EVERY_ATTENTION, *EVERY_RECURRENT)}


def model(architecture: str = "llama", **keys: MetadataValue) -> ModelSpec:
    """A header without tensors."""
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return ModelSpec(
        architecture=architecture,
        metadata={"general.architecture": architecture, **named},
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )


def tensors(*shapes: tuple[str, tuple[int, ...]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, shape=shape, type=GgmlType.F16, offset=0, size_bytes=0)
        for name, shape in shapes
    )


def test_the_parameters_of_opt_350m_are_those_counted_by_hand() -> None:
    # vocabulary twice, positions, two projections, 24 blocks
    blocks = [
        (f"blk.{i}.{name}", shape)
        for i in range(24)
        for name, shape in (("matrices", (1024, 12288)), ("norms", (4096,)))
    ]
    opt = model()
    counted = ModelSpec(
        architecture=opt.architecture,
        metadata=opt.metadata,
        tensors=tensors(
            ("token_embd.weight", (512, 50272)),
            ("output.weight", (512, 50272)),
            ("position_embd.weight", (1024, 2050)),
            ("project_in.weight", (512, 1024)),
            ("project_out.weight", (1024, 512)),
            *blocks,
        ),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )
    assert counted.parameters == 356_714_496


def test_a_dense_model_uses_every_weight_but_the_embedding_table() -> None:
    qwen = spec(MODELS["Qwen3-8B"])
    assert qwen.parameters == 8_190_735_360  # model card: 8.2B, 6.95B without embeddings
    assert qwen.active_parameters == qwen.parameters - 151936 * 4096


def test_a_mixture_uses_only_the_experts_a_token_is_routed_to() -> None:
    qwen = spec(MODELS["Qwen3-30B-A3B"])
    assert qwen.parameters == pytest.approx(30.5e9, rel=0.01)  # model card: 30.5B, 3.3B active
    assert qwen.active_parameters == pytest.approx(3.3e9, rel=0.1)
    assert (qwen.experts, qwen.active_experts) == (128, 8)


def test_a_draft_block_is_counted_and_not_a_layer() -> None:
    glm = spec(MODELS["GLM-4.5-Air"])
    assert (glm.blocks, glm.layers, glm.draft_blocks) == (47, 46, 1)


@pytest.mark.parametrize(
    ("name", "window", "sliding"),
    [
        ("gemma-2-9b", 4096, 21),
        ("gemma-3-12b", 1024, 40),
        ("gpt-oss-20b", 128, 12),
        ("Llama-4-Scout", 8192, 36),
        ("command-r7b", 4096, 24),
        ("EXAONE-4.0-32B", 4096, 48),
        ("gemma-3n-E4B", 512, 28),
        ("Llama-3.1-8B", 0, 0),
        ("Phi-4", 0, 0),
    ],
)
def test_the_layers_that_slide_are_those_of_llama_cpp(name: str, window: int, sliding: int) -> None:
    known = spec(MODELS[name])
    assert known.window == window
    assert sum(known.slides(i) for i in range(known.layers)) == sliding


def test_a_pattern_in_the_header_goes_before_the_architectures_own() -> None:
    pattern = [True, False, False, True]
    gemma = model(
        "gemma3",
        block_count=4,
        attention__sliding_window=512,
        attention__sliding_window_pattern=pattern,
    )
    assert [gemma.slides(i) for i in range(4)] == pattern


def test_llama_4_without_a_window_does_not_slide() -> None:
    plain = model("llama4", block_count=4, attention__sliding_window=0)
    assert plain.window == 0
    assert not plain.slides(0)


@pytest.mark.parametrize(
    ("name", "recurrent", "attending"),
    [
        ("mamba-2.8b", 64, 0),
        ("Jamba-v0.1", 28, 4),
        ("LFM2-1.2B", 10, 6),
        ("granite-4.0-h-tiny", 36, 4),
        ("Nemotron-H-8B", 24, 4),
        ("Qwen3-Next-80B-A3B", 36, 12),
        ("Falcon-H1-1.5B", 24, 24),
        ("bge-large-en", 0, 0),
    ],
)
def test_hybrids_say_which_layers_carry_a_state(name: str, recurrent: int, attending: int) -> None:
    hybrid = spec(MODELS[name])
    layers = range(hybrid.layers)
    assert sum(hybrid.recurrent(i) for i in layers) == recurrent
    assert sum(hybrid.attends(i) for i in layers) == attending


def test_the_last_layers_of_gemma_3n_share_their_cache() -> None:
    gemma = spec(MODELS["gemma-3n-E4B"])
    assert [i for i in range(35) if gemma.caches(i)] == list(range(20))
    assert all(gemma.attends(i) for i in range(35))


def test_head_counts_may_differ_from_layer_to_layer() -> None:
    openelm = spec(MODELS["OpenELM-270M"])
    assert [openelm.head_count(i) for i in (0, 5, 15)] == [12, 16, 20]
    assert [openelm.head_count_kv(i) for i in (0, 5, 15)] == [3, 4, 5]
    assert openelm.key_length(0) == openelm.value_length(0) == 64


def test_a_head_is_the_width_by_the_heads_unless_the_header_says_otherwise() -> None:
    assert model(embedding_length=4096, attention__head_count=32).key_length(0) == 128
    stated = model(embedding_length=4096, attention__head_count=32, attention__key_length=192)
    assert (stated.key_length(0), stated.value_length(0)) == (192, 128)


def test_the_vocabulary_is_the_token_list_then_the_count_then_the_embedding() -> None:
    assert spec(MODELS["Llama-3.1-8B"]).vocabulary == 128256
    listed = ModelSpec(
        architecture="llama",
        metadata={"tokenizer.ggml.tokens": ["a", "b", "c"], "llama.vocab_size": 9},
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )
    assert listed.vocabulary == 3


def test_labels_come_from_the_file_and_unknown_ones_are_none() -> None:
    labelled = ModelSpec(
        architecture="llama",
        metadata={
            "general.name": "Some Model",
            "general.license": "apache-2.0",
            "general.file_type": 15,
            "tokenizer.chat_template": "{{ messages }}",
        },
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )
    assert labelled.name == "Some Model"
    assert labelled.license == "apache-2.0"
    assert labelled.quant == "Q4_K_M"
    assert labelled.chat_template == "{{ messages }}"
    assert model().quant is None
    assert model().name is None


@pytest.mark.parametrize(
    "value",
    ["many", -1, 2.5, ["a"], 0, 100_000],
    ids=["text", "negative", "fraction", "array", "zero", "too many"],
)
def test_a_block_count_that_cannot_be_is_refused(value: MetadataValue) -> None:
    with pytest.raises(GgufError, match="block_count"):
        _ = model(block_count=value).blocks


def test_a_missing_width_is_named() -> None:
    with pytest.raises(GgufError, match=r"llama\.embedding_length"):
        _ = model(block_count=2).embedding


def test_every_forged_architecture_is_known() -> None:
    assert all(spec(forged).arch.known for forged in MODELS.values())
