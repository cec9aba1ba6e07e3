"""Placement: every byte has a place, and more room never makes a plan worse."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.hardware import (
    Backend,
    Cpu,
    Device,
    DeviceKind,
    EngineBuild,
    EngineDevice,
    HardwareInfo,
    Memory,
)
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import TensorInfo
from localllm.core.sizing import footprint
from localllm.core.sizing.load import FlashAttention, LoadSettings
from localllm.core.sizing.placement import HOST, Budget, GpuBudget, budget_of, place
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

GIB = 2**30
MODELS = {forged.name: spec(forged) for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
SOME = (
    "Llama-3.1-8B",
    "gemma-3-270m",
    "Qwen3-30B-A3B",
    "GLM-4.5-Air",
    "gpt-oss-20b",
    "SmolLM2-135M",
)
MIXTURE = MODELS["Qwen3-30B-A3B"]
LLAMA = MODELS["Llama-3.1-8B"]

names = st.sampled_from(SOME)
sizes = st.integers(0, 40 * GIB)
gpu_budgets = st.builds(
    GpuBudget,
    name=st.just("gpu"),
    backend=st.sampled_from([Backend.CUDA, Backend.VULKAN, Backend.METAL]),
    free_bytes=sizes,
    unified=st.booleans(),
    dedicated_bytes=sizes,
    max_buffer_bytes=st.one_of(st.none(), st.integers(0, 4 * GIB)),
)
budgets = st.builds(
    Budget,
    host_bytes=st.integers(-GIB, 80 * GIB),
    gpus=st.lists(gpu_budgets, max_size=3).map(tuple),
)
loads = st.builds(
    LoadSettings,
    context=st.sampled_from([512, 4096, 20_000]),
    parallel=st.integers(1, 3),
    mmap=st.booleans(),
    kv_offload=st.booleans(),
    gpu_layers=st.one_of(st.none(), st.integers(0, 60)),
    cpu_moe=st.sampled_from([0, 0, 3, 99]),
    ubatch=st.sampled_from([1, 512]),
)


def gpu(free_gib: float, *, backend: Backend = Backend.CUDA, unified: bool = False) -> GpuBudget:
    return GpuBudget(name="card", backend=backend, free_bytes=int(free_gib * GIB), unified=unified)


def on(host_gib: float, *gpus: GpuBudget) -> Budget:
    numbered = (replace(each, engine_name=f"CUDA{i}") for i, each in enumerate(gpus))
    return Budget(host_bytes=int(host_gib * GIB), gpus=tuple(numbered))


@settings(max_examples=120, deadline=None)
@given(names, loads, budgets)
def test_every_weight_and_every_cache_lies_somewhere_once(
    name: str, load: LoadSettings, room: Budget
) -> None:
    model = MODELS[name]
    whole = footprint.of(model, load)
    found = place(model, load, room)
    weights = sum(share.weights_bytes for share in found.devices)
    # The documented copy: a tied embedding is the output matrix of the GPU as well.
    (tied,) = (part.tied_bytes for part in footprint.layers(model, load)[-1:])
    assert weights - whole.weights_bytes in {0, tied}
    assert weights == whole.weights_bytes or found.gpu_layers > 0
    cache = sum(share.kv_bytes for share in found.devices)
    assert cache == whole.kv_bytes + whole.recurrent_bytes
    assert sum(share.layers for share in found.devices) == found.gpu_layers
    assert len(found.layout) == model.blocks + 1
    assert found.devices[-1].name == HOST
    assert found.devices[-1].compute_bytes >= whole.output_bytes


@settings(max_examples=120, deadline=None)
@given(names, loads, budgets)
def test_what_fits_fits_on_every_device(name: str, load: LoadSettings, room: Budget) -> None:
    found = place(MODELS[name], load, room)
    if found.fits:
        for share in found.devices:
            assert share.total_bytes <= share.free_bytes or not share.total_bytes
            assert not share.exceeds_max_buffer
        shared = sum(
            share.total_bytes
            for share, each in zip(found.devices, room.gpus, strict=False)
            if each.unified and len(found.devices) > 1
        )
        assert shared + found.host.total_bytes <= room.host_bytes


@settings(max_examples=150, deadline=None)
@given(names, loads, budgets, st.integers(0, 3), st.integers(0, 20 * GIB))
def test_more_memory_anywhere_never_makes_a_plan_worse(
    name: str, load: LoadSettings, room: Budget, where: int, more: int
) -> None:
    model = MODELS[name]
    before = place(model, load, room)
    if where < len(room.gpus):
        larger = replace(room.gpus[where], free_bytes=room.gpus[where].free_bytes + more)
        gpus = (*room.gpus[:where], larger, *room.gpus[where + 1 :])
        after = place(model, load, replace(room, gpus=gpus))
    else:
        after = place(model, load, replace(room, host_bytes=room.host_bytes + more))
    if before.fits:
        assert after.fits
        assert after.gpu_layers >= before.gpu_layers
        assert after.gpu_layers > before.gpu_layers or after.cpu_moe <= before.cpu_moe


@settings(max_examples=60, deadline=None)
@given(names, loads, budgets.filter(lambda room: bool(room.gpus)))
def test_the_first_arrangement_that_fits_is_found_whichever_were_skipped(
    name: str, load: LoadSettings, room: Budget
) -> None:
    model = MODELS[name]
    slots, moe = model.blocks + 1, min(load.cpu_moe, model.blocks)
    order = [(slots, moe)]
    if any(tensor.expert for tensor in model.tensors):
        order += [(slots, layers) for layers in range(moe + 1, slots)]
        moe = model.blocks
    order += [(layers, moe) for layers in range(slots - 1, 0, -1)]
    requested = (replace(load, gpu_layers=layers, cpu_moe=experts) for layers, experts in order)
    tried = (place(model, each, room) for each in requested)
    first = next((placement for placement in tried if placement.fits), None)
    found = place(model, replace(load, gpu_layers=None), room)
    assert found == first if first is not None else found.gpu_layers == 0 or not found.fits


@settings(max_examples=80, deadline=None)
@given(names, loads, budgets, st.integers(256, 20_000))
def test_more_context_never_makes_the_cache_smaller_or_more_fit(
    name: str, load: LoadSettings, room: Budget, more: int
) -> None:
    model = MODELS[name]
    longer = replace(load, context=load.context + more)
    slack = max(  # a compute buffer is now and then smaller for a longer context
        0, footprint.of(model, load).compute_bytes - footprint.of(model, longer).compute_bytes
    )
    if slack == 0 and place(model, longer, room).fits:
        assert place(model, load, room).fits


@settings(max_examples=60, deadline=None)
@given(names, budgets)
def test_a_gpu_without_layers_is_charged_nothing(name: str, room: Budget) -> None:
    for share in place(MODELS[name], LoadSettings(), room).devices[:-1]:
        if not share.layers:
            assert share.total_bytes == 0


def test_a_model_that_has_room_lies_on_the_gpu_altogether() -> None:
    found = place(LLAMA, LoadSettings(), on(64, gpu(24)))
    assert found.fits
    assert found.gpu_layers == LLAMA.layers + 1
    assert set(found.layout) == {0}
    assert found.host.weights_bytes == footprint.layers(LLAMA, LoadSettings())[0].weights_bytes


def test_a_tied_embedding_is_copied_to_the_gpu_but_not_to_a_mapping_metal() -> None:
    tied = MODELS["SmolLM2-135M"]
    embedding = footprint.layers(tied, LoadSettings())[0].weights_bytes
    whole = footprint.of(tied, LoadSettings()).weights_bytes
    cuda = place(tied, LoadSettings(), on(8, gpu(8)))
    assert sum(share.weights_bytes for share in cuda.devices) == whole + embedding
    metal = place(tied, LoadSettings(), on(8, gpu(8, backend=Backend.METAL, unified=True)))
    assert sum(share.weights_bytes for share in metal.devices) == whole


def test_draft_blocks_count_as_layers_and_hold_nothing() -> None:
    glm = MODELS["GLM-4.5-Air"]
    assert glm.draft_blocks == 1
    found = place(glm, LoadSettings(), on(64, gpu(200)))
    assert found.gpu_layers == glm.layers + 2  # the draft block and the output
    assert found.layout[0] == 0


def test_some_layers_go_to_a_gpu_that_is_too_small_for_all() -> None:
    found = place(LLAMA, LoadSettings(), on(64, gpu(6)))
    assert found.fits
    assert 0 < found.gpu_layers < LLAMA.layers + 1
    assert found.layout[0] == 1
    assert found.layout[-1] == 0
    more = place(LLAMA, replace(LoadSettings(), gpu_layers=found.gpu_layers + 1), on(64, gpu(6)))
    assert not more.fits


def test_experts_leave_the_gpu_before_attention_does() -> None:
    found = place(MIXTURE, LoadSettings(), on(64, gpu(12)))
    assert found.fits
    assert found.gpu_layers == MIXTURE.layers + 1
    assert 0 < found.cpu_moe < MIXTURE.layers
    fewer = replace(LoadSettings(), gpu_layers=found.gpu_layers, cpu_moe=found.cpu_moe - 1)
    assert not place(MIXTURE, fewer, on(64, gpu(12))).fits
    assert found.device_of(0, expert=True) == 1
    assert found.device_of(0) == 0
    assert found.device_of(47, expert=True) == 0
    assert found.device_of(None) == 0


def test_the_experts_that_were_asked_for_stay_on_the_host() -> None:
    load = LoadSettings(cpu_moe=10)
    found = place(MIXTURE, load, on(64, gpu(100)))
    assert (found.cpu_moe, found.gpu_layers) == (10, MIXTURE.layers + 1)
    experts = footprint.layers(MIXTURE, load)[1:11]
    assert found.host.weights_bytes > sum(part.expert_bytes for part in experts)
    assert place(LLAMA, load, on(64, gpu(100))).cpu_moe == 0  # a dense model has none


def test_uneven_gpus_get_layers_in_proportion_and_the_engine_is_told() -> None:
    found = place(LLAMA, LoadSettings(), on(64, gpu(24), gpu(12)))
    assert [share.layers for share in found.devices] == [22, 11, 0]
    chosen = found.applied_to(LoadSettings())
    assert chosen.devices == ("CUDA0", "CUDA1")
    assert chosen.tensor_split == (22, 11)


def test_a_split_in_proportion_that_does_not_fit_is_filled_in_turn() -> None:
    room = on(64, gpu(1.2), gpu(9.5))
    found = place(LLAMA, LoadSettings(), room)
    assert found.fits
    assert found.gpu_layers == LLAMA.layers + 1
    assert found.devices[1].layers > found.devices[0].layers


def test_a_gpu_too_small_for_a_layer_is_left_out() -> None:
    found = place(LLAMA, LoadSettings(), on(64, gpu(0.4), gpu(24)))
    assert found.devices[0].layers == 0
    chosen = found.applied_to(LoadSettings())
    assert (chosen.devices, chosen.tensor_split) == (("CUDA1",), ())


def test_a_pipeline_keeps_copies_of_its_inputs_on_each_device() -> None:
    pair = place(LLAMA, LoadSettings(), on(64, gpu(24), gpu(24)))
    alone = place(LLAMA, LoadSettings(), on(64, gpu(24)))
    inputs = 512 * (4096 * 4 + 4096 * 2)
    assert pair.devices[0].compute_bytes == alone.devices[0].compute_bytes + 3 * inputs
    host_cache = replace(LoadSettings(), kv_offload=False)  # switches the pipeline off
    split = place(LLAMA, host_cache, on(64, gpu(24), gpu(24)))
    assert split.devices[0].compute_bytes == alone.devices[0].compute_bytes


def test_a_cache_that_stays_on_the_host_needs_no_room_on_the_gpu() -> None:
    load = LoadSettings(context=32768, kv_offload=False)
    found = place(LLAMA, load, on(64, gpu(24)))
    assert found.devices[0].kv_bytes == 0
    assert found.host.kv_bytes == footprint.of(LLAMA, load).kv_bytes
    assert found.host.compute_bytes >= footprint.of(LLAMA, load).compute_bytes
    assert found.applied_to(load).kv_offload is False


def test_without_a_gpu_the_engine_is_told_to_use_none() -> None:
    chosen = place(LLAMA, LoadSettings(), on(64)).applied_to(LoadSettings())
    assert (chosen.gpu_layers, chosen.devices) == (0, ())
    requested = place(LLAMA, LoadSettings(gpu_layers=0), on(64, gpu(24)))
    assert requested.applied_to(LoadSettings()).devices == ()


def test_layers_that_were_asked_for_are_placed_even_when_they_do_not_fit() -> None:
    found = place(LLAMA, LoadSettings(gpu_layers=99), on(64, gpu(4)))
    assert found.gpu_layers == LLAMA.layers + 1
    assert not found.fits
    assert not found.devices[0].fits
    assert found.devices[1].fits


def test_when_nothing_fits_the_gpus_are_filled_and_the_host_is_short() -> None:
    found = place(LLAMA, LoadSettings(), on(1, gpu(5)))
    assert not found.fits
    assert found.devices[0].fits
    assert found.gpu_layers > 0
    assert not found.host.fits


def test_unified_memory_is_counted_once() -> None:
    needed = footprint.of(LLAMA, LoadSettings()).weights_bytes
    metal = gpu(64, backend=Backend.METAL, unified=True)
    assert place(LLAMA, LoadSettings(), on(needed / GIB + 4, metal)).fits
    short = place(LLAMA, LoadSettings(), on(needed / GIB - 1, metal))
    assert not short.fits


def test_a_tensor_larger_than_the_backends_cap_does_not_fit() -> None:
    room = on(64, gpu(48, backend=Backend.VULKAN))
    load = LoadSettings(context=131072, flash_attention=FlashAttention.OFF)
    free = place(LLAMA, load, room)
    assert free.gpu_layers == LLAMA.layers + 1
    assert free.devices[0].largest_buffer_bytes == 512 * 131072 * 32 * 4  # the attention matrix
    capped = replace(room, gpus=(replace(room.gpus[0], max_buffer_bytes=4 * GIB),))
    assert place(LLAMA, load, capped).gpu_layers == 0
    requested = place(LLAMA, replace(load, gpu_layers=99), capped)
    assert not requested.fits
    assert requested.devices[0].exceeds_max_buffer
    assert place(LLAMA, replace(load, flash_attention=FlashAttention.ON), capped).gpu_layers > 0


def test_without_mmap_the_host_needs_room_for_the_largest_tensor_alone() -> None:
    read = LoadSettings(mmap=False)
    on_host = place(LLAMA, read, on(4, gpu(24))).host.total_bytes
    largest = max(t.size_bytes for t in LLAMA.tensors)  # the output matrix
    assert place(LLAMA, read, on((on_host + largest) / GIB, gpu(24))).fits
    assert not place(LLAMA, read, on((on_host + largest - 1) / GIB, gpu(24))).fits
    assert place(LLAMA, LoadSettings(), on(on_host / GIB, gpu(24))).fits


def test_memory_set_aside_for_an_integrated_gpu_is_filled_before_the_systems() -> None:
    apu = replace(gpu(20, backend=Backend.ROCM, unified=True), dedicated_bytes=12 * GIB)
    needed = place(LLAMA, LoadSettings(), on(64, apu))
    on_gpu, on_host = needed.devices[0].total_bytes, needed.host.total_bytes
    assert needed.gpu_layers == 33
    # it lies in the 12 GiB whole: the system must hold the rest alone
    assert place(LLAMA, LoadSettings(), on(on_host / GIB, apu)).fits
    small = replace(apu, dedicated_bytes=on_gpu - GIB)
    assert place(LLAMA, LoadSettings(), on(on_host / GIB + 1, small)).fits
    assert not place(LLAMA, LoadSettings(), on(on_host / GIB + 0.99, small)).fits


def test_a_model_that_is_unloaded_gives_back_what_was_set_aside_and_what_was_not() -> None:
    device = Device(
        kind=DeviceKind.IGPU,
        name="APU",
        backend=Backend.ROCM,
        free_bytes=6 * GIB,
        unified=True,
        dedicated_bytes=8 * GIB,
        dedicated_free_bytes=3 * GIB,
    )
    machine = HardwareInfo(
        cpu=Cpu(name="cpu", cores_physical=8, cores_usable=8),
        ram=Memory(total_bytes=16 * GIB, available_bytes=3 * GIB),
        devices=(device,),
        engine=EngineBuild(
            version="0",
            commit=None,
            backends=("ROCm",),
            gpu_offload=True,
            devices=(EngineDevice(name="ROCm0", description="APU", kind="gpu"),),
        ),
    )
    after = budget_of(machine, returned_gpu_bytes={"ROCm0": 7 * GIB})
    (apu,) = after.gpus
    assert (apu.free_bytes, apu.dedicated_bytes) == (13 * GIB, 8 * GIB)
    assert after.host_bytes == 5 * GIB
    # a reserve stays free on the device too
    (apu,) = budget_of(machine, reserve_bytes=4 * GIB).gpus
    assert (apu.free_bytes, apu.dedicated_bytes) == (2 * GIB, 2 * GIB)


def test_weights_in_a_gpus_host_buffer_are_not_rearranged() -> None:
    repacked = replace(LLAMA, tensors=tuple(_q4(tensor) for tensor in LLAMA.tensors))
    partial = LoadSettings(gpu_layers=10)
    cuda = place(repacked, partial, on(64, gpu(24)))
    metal = place(repacked, partial, on(64, gpu(24, backend=Backend.METAL)))
    assert metal.host.overhead_bytes > cuda.host.overhead_bytes + GIB


def test_a_file_whose_rearranged_copy_does_not_fit_beside_it_is_read_not_mapped() -> None:
    model = replace(LLAMA, tensors=tuple(_q4(tensor) for tensor in LLAMA.tensors))
    mapped, read = (footprint.of(model, LoadSettings(mmap=m)).total_bytes for m in (True, False))
    assert mapped > read + GIB
    assert place(model, LoadSettings(), Budget(host_bytes=mapped)).mmap
    tight = place(model, LoadSettings(), Budget(host_bytes=read))
    assert tight.fits
    assert not tight.applied_to(LoadSettings()).mmap
    assert tight.host.total_bytes == read
    neither = place(model, LoadSettings(), Budget(host_bytes=read - 1))
    assert neither.mmap
    assert not neither.fits


def _q4(tensor: TensorInfo) -> TensorInfo:
    return replace(tensor, type=GgmlType.Q4_K) if len(tensor.shape) > 1 else tensor


def test_a_long_prompt_borrows_one_host_tensor_at_a_time() -> None:
    partial = place(LLAMA, LoadSettings(gpu_layers=10), on(64, gpu(24)))
    single = place(LLAMA, LoadSettings(gpu_layers=10, ubatch=16), on(64, gpu(24)))
    largest = max(tensor.size_bytes for tensor in LLAMA.tensors if tensor.layer is not None)
    needed = footprint.of(LLAMA, LoadSettings()).compute_bytes
    assert partial.devices[0].compute_bytes == needed + largest
    assert (
        single.devices[0].compute_bytes
        == footprint.of(LLAMA, LoadSettings(ubatch=16)).compute_bytes
    )


# --- what is free ---

RTX = Device(
    kind=DeviceKind.GPU, name="NVIDIA RTX 4060", backend=Backend.CUDA,
    total_bytes=8 * GIB, free_bytes=7 * GIB,
)  # fmt: skip
IRIS = Device(
    kind=DeviceKind.IGPU, name="Intel Iris", backend=Backend.VULKAN,
    total_bytes=8 * GIB, free_bytes=6 * GIB, unified=True,
)  # fmt: skip


def machine(*devices: Device, listed: tuple[str, ...] = ("CPU",), gpu: bool = True) -> HardwareInfo:
    kinds = {"CPU": "cpu", "Vulkan1": "igpu"}
    return HardwareInfo(
        cpu=Cpu(name="Made up", cores_physical=4, cores_usable=4),
        ram=Memory(total_bytes=32 * GIB, available_bytes=20 * GIB),
        devices=devices,
        engine=EngineBuild(
            version="1",
            commit=None,
            backends=("CPU",),
            gpu_offload=gpu,
            devices=tuple(
                EngineDevice(
                    name=name, description=name, kind=kinds.get(name, "gpu"), total_bytes=8 * GIB
                )
                for name in listed
            ),
        ),
    )


def test_the_reserve_is_taken_from_every_device() -> None:
    room = budget_of(machine(RTX, listed=("CUDA0", "CPU")), reserve_bytes=GIB)
    assert room.host_bytes == 19 * GIB
    assert [each.free_bytes for each in room.gpus] == [6 * GIB]


def test_devices_that_the_build_cannot_use_are_not_planned_on() -> None:
    assert budget_of(machine(RTX, listed=("CPU",))).gpus == ()
    assert budget_of(machine(RTX, listed=("Vulkan0", "CPU"))).gpus == ()
    assert budget_of(machine(RTX, listed=("CUDA0", "CPU"), gpu=False)).gpus == ()
    assert budget_of(replace(machine(RTX), engine=None)).gpus == ()
    unknown = replace(RTX, free_bytes=None)
    assert budget_of(machine(unknown, listed=("CUDA0",))).gpus == ()


def test_the_cap_that_the_engine_names_is_the_devices() -> None:
    found = machine(RTX, listed=("CUDA0", "CPU"))
    assert found.engine is not None
    assert [each.max_buffer_bytes for each in budget_of(found).gpus] == [None]
    capped = replace(found.engine.devices[0], max_buffer_bytes=4 * GIB)
    engine = replace(found.engine, devices=(capped, found.engine.devices[1]))
    assert [each.max_buffer_bytes for each in budget_of(replace(found, engine=engine)).gpus] == [
        4 * GIB
    ]


def test_an_integrated_gpu_is_used_only_where_there_is_no_other() -> None:
    both = budget_of(machine(RTX, IRIS, listed=("CUDA0", "Vulkan1", "CPU")))
    assert [each.name for each in both.gpus] == ["NVIDIA RTX 4060"]
    assert [each.unified for each in budget_of(machine(IRIS, listed=("Vulkan1", "CPU"))).gpus] == [
        True
    ]


def test_gpus_come_in_the_engines_order() -> None:
    large = replace(RTX, name="large", total_bytes=24 * GIB, free_bytes=20 * GIB)
    found = machine(RTX, large, listed=("CUDA0", "CUDA1"))
    assert found.engine is not None
    first = replace(found.engine.devices[0], total_bytes=24 * GIB)  # the engine's fastest first
    engine = replace(found.engine, devices=(first, found.engine.devices[1]))
    room = budget_of(replace(found, engine=engine))
    assert [(each.name, each.engine_name) for each in room.gpus] == [
        ("large", "CUDA0"),
        ("NVIDIA RTX 4060", "CUDA1"),
    ]


def test_what_is_unloaded_first_gives_its_bytes_back() -> None:
    found = machine(RTX, listed=("CUDA0", "CPU"))
    room = budget_of(found, returned_bytes=GIB, returned_gpu_bytes={"CUDA0": 2 * GIB, "CUDA7": GIB})
    assert room.host_bytes == 21 * GIB
    assert room.gpus[0].free_bytes == 9 * GIB
    unified = budget_of(machine(IRIS, listed=("Vulkan1",)), returned_gpu_bytes={"Vulkan1": GIB})
    assert unified.host_bytes == 21 * GIB


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_architecture_is_placed_on_two_uneven_gpus(name: str) -> None:
    found = place(MODELS[name], LoadSettings(), on(2000, gpu(10), gpu(5)))
    assert found.fits
    assert found.gpu_layers > 0
