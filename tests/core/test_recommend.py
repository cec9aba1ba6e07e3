"""Suggestions on made-up machines, from the real catalogue."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from localllm.core.catalogue import catalogue
from localllm.core.catalogue.catalogue import Entry, Task
from localllm.core.hardware import Backend
from localllm.core.model.purpose import is_embedding_model
from localllm.core.recommend import (
    MAX_LOSS_PERCENT,
    READING_TPS,
    Advice,
    Candidate,
    Goal,
    Machine,
    Preferences,
    Verdict,
    capability,
    load_of,
    plans,
)
from localllm.core.sizing import footprint
from localllm.core.sizing.placement import Budget, GpuBudget
from localllm.core.speed import DeviceSpeed
from localllm.core.speed.gpus import Generation
from localllm.library.files.settings import Settings
from localllm.runtime.load_policy import Companions, LoadChoice, load_settings
from localllm.runtime.suggest import candidates

GIB = 2**30
LAPTOP_CPU = DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=8)


@cache
def entries() -> tuple[Entry, ...]:
    root = Path(__file__).parents[2]
    return catalogue.parse((root / "models.toml").read_text("utf-8"))


@cache
def chat_models() -> tuple[Candidate, ...]:
    return tuple(candidates(tuple(entry for entry in entries() if Task.CHAT in entry.tasks)))


def laptop(ram_gib: float) -> Machine:
    return Machine(budget=Budget(host_bytes=int(ram_gib * GIB)), host=LAPTOP_CPU)


def workstation(vram_gib: float) -> Machine:
    gpu = GpuBudget(name="RTX 4090", backend=Backend.CUDA, free_bytes=int(vram_gib * GIB))
    speed = DeviceSpeed(
        bandwidth_bytes_per_s=1008e9, backend=Backend.CUDA, generation=Generation.NVIDIA_ADA
    )
    return Machine(budget=Budget(host_bytes=48 * GIB, gpus=(gpu,)), host=LAPTOP_CPU, gpus=(speed,))


def advise(machine: Machine, limit: int = 6, **preferences: object) -> Advice:
    return plans(chat_models(), Preferences(**preferences), machine, limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("machine", [laptop(6), laptop(14), workstation(23)])
@pytest.mark.parametrize("goal", Goal)
def test_what_is_called_good_fits_and_is_fast_enough(machine: Machine, goal: Goal) -> None:
    advice = advise(machine, goal=goal)
    assert advice.plans
    for plan in advice.plans:
        assert plan.placement.fits
        assert (plan.verdict is Verdict.GOOD) == (plan.decode.likely >= READING_TPS)
        assert plan.footprint is not None
        assert plan.reasons
        if plan.quality is not None:
            assert plan.quality.value <= MAX_LOSS_PERCENT
            assert plan.quality.source


def test_each_model_is_suggested_once() -> None:
    names = [plan.candidate.model for plan in advise(laptop(14), limit=20).plans]
    assert len(names) == len(set(names))


def test_quality_prefers_the_more_capable_and_speed_the_faster() -> None:
    able = advise(workstation(23), goal=Goal.QUALITY).plans[0]
    fast = advise(workstation(23), goal=Goal.SPEED).plans[0]
    assert capability(able.candidate) > capability(fast.candidate)
    assert fast.decode.likely > able.decode.likely


def test_a_gpu_is_used_and_the_layers_that_do_not_fit_stay_on_the_processor() -> None:
    plan = advise(workstation(23)).plans[0]
    assert plan.placement.gpu_layers > 0
    assert plan.settings.gpu_layers == plan.placement.gpu_layers
    assert [share.name for share in plan.placement.devices] == ["RTX 4090", "CPU"]


def test_more_memory_never_makes_the_best_suggestion_less_capable() -> None:
    best = [
        capability(advise(laptop(ram), goal=Goal.QUALITY).plans[0].candidate)
        for ram in (3, 6, 12, 24, 48)
    ]
    assert best == sorted(best)


def test_a_lower_bar_lets_slower_models_be_called_good() -> None:
    strict = advise(laptop(40), goal=Goal.QUALITY, min_tps=20.0)
    loose = advise(laptop(40), goal=Goal.QUALITY, min_tps=1.0)
    assert capability(loose.plans[0].candidate) > capability(strict.plans[0].candidate)
    assert all(plan.decode.likely >= 20 for plan in strict.plans if plan.verdict is Verdict.GOOD)


def test_the_next_better_model_is_named_with_what_it_needs() -> None:
    advice = advise(laptop(4))
    assert advice.next_better is not None
    assert "GiB more memory" in advice.next_better or "MiB more memory" in advice.next_better


def test_nothing_fits_into_nothing() -> None:
    advice = advise(laptop(0.05))
    assert advice.plans == ()


def test_a_longer_context_needs_more_and_is_never_longer_than_the_training() -> None:
    short, long = (advise(laptop(14), context=context).plans[0] for context in (2048, 131072))
    assert long.settings.context <= max(entry.context for entry in entries())
    assert short.settings.context == 2048


@pytest.mark.parametrize("context", [512, 4096, 100_000])
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_suggestion_is_judged_by_the_load_that_it_will_get(context: int, parallel: int) -> None:
    preferences = Preferences(context=context, parallel=parallel)
    for entry in entries():
        quant = entry.quants[-1]
        spec = entry.spec(quant)
        loaded = load_settings(
            LoadChoice(parallel=parallel),
            spec,
            Settings(context=context),
            Companions(mmproj=None if is_embedding_model(spec) else entry.mmproj),
        )
        assert load_of(spec, preferences, entry.mmproj) == loaded, entry.name


def test_an_embedding_model_needs_what_its_load_needs() -> None:
    (bge,) = (entry for entry in entries() if entry.name == "bge-m3")
    (plan,) = plans(candidates((bge,)), Preferences(), laptop(32), limit=1).plans
    assert plan.footprint is not None
    assert plan.footprint.total_bytes > 4 * GIB  # 3.8 GiB of it the output rows of 4096 tokens
    assert plan.footprint == footprint.of(plan.spec, plan.settings)
    assert plan.settings.embeddings
    assert not any("reading speed" in reason for reason in plan.reasons)


def test_only_a_model_with_experts_is_called_a_mixture_of_them() -> None:
    of = {entry.name: entry for entry in entries()}
    dense, mixture = of["llama-3.1-8b"], of["qwen3-vl-30b-a3b"]
    spec = dense.spec("Q4_K_M")
    assert spec.active_parameters < spec.parameters  # its output matrix is its own
    candidate = replace(
        next(candidates((dense,))), active_parameters=spec.active_parameters, installed=True
    )
    for known, said in ((candidate, False), (next(candidates((mixture,))), True)):
        (plan,) = plans((known,), Preferences(), laptop(90), limit=1).plans
        assert any("mixture of experts" in reason for reason in plan.reasons) is said


def test_the_image_encoder_is_part_of_what_a_suggestion_needs() -> None:
    (gemma,) = (entry for entry in entries() if entry.name == "gemma-3-4b")
    seeing = next(candidates((gemma,)))
    blind = replace(seeing, mmproj=None)
    both = [
        plans((known,), Preferences(), laptop(32), limit=1).plans[0] for known in (seeing, blind)
    ]
    assert seeing.mmproj is not None
    more = both[0].placement.host.total_bytes - both[1].placement.host.total_bytes
    assert more == seeing.mmproj.size_bytes
    assert any("for its image encoder" in reason for reason in both[0].reasons)
    # what is called good with the encoder fits with it
    tight = both[1].placement.host.total_bytes / GIB + 0.1
    assert not plans((seeing,), Preferences(), laptop(tight), limit=1).plans
    assert plans((blind,), Preferences(), laptop(tight), limit=1).plans
