"""The verdict on a load that fits, on one that does not, and llama.cpp's dry run beside it."""

from dataclasses import replace

import pytest

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
from localllm.core.sizing import footprint
from localllm.core.sizing.fit import Fit, fit_on
from localllm.core.sizing.load import Allocation, BufferKind, KvType, LoadSettings, Speculate
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION

GIB = 2**30
MODELS = {forged.name: spec(forged) for forged in EVERY_ATTENTION}
LLAMA = MODELS["Llama-3.1-8B"]
SMALL = MODELS["SmolLM2-135M"]


def machine(ram_gib: float, *vram_gib: float) -> HardwareInfo:
    return HardwareInfo(
        cpu=Cpu(name="Made up", cores_physical=4, cores_usable=4),
        ram=Memory(total_bytes=64 * GIB, available_bytes=int(ram_gib * GIB)),
        devices=tuple(
            Device(
                kind=DeviceKind.GPU,
                name=f"card {i}",
                backend=Backend.CUDA,
                free_bytes=int(size * GIB),
            )
            for i, size in enumerate(vram_gib)
        ),
        engine=EngineBuild(
            version="1",
            commit="0c1e570",
            backends=("CPU", "CUDA"),
            gpu_offload=True,
            devices=(
                *(
                    EngineDevice(name=f"CUDA{i}", description=f"card {i}", kind="gpu")
                    for i in range(len(vram_gib))
                ),
                EngineDevice(name="CPU", description="CPU", kind="cpu"),
            ),
        ),
    )


def dry_run(kv_gib: float, compute_gib: float, device: str = "CPU") -> tuple[Allocation, ...]:
    return (
        Allocation(device=device, kind=BufferKind.KV, size_bytes=int(kv_gib * GIB)),
        Allocation(device=device, kind=BufferKind.COMPUTE, size_bytes=int(compute_gib * GIB)),
        Allocation(device="CUDA_Host", kind=BufferKind.OUTPUT, size_bytes=1000),
    )


def roomy() -> Fit:
    return fit_on(LLAMA, LoadSettings(), machine(64))


@pytest.mark.smoke
def test_the_settings_that_are_loaded_are_those_that_were_sized() -> None:
    requested = LoadSettings(context=2048, parallel=2, kv_type_k=KvType.Q8_0)
    fit = fit_on(LLAMA, requested, machine(64, 24, 12))
    assert fit.settings == replace(
        requested, gpu_layers=33, devices=("CUDA0", "CUDA1"), tensor_split=(22, 11)
    )
    assert fit.fits
    assert fit.advice is None


@pytest.mark.smoke
def test_the_advice_fits() -> None:
    requested = LoadSettings(context=65536, parallel=2)
    fit = fit_on(LLAMA, requested, machine(18))
    assert not fit.fits
    assert fit.advice is not None
    assert fit.advice.startswith("Try --parallel 1 (")
    assert fit.advised == replace(requested, parallel=1)
    assert fit_on(LLAMA, fit.advised, machine(18)).fits
    assert "65536 tokens of context for each of 2 conversations needs" in fit.message("It")


def test_the_advice_for_too_many_layers_is_to_let_them_be_chosen() -> None:
    fit = fit_on(LLAMA, LoadSettings(gpu_layers=33), machine(64, 4))
    assert fit.advice is not None
    assert "--gpu-layers auto" in fit.advice
    assert "on card 0, where 4.0 GiB is free" in fit.message("It")


def test_a_draft_model_has_its_room_beside_the_model() -> None:
    plain = LoadSettings(speculate=Speculate.AUTO)
    requested = replace(plain, draft="small.gguf")
    alone = fit_on(LLAMA, plain, machine(64, 24))
    fit = fit_on(LLAMA, requested, machine(64, 24), draft=SMALL)
    assert fit.draft is not None
    assert fit.draft == footprint.of_draft(SMALL, fit.settings)
    assert fit.draft.total_bytes < footprint.of(SMALL, plain).total_bytes  # one interpreter
    assert [share.free_bytes for share in fit.placement.devices] == [
        share.free_bytes - fit.draft.total_bytes for share in alone.placement.devices
    ]
    unused = fit_on(
        LLAMA, replace(requested, speculate=Speculate.OFF), machine(64, 24), draft=SMALL
    )
    assert unused.draft is None


def test_without_room_for_a_draft_model_none_is_advised() -> None:
    requested = LoadSettings(speculate=Speculate.AUTO, draft="small.gguf", parallel=2)
    tight = machine(fit_on(LLAMA, requested, machine(64)).total_bytes / GIB * 1.01)
    fit = fit_on(LLAMA, requested, tight, draft=SMALL)
    assert not fit.fits
    assert "of its draft model" in fit.message("It")
    assert fit.advice is not None
    assert fit.advice.startswith("Try --speculate off (")
    assert fit.advised is not None
    assert fit_on(LLAMA, fit.advised, tight, draft=SMALL).fits
    tighter = machine(fit_on(LLAMA, replace(requested, parallel=1), machine(64)).total_bytes / GIB)
    advice = fit_on(LLAMA, requested, tighter, draft=SMALL).advice
    assert advice is not None
    assert advice.startswith("Try --speculate off --parallel 1 (")


def test_the_draft_models_estimate_is_compared_with_what_was_allocated() -> None:
    requested = LoadSettings(speculate=Speculate.AUTO, draft="small.gguf")
    fit = fit_on(LLAMA, requested, machine(64), draft=SMALL)
    assert fit.draft is not None
    comparison = fit.compared((), dry_run(1, 2))
    assert comparison.draft_allocated_bytes == 3 * GIB + 1000
    assert comparison.draft_estimated_bytes == fit.draft.buffer_bytes
    assert "; draft model: estimated " in comparison.sentence()
    assert "draft model" not in roomy().compared(()).sentence()


def test_nothing_is_advised_where_no_setting_helps() -> None:
    fit = fit_on(LLAMA, LoadSettings(), machine(1))
    assert fit.advice is not None
    assert fit.advice.startswith("No setting makes it fit")
    assert fit.advised is None


def test_a_cache_type_that_the_model_cannot_have_is_not_advised() -> None:
    odd = replace(LLAMA, metadata={**LLAMA.metadata, "llama.attention.value_length": 80})
    fit = fit_on(odd, LoadSettings(), machine(1))
    assert fit.advice is not None
    assert fit.advised is None


def test_a_refusal_by_the_dry_run_keeps_the_estimate() -> None:
    tight = fit_on(LLAMA, LoadSettings(), machine(roomy().total_bytes / GIB * 1.1))
    requested = tight.with_probe(dry_run(2, 3))
    assert requested.estimated == tight.placement
    assert requested.with_probe(dry_run(3, 3)).estimated == tight.placement


def test_the_estimate_is_compared_with_what_was_allocated_on_each_device() -> None:
    fit = fit_on(LLAMA, LoadSettings(), machine(64, 24)).with_probe(dry_run(0.5, 1, "CUDA0"))
    comparison = fit.compared(dry_run(0.5, 0.25, "CUDA0"))
    found = {(part.device, part.part): part for part in comparison.parts}
    cache = found["card 0", "cache"]
    assert cache.estimated_bytes == cache.probed_bytes == cache.allocated_bytes == GIB // 2
    assert found["card 0", "computing"].probed_bytes == GIB
    assert found["card 0", "computing"].allocated_bytes == GIB // 4
    assert found["CPU", "computing"].allocated_bytes == 1000  # "CUDA_Host" is the host's
    assert comparison.allocated_bytes == GIB // 2 + GIB // 4 + 1000


def test_a_tensor_above_the_cap_is_named_in_the_refusal() -> None:
    fit = fit_on(LLAMA, LoadSettings(gpu_layers=33), machine(64, 24))
    gpu, host = fit.placement.devices
    capped = replace(gpu, max_buffer_bytes=GIB // 4, largest_buffer_bytes=GIB // 2, fits=False)
    refused = replace(fit, placement=replace(fit.placement, devices=(capped, host)))
    assert "a buffer of 512 MiB on card 0" in refused.message("It")
    assert "at most 256 MiB in one piece" in refused.message("It")


def test_a_load_that_takes_most_of_what_is_free_wants_a_probe() -> None:
    need = roomy().total_bytes / GIB
    assert not roomy().wants_probe
    assert fit_on(LLAMA, LoadSettings(), machine(need * 1.2)).wants_probe
    assert not fit_on(LLAMA, LoadSettings(), machine(need * 1.3)).wants_probe
    assert not fit_on(LLAMA, LoadSettings(), machine(need * 0.9)).wants_probe  # refused already
    assert fit_on(LLAMA, LoadSettings(), machine(64, 10)).wants_probe


def test_an_architecture_that_is_unknown_wants_a_probe() -> None:
    metadata = {k.replace("llama.", "novel."): v for k, v in LLAMA.metadata.items()}
    novel = replace(LLAMA, architecture="novel", metadata=metadata)
    assert fit_on(novel, LoadSettings(), machine(64)).wants_probe


def test_a_probe_that_says_less_changes_no_number() -> None:
    fit = roomy()
    requested = fit.with_probe(dry_run(0.1, 0.1))
    assert requested.placement == fit.placement
    assert requested.probed == dry_run(0.1, 0.1)


def test_a_probe_that_says_more_is_believed_and_named_in_the_refusal() -> None:
    tight = fit_on(LLAMA, LoadSettings(), machine(roomy().total_bytes / GIB * 1.1))
    assert tight.fits
    refused = tight.with_probe(dry_run(2, 3))
    assert not refused.fits
    assert refused.placement.host.kv_bytes == 2 * GIB
    assert refused.placement.host.compute_bytes == 3 * GIB + 1000
    assert "by llama.cpp's own dry run. Try a smaller --ctx" in refused.message("It")


def test_a_probe_counts_each_device_apart() -> None:
    fit = fit_on(LLAMA, LoadSettings(), machine(64, 24))
    gpu, host = fit.with_probe(dry_run(9, 1, "CUDA0")).placement.devices
    assert gpu.kv_bytes == 9 * GIB
    assert gpu.compute_bytes == 1 * GIB
    assert gpu.fits
    assert host == fit.placement.host
    assert not fit.with_probe(dry_run(30, 1, "CUDA0")).fits


def test_what_comes_back_is_free_again() -> None:
    short = fit_on(LLAMA, LoadSettings(gpu_layers=33), machine(64, 4))
    assert not short.fits
    again = fit_on(
        LLAMA,
        LoadSettings(gpu_layers=33),
        machine(64, 4),
        returned_gpu_bytes={"CUDA0": 20 * GIB},
    )
    assert again.fits
