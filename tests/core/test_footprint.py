"""The sums of a footprint: parts, monotony, refusals, and figures that llama.cpp's users logged."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint import Footprint, LayerKind
from localllm.core.sizing.footprint.arena import Graph
from localllm.core.sizing.load import FlashAttention, Graphs, KvType, LoadSettings
from localllm.errors import GgufError, UsageError
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

MODELS = {forged.name: spec(forged) for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
MIB = 2**20
BITS = {
    KvType.F32: 32,
    KvType.F16: 16,
    KvType.BF16: 16,
    KvType.Q8_0: 8.5,
    KvType.Q5_1: 6,
    KvType.Q5_0: 5.5,
    KvType.Q4_1: 5,
    KvType.Q4_0: 4.5,
    KvType.IQ4_NL: 4.5,
}

names = st.sampled_from(sorted(MODELS))
loads = st.builds(
    LoadSettings,
    context=st.integers(1, 70_000),
    parallel=st.integers(1, 8),
    ubatch=st.integers(1, 1024),
    swa_full=st.booleans(),
    kv_unified=st.booleans(),
    mmap=st.booleans(),
)


def test_every_part_of_a_footprint_has_a_label() -> None:
    sizes = [field.name for field in fields(Footprint) if field.name.endswith("_bytes")]
    assert sorted(part.field for part in footprint.PARTS) == sorted(sizes)
    assert len({part.label for part in footprint.PARTS}) == len(footprint.PARTS)


@settings(max_examples=60, deadline=None)
@given(names, loads)
@pytest.mark.smoke
def test_the_parts_sum_to_the_total(name: str, load: LoadSettings) -> None:
    whole = footprint.of(MODELS[name], load)
    layers = footprint.layers(MODELS[name], load)
    assert sum(part.weights_bytes + part.expert_bytes for part in layers) == whole.weights_bytes
    assert sum(part.kv_bytes for part in layers) == whole.kv_bytes
    assert sum(part.recurrent_bytes for part in layers) == whole.recurrent_bytes
    assert [part.kind for part in layers] == [
        LayerKind.INPUT,
        *[LayerKind.REPEATING] * MODELS[name].layers,
        LayerKind.OUTPUT,
    ]


@settings(max_examples=60, deadline=None)
@given(names, loads, st.integers(1, 5000))
def test_more_context_never_needs_less_cache(name: str, load: LoadSettings, more: int) -> None:
    longer = replace(load, context=load.context + more)
    short, long = footprint.of(MODELS[name], load), footprint.of(MODELS[name], longer)
    assert long.kv_bytes >= short.kv_bytes
    assert long.recurrent_bytes == short.recurrent_bytes


@settings(max_examples=60, deadline=None)
@given(names, loads)
def test_one_more_sequence_never_needs_less(name: str, load: LoadSettings) -> None:
    one, two = (
        footprint.of(MODELS[name], replace(load, parallel=n))
        for n in (load.parallel, load.parallel + 1)
    )
    assert two.kv_bytes >= one.kv_bytes
    assert two.recurrent_bytes >= one.recurrent_bytes
    assert two.output_bytes > one.output_bytes


@settings(max_examples=60, deadline=None)
@given(names, loads, st.sampled_from(sorted(BITS)), st.sampled_from(sorted(BITS)))
def test_more_bits_never_need_less_cache(
    name: str, load: LoadSettings, a: KvType, b: KvType
) -> None:
    low, high = sorted((a, b), key=lambda kind: BITS[kind])
    try:
        small, large = (
            footprint.of(MODELS[name], replace(load, kv_type_k=kind, kv_type_v=kind)).kv_bytes
            for kind in (low, high)
        )
    except UsageError:  # Phi-4: llama.cpp would abort (footprint/graph.py)
        reject()
    assert small <= large


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["llama", "gemma3", "jamba", "deepseek2", "rwkv6", "bert", "nothing-known"]),
    st.dictionaries(
        st.sampled_from(
            [
                "block_count",
                "embedding_length",
                "context_length",
                "feed_forward_length",
                "attention.head_count",
                "attention.head_count_kv",
                "attention.key_length",
                "attention.sliding_window",
                "attention.sliding_window_pattern",
                "expert_count",
                "ssm.conv_kernel",
                "nextn_predict_layers",
            ]
        ),
        st.one_of(
            st.integers(-5, 600),
            st.booleans(),
            st.text(max_size=3),
            st.floats(allow_nan=False),
            st.lists(st.integers(0, 9), max_size=5),
        ),
    ),
    loads,
)
def test_a_nonsense_header_is_refused_by_name_or_sized(
    architecture: str, keys: dict[str, MetadataValue], load: LoadSettings
) -> None:
    nonsense = ModelSpec(
        architecture=architecture,
        metadata={f"{architecture}.{key}": value for key, value in keys.items()},
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )
    try:
        assert footprint.of(nonsense, load).total_bytes > 0
    except (GgufError, UsageError) as error:
        assert str(error)


def test_an_unknown_architecture_is_said_to_be_unknown() -> None:
    known = MODELS["Llama-3.1-8B"]
    metadata = {k.replace("llama.", "novel."): v for k, v in known.metadata.items()}
    novel = replace(known, architecture="novel", metadata=metadata)
    assert (
        "novel is an architecture that is not known here"
        in footprint.of(novel, LoadSettings()).needs_probe[0]
    )
    assert footprint.of(known, LoadSettings()).needs_probe == ()


def test_an_unconfirmed_compute_buffer_is_marked() -> None:
    (doubt,) = footprint.of(MODELS["gemma-3n-E4B"], LoadSettings()).needs_probe
    assert "compute buffer of gemma3n" in doubt


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        ("Llama-3.1-8B", LoadSettings(context=0), "context is 0"),
        ("Llama-3.1-8B", LoadSettings(parallel=0), "parallel is 0"),
        ("Llama-3.1-8B", LoadSettings(parallel=257), "it must be 1 to 256"),
        ("Llama-3.1-8B", LoadSettings(ubatch=0), "ubatch is 0"),
        (
            "Llama-3.1-8B",
            LoadSettings(kv_type_v=KvType.Q8_0, flash_attention=FlashAttention.OFF),
            "needs flash attention",
        ),
        ("DeepSeek-V3", LoadSettings(kv_type_k=KvType.Q8_0), "choose one cache type"),
    ],
)
def test_settings_that_llama_cpp_refuses_are_refused(
    name: str, load: LoadSettings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        footprint.of(MODELS[name], load)


def test_draft_blocks_are_not_loaded() -> None:
    glm = MODELS["GLM-4.5-Air"]
    whole = sum(tensor.size_bytes for tensor in glm.tensors)
    draft = sum(tensor.size_bytes for tensor in glm.tensors if tensor.layer == 46)
    assert footprint.of(glm, LoadSettings()).weights_bytes == whole - draft
    assert draft > 2 * 10**9


def test_experts_are_apart_from_the_rest_of_a_layer() -> None:
    qwen = MODELS["Qwen3-30B-A3B"]
    layers = footprint.layers(qwen, LoadSettings())
    assert layers[1].expert_bytes > 10 * layers[1].weights_bytes
    assert footprint.layers(MODELS["Qwen3-8B"], LoadSettings())[1].expert_bytes == 0


def test_a_tied_embedding_is_named_at_the_output_and_not_summed() -> None:
    tied = footprint.layers(MODELS["SmolLM2-135M"], LoadSettings())
    assert tied[-1].tied_bytes == tied[0].weights_bytes
    assert footprint.layers(MODELS["Llama-3.1-8B"], LoadSettings())[-1].tied_bytes == 0


def test_the_numbers_that_every_developer_should_know_hold() -> None:
    # "about 1 MB of KV cache per token for a 13B model with full multi-head attention"
    llama2 = ModelSpec(
        architecture="llama",
        metadata={
            "llama.block_count": 40,
            "llama.embedding_length": 5120,
            "llama.attention.head_count": 40,
        },
        tensors=(),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )
    per_token = sum(footprint.cache.kv_bytes(llama2, LoadSettings(context=4096))) / 4096
    assert per_token == pytest.approx(0.8e6, rel=0.03)


@pytest.mark.parametrize(
    ("name", "load", "kv_mib"),
    [
        # rows of data/llamacpp_allocations.csv, the models of which are in the forge
        ("Qwen3-30B-A3B", LoadSettings(context=70016), 6564.0),
        ("command-r-35B", LoadSettings(context=4096), 5120.0),
        ("gpt-oss-20b", LoadSettings(context=1024, parallel=4, kv_unified=True), 96.0 + 24.0),
        ("Qwen3-Next-80B-A3B", LoadSettings(context=300032), 7032.0),
        ("Mixtral-8x7B", LoadSettings(context=512), 64.0),
        ("Qwen2.5-3B", LoadSettings(context=4096), 144.0),
        ("gemma-3-12b", LoadSettings(context=512), 192.0),
    ],
)
def test_published_caches_are_reproduced(name: str, load: LoadSettings, kv_mib: float) -> None:
    # older builds padded the context to 32 cells, this one to 256
    assert footprint.of(MODELS[name], load).kv_bytes == pytest.approx(kv_mib * MIB, rel=0.005)


def test_the_cache_of_sliding_layers_is_as_small_as_llama_cpp_logs() -> None:
    gemma = MODELS["gemma-3-270m"]  # 144 -> 39 MiB at 8k
    full = footprint.of(gemma, LoadSettings(context=8192, swa_full=True))
    small = footprint.of(gemma, LoadSettings(context=8192))
    assert (full.kv_bytes, small.kv_bytes) == (144 * MIB, 39 * MIB)


def test_the_allocator_reuses_a_place_after_its_last_use() -> None:
    graph = Graph()
    start = graph.input(64)
    first = graph.node(1024, start)
    second = graph.node(1024, first)
    graph.node(1024, second)
    assert graph.peak_bytes() == 64 + 2 * 1024


def test_the_allocator_works_in_place_only_on_a_last_use() -> None:
    graph = Graph()
    start = graph.input(1024)
    memoize = graph.elementwise(1024, start)
    assert graph.peak_bytes() == 1024
    graph.node(32, start, memoize)  # now the input is read again
    assert graph.peak_bytes() == 2 * 1024 + 32


@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.lists(st.integers(0, 100), max_size=3)), max_size=40
    )
)
def test_the_peak_holds_the_largest_step_and_no_more_than_everything(
    steps: list[tuple[int, list[int]]],
) -> None:
    graph = Graph()
    graph.input(32)
    for number, (size, parents) in enumerate(steps, start=1):
        graph.node(size, *(parent % number for parent in parents))
    largest = max(
        graph.sizes[node] + sum(graph.sizes[p] for p in set(graph.parents[node]))
        for node in range(len(graph.sizes))
    )
    assert largest <= graph.peak_bytes() <= sum(graph.sizes)


def test_a_build_holds_the_rows_that_its_graphs_hold() -> None:
    known, load = spec(EVERY_ATTENTION[0]), LoadSettings(ubatch=256, parallel=3)
    old = footprint.of(known, replace(load, graphs=Graphs.of_commit("0c1e57098-dirty")))
    new = footprint.of(known, replace(load, graphs=Graphs.of_commit("86a2835")))
    row = 4 * known.embedding * 258  # a micro-batch of whole sequences
    assert new.compute_bytes - old.compute_bytes == row
    assert new.total_bytes - old.total_bytes == row
    assert Graphs.of_commit("fffffff") is Graphs.of_commit(None) is Graphs.B86A2835
