"""The fast sizes of many quants are those of the exact evaluation of each."""

import random

import pytest

from localllm.core.hardware import Backend
from localllm.core.recommend import Candidate, Machine, Preferences, evaluate
from localllm.core.recommend.quant_sizes import QuantSizes
from localllm.core.sizing.load import KvType
from localllm.core.sizing.placement import Budget, GpuBudget
from localllm.core.speed import DeviceSpeed
from localllm.library.files.catalogue_file import read_catalogue
from localllm.runtime.suggest import candidates

GIB = 2**30
HOST = Budget(host_bytes=9 * GIB)
GPU = Budget(
    host_bytes=9 * GIB,
    gpus=(GpuBudget(name="made up", backend=Backend.CUDA, free_bytes=4 * GIB),),
)


@pytest.fixture(scope="module")
def catalogue() -> tuple[Candidate, ...]:
    return tuple(candidates(read_catalogue()))


@pytest.mark.parametrize("budget", [HOST, GPU], ids=["host", "gpu"])
def test_they_are_those_of_the_exact_evaluation(
    catalogue: tuple[Candidate, ...], budget: Budget
) -> None:
    speed = DeviceSpeed(bandwidth_bytes_per_s=2e10, cores=4)
    machine = Machine(budget=budget, host=speed, gpus=(speed,) * len(budget.gpus))
    sizes = QuantSizes(budget)
    for candidate in random.Random(4).sample(catalogue, 24):
        for context, parallel in ((4096, 1), (16_384, 3)):
            preferences = Preferences(context=context, parallel=parallel)
            exact = evaluate(candidate, preferences, machine)
            fast = sizes.size(candidate, preferences)
            assert fast.placement == exact.placement, (candidate.file, context, parallel)
            assert fast.context == exact.settings.context
            assert (fast.lacking_bytes == 0) is fast.fits


def test_memory_grows_with_the_context_the_people_and_the_cache_type(
    catalogue: tuple[Candidate, ...],
) -> None:
    # With room to spare: a file whose repacked copies have none is read, which takes less.
    sizes = QuantSizes(Budget(host_bytes=4096 * GIB))
    for candidate in random.Random(5).sample(catalogue, 12):
        steps = [
            Preferences(context=2048),
            Preferences(context=8192),
            Preferences(context=8192, parallel=2),
            Preferences(context=8192, parallel=2, kv_type=KvType.F32),
        ]
        totals = [sizes.size(candidate, each).total_bytes for each in steps]
        assert totals == sorted(totals), candidate.file


def test_a_cache_type_that_a_model_refuses_is_counted_as_f16(
    catalogue: tuple[Candidate, ...],
) -> None:
    sizes, kinds = QuantSizes(Budget(host_bytes=4096 * GIB)), set()
    for candidate in catalogue[::20]:
        f16 = sizes.size(candidate, Preferences())
        q4 = sizes.size(candidate, Preferences(kv_type=KvType.Q4_0))
        kinds.add(q4.kv_type)
        assert q4.total_bytes <= f16.total_bytes
        assert q4.kv_type is KvType.Q4_0 or q4.total_bytes == f16.total_bytes
    assert KvType.Q4_0 in kinds
