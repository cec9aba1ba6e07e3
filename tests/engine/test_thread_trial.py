"""The comparison of thread counts after a load: on a scripted model, and on the real engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, Loaded, LoadRequest, Sampling
from localllm.engine.worker.llama.model import BatchToken, CacheFull, Model
from localllm.engine.worker.thread_trial import try_threads
from localllm.errors import LoadFailed


@dataclass
class FakeModel:
    """A model whose steps take as long as `step_s` says of the threads, by its own clock."""

    step_s: dict[int, float]
    batch_s: dict[int, float] = field(default_factory=dict)
    fails: bool = False
    has_cache: bool = True
    load_s: float = 0.1
    now_s: float = 0.0
    steps: int = 0
    threads: int = 0
    prompt_threads: int = 0
    cells: int = 0

    def set_threads(self, threads: int, prompt_threads: int) -> None:
        self.threads, self.prompt_threads = threads, prompt_threads

    def decode(self, tokens: Sequence[BatchToken]) -> None:
        if self.fails:
            raise CacheFull
        self.steps += 1
        self.cells += len(tokens)
        times = self.step_s if len(tokens) == 1 else self.batch_s
        self.now_s += times[self.threads]

    def remove_cells(self, _slot: int) -> bool:
        self.cells = 0
        return True


def tried(model: FakeModel, counts: Sequence[int], *, disturbed: bool = False) -> list[int]:
    trials = try_threads(
        cast(Model, model), counts, clock=lambda: model.now_s, disturbed=lambda *_: disturbed
    )
    assert model.cells == 0
    return [each.threads for each in trials]


def test_the_best_count_is_used_and_prompts_have_their_own() -> None:
    model = FakeModel({8: 0.05, 6: 0.04, 4: 0.06}, batch_s={8: 0.1, 6: 0.2})
    assert tried(model, (8, 6, 4)) == [8, 6, 4]
    assert (model.threads, model.prompt_threads) == (6, 8)
    model = FakeModel({8: 0.05, 6: 0.04}, batch_s={8: 0.3, 6: 0.2})
    tried(model, (8, 6))
    assert (model.threads, model.prompt_threads) == (6, 6)


def test_the_usual_count_stays_when_nothing_is_faster() -> None:
    model = FakeModel({8: 0.04, 6: 0.04, 4: 0.06})
    assert tried(model, (8, 6, 4)) == [8, 6, 4]
    assert (model.threads, model.prompt_threads) == (8, 8)


def test_a_slow_model_decodes_two_tokens_and_is_left_alone() -> None:
    model = FakeModel({8: 2.0, 6: 0.1})
    assert tried(model, (8, 6)) == []
    assert (model.steps, model.threads) == (2, 8)


def test_a_comparison_that_others_disturbed_does_not_count() -> None:
    model = FakeModel({8: 0.05, 6: 0.01}, batch_s={8: 0.1, 6: 0.1})
    assert tried(model, (8, 6), disturbed=True) == []
    assert (model.threads, model.prompt_threads) == (8, 8)


@pytest.mark.parametrize("counts", [(), (8,)])
def test_there_is_nothing_to_compare(counts: tuple[int, ...]) -> None:
    model = FakeModel({8: 0.05})
    assert tried(model, counts) == []
    assert model.steps == 0


def test_a_model_that_cannot_decode_is_no_failed_load() -> None:
    model = FakeModel({8: 0.05, 6: 0.04}, fails=True)
    assert tried(model, (8, 6)) == []
    assert model.threads == 8


async def answer(path: Path, counts: tuple[int, ...]) -> tuple[Loaded, list[object]]:
    engine = ProcessEngine()
    try:
        loads = engine.load(
            LoadRequest(
                path=str(path),
                settings=LoadSettings(context=256, threads=2, gpu_layers=0),
                try_threads=counts,
            )
        )
        events = [event async for event in loads]
        request = GenerateRequest(
            request_id="1", prompt="One, two,", max_tokens=4, sampling=Sampling(temperature=0.0)
        )
        told = [event async for event in engine.generate(request)]
    finally:
        await engine.close()
    loaded = events[-1]
    assert isinstance(loaded, Loaded)
    return loaded, [event for event in told if not isinstance(event, Finished)]


async def test_the_real_engine_answers_the_same_after_a_comparison(smollm2: Path) -> None:
    plain, expected = await answer(smollm2, ())
    loaded, found = await answer(smollm2, (2, 1))
    assert (plain.threads, plain.threads_batch, plain.thread_trials) == (2, 2, ())
    assert loaded.threads in (1, 2)
    assert [each.threads for each in loaded.thread_trials] in ([], [2, 1])  # a busy machine: none
    assert [getattr(each, "text", None) for each in found] == [
        getattr(each, "text", None) for each in expected
    ]


async def test_counts_that_llama_cpp_cannot_have_are_refused(smollm2: Path) -> None:
    with pytest.raises(LoadFailed, match="1 to 512"):
        await answer(smollm2, (2, 0))
