"""The same request gives the same text: when its prompt is read, and when it is in the cache."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import GenerateRequest, Sampling
from tests.engine.stepped_scheduler import SteppedScheduler

WORDS = ("river", "stone", "market", "engine", "winter", "letter", "garden", "signal", "copper")


def long_prompt(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + ". The story of them begins:"


@pytest.fixture(scope="module", params=[1, 3])
def stepped(shallow_smollm2: Path, request: pytest.FixtureRequest) -> Iterator[SteppedScheduler]:
    """A real model as it is served: flash attention and quantized weights."""
    settings = LoadSettings(context=1024, parallel=request.param, threads=1)
    stepped = SteppedScheduler(shallow_smollm2, settings)
    yield stepped
    stepped.close()


def ask(stepped: SteppedScheduler, name: str, prompt: str, sampling: Sampling) -> str:
    request = GenerateRequest(request_id=name, prompt=prompt, sampling=sampling, max_tokens=16)
    stepped.submit_request(request)
    stepped.run()
    return stepped.text(name)


def test_a_request_with_a_seed_has_no_drafts_whose_number_is_measured(
    stepped: SteppedScheduler,
) -> None:
    prompt = "one two three four five six seven eight nine ten. " * 4 + "one two three"
    ask(stepped, "seeded", prompt, Sampling(temperature=0, seed=1))
    assert stepped.finished("seeded").timings.drafted == 0


# Below, at and beyond 64 tokens, from which on a batch is computed in another way than one token.
@pytest.mark.parametrize(("words", "temperature"), [(50, 1.0), (110, 1.0), (200, 0.0)])
def test_the_first_answer_with_a_seed_is_the_same_as_its_repetitions(
    stepped: SteppedScheduler, words: int, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=7)
    prompt = long_prompt(words + int(temperature), words)
    names = [f"{words} {temperature} {number}" for number in range(3)]
    answers = [ask(stepped, name, prompt, sampling) for name in names]
    assert stepped.finished(names[0]).cached_tokens < 64
    assert stepped.finished(names[1]).cached_tokens > words // 2
    assert len(set(answers)) == 1
