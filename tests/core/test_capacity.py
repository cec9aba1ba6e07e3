"""The capacity found by bisection is the one that trying everything finds."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.core.hardware import Backend
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.capacity import largest_context, largest_quant, most_parallel
from localllm.core.sizing.load import KvType, LoadSettings
from localllm.core.sizing.placement import Budget, GpuBudget, place
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

GIB = 2**30
SOME = {"SmolLM2-135M", "gemma-3-270m", "OpenELM-270M", "Qwen2.5-3B"}
MODELS = {f.name: spec(f) for f in (*EVERY_ATTENTION, *EVERY_RECURRENT) if f.name in SOME}
MOST = 6144  # brute force tries 24 contexts

names = st.sampled_from(sorted(MODELS))


def short(name: str, trained: int = MOST) -> ModelSpec:
    """A model with a small training context."""
    model = MODELS[name]
    key = f"{model.architecture}.context_length"
    return replace(model, metadata={**model.metadata, key: trained})


def rooms(model: ModelSpec, load: LoadSettings) -> st.SearchStrategy[Budget]:
    """Machines around what the model needs, with and without a GPU."""
    whole = footprint.of(model, load).total_bytes
    gpu = st.builds(
        GpuBudget,
        name=st.just("gpu"),
        backend=st.just(Backend.VULKAN),
        free_bytes=st.integers(0, whole),
    )
    return st.builds(
        Budget,
        host_bytes=st.integers(0, whole + whole // 4),
        gpus=st.lists(gpu, max_size=2).map(tuple),
    )


@settings(max_examples=15, deadline=None)
@given(st.data(), names, st.integers(1, 3))
def test_the_largest_context_is_the_one_that_trying_all_finds(
    data: st.DataObject, name: str, parallel: int
) -> None:
    model, load = short(name), LoadSettings(parallel=parallel)
    budget = data.draw(rooms(model, replace(load, context=MOST)))
    contexts = [256 * n // parallel for n in range(1, MOST * parallel // 256 + 1)]
    fitting = [c for c in contexts if place(model, replace(load, context=c), budget).fits]
    assert largest_context(model, load, budget) == (fitting[-1] if fitting else None)


@settings(max_examples=4, deadline=None)
@given(st.data(), names)
def test_the_most_conversations_are_those_that_trying_all_finds(
    data: st.DataObject, name: str
) -> None:
    model, load = short(name), LoadSettings(context=300)
    budget = data.draw(rooms(model, replace(load, parallel=16)))
    fitting = [n for n in range(1, 257) if place(model, replace(load, parallel=n), budget).fits]
    assert most_parallel(model, load, budget) == (fitting[-1] if fitting else None)


def test_a_context_longer_than_the_training_is_given_only_when_asked_for() -> None:
    model, budget = short("SmolLM2-135M", 2048), Budget(host_bytes=2 * GIB)
    assert largest_context(model, LoadSettings(), budget) == 2048
    longer = largest_context(model, LoadSettings(), budget, beyond_training=True)
    assert longer is not None
    assert longer > 20_000
    assert longer % 256 == 0
    assert place(model, LoadSettings(context=longer), budget).fits
    assert not place(model, LoadSettings(context=longer + 1), budget).fits


def test_a_training_context_that_is_no_multiple_of_the_padding_is_given_whole() -> None:
    model = short("SmolLM2-135M", 1000)
    assert largest_context(model, LoadSettings(), Budget(host_bytes=2 * GIB)) == 1000


def test_where_nothing_fits_there_is_no_answer() -> None:
    model, budget = MODELS["SmolLM2-135M"], Budget(host_bytes=-1)
    assert largest_context(model, LoadSettings(), budget) is None
    assert most_parallel(model, LoadSettings(), budget) is None
    assert largest_quant([("Q8_0", lambda: model)], LoadSettings(), budget) is None
    assert largest_quant([], LoadSettings(), budget) is None


@pytest.mark.parametrize("fitting", range(1, 9))
def test_the_largest_quant_is_found_with_few_looks(fitting: int) -> None:
    made: list[int] = []

    def thinner(percent: int) -> Callable[[], ModelSpec]:
        def make() -> ModelSpec:
            made.append(percent)
            return smaller(percent)

        return make

    quants = [(f"q{percent}", thinner(percent)) for percent in range(100, 20, -10)]
    at = quants[-fitting]
    needed = place(smaller(int(at[0][1:])), LoadSettings(), Budget(host_bytes=0)).host.total_bytes
    assert largest_quant(quants, LoadSettings(), Budget(host_bytes=needed)) == at[0]
    assert len(made) <= 6


def smaller(percent: int) -> ModelSpec:
    """The model with tensors of so many percent of their bytes."""
    model = MODELS["Qwen2.5-3B"]
    tensors = (replace(t, size_bytes=t.size_bytes * percent // 100) for t in model.tensors)
    return replace(model, tensors=tuple(tensors))


def test_where_one_cache_each_is_too_much_several_have_one_for_all() -> None:
    (phi,) = [spec(forged) for forged in EVERY_ATTENTION if forged.name == "Phi-4"]
    load = LoadSettings(kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0)
    most = most_parallel(phi, load, Budget(host_bytes=64 * GIB))
    assert most == most_parallel(phi, replace(load, kv_unified=True), Budget(host_bytes=64 * GIB))
    assert most is not None
    assert most > 1
