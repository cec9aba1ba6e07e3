"""The search suggests what evaluating every file would suggest, at a fraction of the work."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend import (
    CalibrationPoint,
    Candidate,
    FitPlan,
    Goal,
    Machine,
    Preferences,
    Verdict,
    capability,
    evaluate,
    plans,
)
from localllm.core.recommend.ranking import score, worth_trying
from localllm.core.recommend.search import Ceiling
from localllm.core.sizing.placement import Budget, GpuBudget
from localllm.core.speed import DeviceSpeed, workload_of
from localllm.core.speed.gpus import Generation
from localllm.core.speed.kernels import CpuKernel, CpuKernels
from tests.core.test_recommend import GIB, LAPTOP_CPU, chat_models, entries, laptop, workstation

LIMIT = 8


def card(gib: float, backend: Backend, *, unified: bool = False) -> GpuBudget:
    return GpuBudget(
        name="card", backend=backend, free_bytes=int(gib * GIB), unified=unified, engine_name="X"
    )


def _described() -> Iterator[tuple[str, Machine]]:
    yield "laptop", laptop(14)
    yield "old laptop", replace(laptop(7), host=DeviceSpeed(bandwidth_bytes_per_s=12e9, cores=2))
    yield "workstation", workstation(8)
    pair = tuple(replace(card(gib, Backend.CUDA), name=f"card {gib}") for gib in (12, 6))
    speeds = (
        DeviceSpeed(
            bandwidth_bytes_per_s=936e9, backend=Backend.CUDA, generation=Generation.NVIDIA_AMPERE
        ),
        DeviceSpeed(
            bandwidth_bytes_per_s=192e9, backend=Backend.CUDA, generation=Generation.NVIDIA_PASCAL
        ),
    )
    yield (
        "two cards",
        Machine(budget=Budget(host_bytes=30 * GIB, gpus=pair), host=LAPTOP_CPU, gpus=speeds),
    )
    mac = DeviceSpeed(
        bandwidth_bytes_per_s=150e9, backend=Backend.METAL, generation=Generation.APPLE_M3_M4
    )
    yield (
        "unified",
        Machine(
            budget=Budget(host_bytes=16 * GIB, gpus=(card(12, Backend.METAL, unified=True),)),
            host=LAPTOP_CPU,
            gpus=(mac,),
        ),
    )
    point = CalibrationPoint(measured_tps=30.0, predicted_tps=22.0, on_gpu=False)
    yield "measured", replace(laptop(14), calibration=(point,))
    slow_q5 = {GgmlType.Q5_K: 400.0, GgmlType.Q6_K: 20.0, GgmlType.Q4_K: 15.0, GgmlType.Q3_K: 90.0}
    kernels = CpuKernels(
        measured={kind: CpuKernel(decode_s=ps * 1e-12) for kind, ps in slow_q5.items()}
    )
    yield "kernels", replace(laptop(14), host=replace(LAPTOP_CPU, kernels=kernels))


MACHINES = dict(_described())


@cache
def few_models() -> tuple[Candidate, ...]:
    """Some of the models, with all their quants: evaluating every file takes its time."""
    names = sorted({candidate.model for candidate in chat_models()})[::6]
    return tuple(candidate for candidate in chat_models() if candidate.model in names)


@cache
def all_evaluated(name: str, preferences: Preferences) -> dict[tuple[str, str], FitPlan]:
    machine = MACHINES[name]
    return {(c.model, c.quant): evaluate(c, preferences, machine) for c in few_models()}


def exhaustively(name: str, preferences: Preferences) -> list[tuple[str, str]]:
    """The rule of `plans` as it is written there, with every file priced."""
    evaluated = all_evaluated(name, replace(preferences, goal=Goal.BALANCED))
    models = dict.fromkeys(candidate.model for candidate in few_models())
    chosen: list[FitPlan] = []
    for model in models:
        group = [candidate for candidate in few_models() if candidate.model == model]
        tried = [
            evaluated[model, c.quant] for c in worth_trying(group, preferences.goal, MACHINES[name])
        ]
        good = [plan for plan in tried if plan.verdict is Verdict.GOOD]
        slow = [plan for plan in tried if plan.verdict is Verdict.SLOW]
        if good:
            chosen.append(good[0])
        elif slow:
            chosen.append(max(slow, key=lambda plan: plan.decode.likely))

    def rank(plan: FitPlan) -> tuple[bool, float]:
        able = capability(plan.candidate)
        return plan.verdict is not Verdict.GOOD, -score(able, plan.decode.likely, preferences)

    chosen.sort(key=rank)
    return [(plan.candidate.model, plan.candidate.quant) for plan in chosen]


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("name", MACHINES)
def test_the_plans_are_those_of_evaluating_everything(name: str, goal: Goal) -> None:
    preferences = Preferences(goal=goal)
    expected = exhaustively(name, preferences)
    for limit in (1, LIMIT, 100):
        found = plans(few_models(), preferences, MACHINES[name], limit=limit).plans
        assert [(p.candidate.model, p.candidate.quant) for p in found] == expected[:limit]


@pytest.mark.parametrize("name", ["laptop", "two cards"])
def test_the_answer_is_the_same_when_nothing_is_known_of_the_weights_before(name: str) -> None:
    blind = [replace(candidate, weight_reads=None) for candidate in few_models()]
    usual = plans(few_models(), Preferences(), MACHINES[name], limit=LIMIT).plans
    found = plans(blind, Preferences(), MACHINES[name], limit=LIMIT).plans
    assert [p.candidate.file for p in found] == [p.candidate.file for p in usual]


@pytest.mark.parametrize("name", MACHINES)
def test_no_plan_is_faster_than_what_was_said_to_be_its_limit(name: str) -> None:
    ceiling = Ceiling(MACHINES[name], Preferences())
    for plan in all_evaluated(name, Preferences()).values():
        if plan.placement.fits:
            assert plan.decode.likely <= ceiling.tps(plan.candidate)


def test_the_work_that_a_blueprint_tells_is_that_of_the_header_it_draws() -> None:
    for entry in entries():
        for quant in (entry.quants[0], entry.quants[-1]):
            planned, written = entry.blueprint.weight_reads(quant), workload_of(entry.spec(quant))
            assert planned.layers == written.layers
            cached = entry.blueprint.cache_reads()
            assert cached.attention == written.attention
            assert cached.state_bytes == written.state_bytes
            for part in ("elements", "elements_loaded", "size_bytes"):
                of_both = [sum(getattr(r, part) for r in w.weights) for w in (planned, written)]
                assert of_both[0] == pytest.approx(of_both[1], rel=1e-12), (entry.name, part)


class Counter:
    """Counts the headers that are made."""

    def __init__(self) -> None:
        self.made = 0

    def counting(self, candidate: Candidate) -> Candidate:
        def spec(make: Callable[[], ModelSpec] = candidate.spec) -> ModelSpec:
            self.made += 1
            return make()

        return replace(candidate, spec=spec)


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("name", MACHINES)
def test_few_of_the_hundreds_of_files_are_priced(name: str, goal: Goal) -> None:
    counter = Counter()
    counted = [counter.counting(candidate) for candidate in chat_models()]
    assert len(counted) > 600
    found = plans(counted, Preferences(goal=goal), MACHINES[name], limit=LIMIT).plans
    assert len(found) <= counter.made <= len(counted) // 10
