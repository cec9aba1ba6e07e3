"""The speed model: laws that hold for every device, and its estimates of published ones."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec, TensorInfo
from localllm.core.sizing.load import KvType, LoadSettings
from localllm.core.speed import (
    AttentionReads,
    DeviceSpeed,
    DeviceWork,
    Estimate,
    WeightRead,
    Workload,
    calibrated,
    decode_tps,
    prefill_tps,
    ttft_s,
    workload_of,
)
from localllm.core.speed.gpus import Generation
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

FORGED = {forged.name: forged for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
RTX_4090 = DeviceSpeed(
    bandwidth_bytes_per_s=1008e9, backend=Backend.CUDA, generation=Generation.NVIDIA_ADA
)
DESKTOP = DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=8)

devices = st.builds(
    DeviceSpeed,
    bandwidth_bytes_per_s=st.floats(1e9, 1e13),
    backend=st.none() | st.sampled_from(Backend),
    generation=st.none() | st.sampled_from(Generation),
    compute_flops=st.none() | st.floats(1e9, 1e16),
    cores=st.integers(1, 256),
)
reads = st.builds(
    lambda kind, active, idle, last: WeightRead(
        type=kind, elements=active, elements_loaded=active + idle, last_only=last
    ),
    st.sampled_from(GgmlType),
    st.integers(1, 10**12),
    st.integers(0, 10**12),
    st.booleans(),
)
works = st.builds(
    Workload,
    layers=st.integers(1, 200),
    weights=st.lists(reads, min_size=1, max_size=4).map(tuple),
    attention=st.lists(
        st.builds(
            AttentionReads,
            bytes_per_cell=st.floats(0, 1e7),
            elements_per_cell=st.integers(0, 10**7),
            macs_per_cell=st.integers(0, 10**8),
            window=st.none() | st.integers(1, 10**5),
        ),
        max_size=2,
    ).map(tuple),
    state_bytes=st.integers(0, 10**9),
)
depths = st.integers(0, 10**6)


def one(device: DeviceSpeed, work: Workload) -> list[DeviceWork]:
    return [DeviceWork(device=device, work=work)]


def dense(elements: int, kind: GgmlType = GgmlType.Q4_0, layers: int = 32) -> Workload:
    read = WeightRead(type=kind, elements=elements, elements_loaded=elements)
    return Workload(layers=layers, weights=(read,))


def faster(device: DeviceSpeed, factor: float) -> DeviceSpeed:
    return DeviceSpeed(
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s * factor,
        backend=device.backend,
        generation=device.generation,
        compute_flops=None if device.compute_flops is None else device.compute_flops * factor,
        cores=device.cores,
    )


@given(devices, works, depths)
def test_an_estimate_is_an_interval_of_positive_rates(
    device: DeviceSpeed, work: Workload, depth: int
) -> None:
    rate = decode_tps(one(device, work), depth=depth)
    assert 0 < rate.low <= rate.likely <= rate.high < math.inf


@given(devices, works, depths, st.floats(1, 100))
def test_a_faster_device_is_never_slower(
    device: DeviceSpeed, work: Workload, depth: int, factor: float
) -> None:
    slow, fast = one(device, work), one(faster(device, factor), work)
    assert decode_tps(fast, depth=depth).likely >= decode_tps(slow, depth=depth).likely * 0.999999
    assert prefill_tps(fast).likely >= prefill_tps(slow).likely * 0.999999


@given(devices, works, depths, depths)
def test_a_deeper_context_never_decodes_faster(
    device: DeviceSpeed, work: Workload, a: int, b: int
) -> None:
    near, far = sorted((a, b))
    shares = one(device, work)
    assert decode_tps(shares, depth=far).likely <= decode_tps(shares, depth=near).likely


@given(devices, st.integers(1, 10**12), st.integers(0, 10**12), st.sampled_from(GgmlType))
def test_more_weights_never_decode_faster(
    device: DeviceSpeed, fewer: int, more: int, kind: GgmlType
) -> None:
    small = decode_tps(one(device, dense(fewer, kind))).likely
    assert decode_tps(one(device, dense(fewer + more, kind))).likely <= small


@given(devices, devices, works, works)
def test_a_second_device_with_work_never_shortens_a_token(
    a: DeviceSpeed, b: DeviceSpeed, first: Workload, second: Workload
) -> None:
    alone = decode_tps(one(a, first)).likely
    both = [*one(a, first), *one(b, second)]
    assert decode_tps(both).likely < alone


@given(devices, works, st.integers(1, 20_000), st.integers(1, 20_000))
def test_a_longer_prompt_never_answers_sooner(
    device: DeviceSpeed, work: Workload, a: int, b: int
) -> None:
    short, long = sorted((a, b))
    shares = one(device, work)
    assert ttft_s(shares, tokens=short).likely <= ttft_s(shares, tokens=long).likely * 1.000001


@given(works, st.integers(1, 5000))
def test_the_rate_of_a_prompt_is_its_tokens_over_the_time_to_the_first_answer(
    work: Workload, tokens: int
) -> None:
    shares = one(DESKTOP, work)
    rate = prefill_tps(shares, tokens=tokens)
    assert rate.likely * ttft_s(shares, tokens=tokens).likely == pytest.approx(tokens)


def test_an_rtx_4090_decodes_llama_7b_q4_0_as_published() -> None:
    # ggml-org/llama.cpp discussion 15013: 186.21 tokens/s, and 11,992.70 of a prompt
    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    work = Workload(
        layers=32,
        weights=(
            WeightRead(type=GgmlType.Q4_0, elements=layers, elements_loaded=layers),
            WeightRead(
                type=GgmlType.Q6_K,
                elements=32000 * 4096,
                elements_loaded=32000 * 4096,
                last_only=True,
            ),
        ),
    )
    assert decode_tps(one(RTX_4090, work)).likely == pytest.approx(186.21, rel=0.06)
    assert prefill_tps(one(RTX_4090, work)).likely == pytest.approx(11992.7, rel=0.2)


def test_a_generation_nobody_measured_gets_a_wider_interval() -> None:
    known = decode_tps(one(RTX_4090, dense(7 * 10**9)))
    unknown = decode_tps(
        one(DeviceSpeed(bandwidth_bytes_per_s=1008e9, backend=Backend.CUDA), dense(7 * 10**9))
    )
    assert unknown.high / unknown.low > known.high / known.low


@pytest.mark.parametrize("backend", list(Backend))
def test_every_backend_has_an_estimate(backend: Backend) -> None:
    device = DeviceSpeed(bandwidth_bytes_per_s=1e11, backend=backend)
    assert decode_tps(one(device, dense(10**9))).likely > 0
    assert prefill_tps(one(device, dense(10**9))).likely > 0


def test_a_token_reads_only_the_experts_it_is_sent_to() -> None:
    work = workload_of(spec(FORGED["Qwen3-30B-A3B"]))
    every = sum(read.elements_loaded for read in work.weights)
    active = sum(read.elements for read in work.weights)
    # 30.5 G parameters of which 3.3 G are active (model card), input embedding 0.31 G not read
    assert every == pytest.approx(30.5e9 - 0.31e9, rel=0.02)
    assert active == pytest.approx(3.3e9 - 0.31e9, rel=0.05)
    assert work.is_routed


def test_the_interval_of_a_mixture_of_experts_reaches_further_down() -> None:
    read = WeightRead(type=GgmlType.Q8_0, elements=10**9, elements_loaded=10**9)
    idle = WeightRead(type=GgmlType.Q8_0, elements=10**9, elements_loaded=10**10)
    plain = decode_tps(one(RTX_4090, Workload(layers=8, weights=(read,))))
    routed = decode_tps(one(RTX_4090, Workload(layers=8, weights=(idle,))))
    assert routed.likely == plain.likely
    assert routed.low < plain.low


def test_a_sliding_layer_reads_no_further_than_its_window() -> None:
    work = workload_of(spec(FORGED["gemma-3-12b"]))
    sliding = [part for part in work.attention if part.window is not None]
    assert [part.window for part in sliding] == [1024]
    per_cell = sum(part.bytes_per_cell for part in work.attention if part.window is None)
    assert work.kv_bytes(9000) - work.kv_bytes(8000) == 1000 * per_cell


def test_the_cells_of_a_prompt_are_those_of_its_tokens_added_up() -> None:
    for window in (None, 1, 3, 50):
        part = AttentionReads(bytes_per_cell=1, elements_per_cell=1, macs_per_cell=1, window=window)
        for tokens in (1, 2, 7):
            assert part.cells_of_prompt(tokens) == sum(part.cells(i) for i in range(1, tokens + 1))


def test_a_quantized_cache_is_read_in_fewer_bytes() -> None:
    model = spec(FORGED["Llama-3.1-8B"])
    half = workload_of(model, LoadSettings(kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0))
    full = workload_of(model)
    # 32 layers x 8 heads x 128 x 2: 65,536 values a cell
    assert full.kv_bytes(1) == 131_072
    assert half.kv_bytes(1) == 65_536 * 34 / 32


def test_mla_reads_one_latent_vector_a_layer() -> None:
    model = spec(FORGED["DeepSeek-V3"])
    # 61 layers x (512 + 64) values of two bytes
    assert workload_of(model).kv_bytes(1) == 61 * 576 * 2


def test_a_recurrent_model_costs_the_same_at_any_depth() -> None:
    work = workload_of(spec(FORGED["mamba-2.8b"]))
    assert work.kv_bytes(100_000) == 0
    assert work.state_bytes > 0
    shares = one(DESKTOP, work)
    assert decode_tps(shares, depth=100_000) == decode_tps(shares)


def test_shares_of_a_split_model_add_up_to_the_whole() -> None:
    model = spec(FORGED["gpt-oss-20b"])

    def on_gpu(layer: int | None, expert: bool) -> bool:
        return not expert

    gpu = workload_of(model, holds=on_gpu)
    cpu = workload_of(model, holds=lambda layer, expert: expert)
    whole = workload_of(model)
    assert gpu.weight_bytes + cpu.weight_bytes == pytest.approx(whole.weight_bytes)
    assert gpu.attention == whole.attention
    assert cpu.attention == ()


def test_a_tied_embedding_is_read_as_the_output_matrix_and_an_input_one_is_not() -> None:
    tied = workload_of(spec(FORGED["SmolLM2-135M"]))
    assert sum(read.elements for read in tied.weights if read.last_only) >= 49152 * 576
    untied = spec(FORGED["Llama-3.1-8B"])
    embedding = next(t for t in untied.tensors if t.name == "token_embd.weight")
    read = sum(r.elements for r in workload_of(untied).weights)
    assert read == sum(t.elements for t in untied.tensors) - embedding.elements


def test_an_architecture_nobody_knows_counts_its_weights_and_no_cache() -> None:
    tensor = TensorInfo(
        name="blk.0.attn_q.weight", shape=(64, 64), type=GgmlType.F16, offset=0, size_bytes=8192
    )
    model = ModelSpec(
        architecture="nobody-knows",
        metadata={"nobody-knows.block_count": 1, "nobody-knows.embedding_length": 64},
        tensors=(tensor,),
        version=3,
        alignment=32,
        data_offset=0,
        file_bytes=8192,
    )
    work = workload_of(model)
    assert work.weight_bytes == 8192
    assert work.attention == ()


@given(st.floats(1, 1000), st.floats(1, 3), st.floats(1, 3), st.floats(0.2, 5), st.floats(1, 100))
def test_a_measurement_scales_an_estimate_and_never_widens_it(
    likely: float, below: float, above: float, ratio: float, rate: float
) -> None:
    estimate = Estimate(low=likely / below, likely=likely, high=likely * above)
    corrected = calibrated(estimate, [rate * ratio], [rate])
    assert corrected.likely == pytest.approx(likely * ratio)
    assert corrected.high / corrected.likely <= above * 1.000001
    assert corrected.likely / corrected.low <= below * 1.000001
    assert corrected.high / corrected.likely <= 1.15 * 1.000001


def test_measurements_that_disagree_leave_a_wider_interval() -> None:
    estimate = Estimate(low=10, likely=100, high=1000)
    agreed = calibrated(estimate, [50, 50], [100, 100])
    torn = calibrated(estimate, [25, 100], [100, 100])
    assert agreed.likely == torn.likely == pytest.approx(50)
    assert torn.high > agreed.high


def test_one_measurement_on_a_gpu_leaves_what_other_architectures_may_need() -> None:
    estimate = Estimate(low=50, likely=100, high=110)
    memoize = calibrated(estimate, [80], [100], on_gpu=True)
    assert memoize.likely == pytest.approx(80)
    assert memoize.likely / memoize.low == pytest.approx(2**0.7)
    assert memoize.high / memoize.likely == pytest.approx(2**0.7)
    often = calibrated(estimate, [80, 81, 79], [100, 100, 100], on_gpu=True)
    assert often.likely / often.low == pytest.approx(1.15)


@given(st.floats(1, 1000), st.floats(1, 5), st.floats(1, 5), st.booleans())
def test_a_corrected_interval_holds_the_corrected_rate(
    likely: float, below: float, above: float, on_gpu: bool
) -> None:
    estimate = Estimate(low=likely / below, likely=likely, high=likely * above)
    corrected = calibrated(estimate, [likely * 2], [likely], on_gpu=on_gpu)
    assert corrected.likely == pytest.approx(likely * 2)
    assert corrected.low <= corrected.likely <= corrected.high


def test_without_measurements_an_estimate_stays_as_it_was() -> None:
    estimate = Estimate(low=1, likely=2, high=3)
    assert calibrated(estimate, [], []) == estimate


@pytest.mark.parametrize(
    ("measured", "predicted"),
    [([1.0], []), ([0.0], [1.0]), ([1.0], [-1.0]), ([math.nan], [1.0]), ([1.0], [math.inf])],
)
def test_nonsense_measurements_are_refused(measured: list[float], predicted: list[float]) -> None:
    with pytest.raises(ValueError, match=r"positive|predictions"):
        calibrated(Estimate(low=1, likely=2, high=3), measured, predicted)


def test_an_interval_that_is_none_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not an interval"):
        Estimate(low=2, likely=1, high=3)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.inf, math.nan])
def test_a_device_without_bandwidth_cannot_be_made(bandwidth: float) -> None:
    with pytest.raises(ValueError, match="bandwidth_bytes_per_s"):
        DeviceSpeed(bandwidth_bytes_per_s=bandwidth)


def test_a_device_without_cores_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="cores"):
        DeviceSpeed(bandwidth_bytes_per_s=1e9, cores=0)


def test_no_work_is_an_error_and_not_an_infinite_rate() -> None:
    idle = Workload(layers=0, weights=())
    for shares in ([], one(RTX_4090, idle)):
        with pytest.raises(ValueError, match="nothing to estimate"):
            decode_tps(shares)
        with pytest.raises(ValueError, match="nothing to estimate"):
            ttft_s(shares, tokens=10)


def test_impossible_counts_are_refused() -> None:
    shares = one(DESKTOP, dense(10**6))
    with pytest.raises(ValueError, match="depth"):
        decode_tps(shares, depth=-1)
    with pytest.raises(ValueError, match="hops"):
        decode_tps(shares, hops=-1)
    with pytest.raises(ValueError, match="prompt of 0"):
        ttft_s(shares, tokens=0)


def card(backend: Backend, generation: Generation, bandwidth: float) -> DeviceSpeed:
    return DeviceSpeed(bandwidth_bytes_per_s=bandwidth, backend=backend, generation=generation)


@pytest.mark.parametrize(
    ("device", "kind", "layers", "elements", "measured"),
    [
        # Llama 3 8B and 70B on cards of two data centres and a laptop, none in the fitted table:
        # XiongjieDai/GPU-Benchmarks-on-LLM-Inference, May 2024
        (card(Backend.CUDA, Generation.NVIDIA_HBM, 2039e9), GgmlType.Q4_K, 32, 7.5e9, 138.31),
        (card(Backend.CUDA, Generation.NVIDIA_HBM, 2039e9), GgmlType.Q4_K, 80, 69.5e9, 22.11),
        (card(Backend.CUDA, Generation.NVIDIA_HBM, 2000e9), GgmlType.F16, 32, 7.5e9, 67.79),
        (card(Backend.METAL, Generation.APPLE_M1_M2, 400e9), GgmlType.Q4_K, 32, 7.5e9, 34.49),
        # Llama 3.2 3B on an M4 Pro (AlexsJones/llmfit, community data, 2026)
        (card(Backend.METAL, Generation.APPLE_M3_M4, 273e9), GgmlType.Q4_K, 28, 3.2e9, 95.27),
    ],
)
def test_machines_that_nothing_was_fitted_to_lie_inside_their_interval(
    device: DeviceSpeed, kind: GgmlType, layers: int, elements: float, measured: float
) -> None:
    rate = decode_tps(one(device, dense(int(elements), kind, layers)))
    assert rate.low <= measured <= rate.high


@given(st.sampled_from(Backend), st.sampled_from(Generation), works, depths)
def test_a_model_with_experts_or_a_state_is_never_promised_more_than_one_without(
    backend: Backend, generation: Generation, work: Workload, depth: int
) -> None:
    plain = replace(
        work,
        state_bytes=0,
        weights=tuple(replace(w, elements_loaded=w.elements) for w in work.weights),
    )
    device = card(backend, generation, 5e11)
    assert (
        decode_tps(one(device, work), depth=depth).low
        <= decode_tps(one(device, plain), depth=depth).low * 1.000001
    )
