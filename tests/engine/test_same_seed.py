"""A seed is a promise: the same request gives the same text, whatever is in the cache."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import GenerateRequest, Sampling, Token
from localllm.engine.messages.validation import check_generate
from localllm.engine.worker.kv_cache.chunking import FixedChunks
from localllm.errors import BadRequest
from tests.engine.stepped_scheduler import SteppedScheduler

WORDS = ("river", "stone", "market", "engine", "winter", "letter", "garden", "signal", "copper")
SEEDED = Sampling(temperature=1.0, seed=7)


def long_prompt(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + ". The story of them begins:"


@pytest.fixture(scope="module", params=[1, 3])
def stepped(shallow_smollm2: Path, request: pytest.FixtureRequest) -> Iterator[SteppedScheduler]:
    """A real model as it is served: flash attention and quantized weights."""
    settings = LoadSettings(context=1024, parallel=request.param, threads=1)
    stepped = SteppedScheduler(shallow_smollm2, settings)
    yield stepped
    stepped.close()


_numbers = itertools.count()


def submit(
    stepped: SteppedScheduler,
    prompt: str,
    sampling: Sampling = SEEDED,
    *,
    max_tokens: int = 16,
    deterministic: bool = False,
) -> str:
    name = f"request {next(_numbers)}"
    stepped.submit_request(
        GenerateRequest(
            request_id=name,
            prompt=prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            top_logprobs=0,
            deterministic=deterministic,
        )
    )
    return name


Answer = list[tuple[str, float]]
"""Tokens with the log probability of each: a single other bit shows."""


def answer(stepped: SteppedScheduler, name: str) -> Answer:
    return [
        (event.text, event.logprob.logprob)
        for event in stepped.events
        if isinstance(event, Token) and event.request_id == name and event.logprob is not None
    ]


def ask(stepped: SteppedScheduler, prompt: str, sampling: Sampling = SEEDED) -> Answer:
    name = submit(stepped, prompt, sampling)
    stepped.run()
    return answer(stepped, name)


def empty(stepped: SteppedScheduler) -> None:
    for slot in stepped.scheduler.kv_cache.tokens:
        stepped.scheduler.kv_cache.clear(slot)


def test_a_request_with_a_seed_has_no_drafts_whose_number_is_measured(
    stepped: SteppedScheduler,
) -> None:
    prompt = "one two three four five six seven eight nine ten. " * 4 + "one two three"
    name = submit(stepped, prompt, Sampling(temperature=0, seed=1))
    stepped.run()
    assert stepped.finished(name).timings.drafted == 0


@pytest.mark.parametrize("words", [50, 200])
def test_the_first_answer_with_a_seed_is_the_same_as_its_repetitions(
    stepped: SteppedScheduler, words: int
) -> None:
    prompt = long_prompt(words, words)
    names = []
    for _ in range(3):
        names.append(submit(stepped, prompt))
        stepped.run()
    first, *repetitions = [answer(stepped, name) for name in names]
    assert first
    assert all(each == first for each in repetitions)
    chunk = stepped.model.fixed_chunk_tokens
    tokens = len(stepped.model.vocab.tokenize(prompt, special=False))
    assert stepped.finished(names[2]).cached_tokens == (tokens - 1) // chunk * chunk


def test_a_seed_gives_the_text_of_an_empty_cache_whatever_computed_what_is_in_it(
    stepped: SteppedScheduler,
) -> None:
    first = long_prompt(1, 180)
    second = first + "".join(text for text, _ in ask(stepped, first)) + long_prompt(2, 40)
    empty(stepped)
    expected = ask(stepped, second)
    empty(stepped)
    ask(stepped, first)  # a turn before it, with its answer
    assert ask(stepped, second) == expected
    empty(stepped)
    ask(stepped, second[:500], Sampling(temperature=1.0, seed=None))  # in chunks of other sizes
    ask(stepped, long_prompt(3, 60), Sampling())
    assert ask(stepped, second) == expected
    for number in range(2):  # in company: other batches
        submit(stepped, first + f" {number}", Sampling())
    stepped.run()
    assert ask(stepped, second) == expected


def test_a_deterministic_answer_is_the_same_in_company(stepped: SteppedScheduler) -> None:
    prompt = long_prompt(11, 190)
    empty(stepped)
    expected = ask(stepped, prompt)
    others = [submit(stepped, long_prompt(12, 150), Sampling()) for _ in range(2)]
    stepped.step()
    name = submit(stepped, prompt, deterministic=True)
    stepped.run()
    assert answer(stepped, name) == expected
    assert stepped.finished(name).batch_share == stepped.finished(name).batches
    assert all(stepped.text(other) for other in others)


def test_a_deterministic_answer_needs_a_seed_or_temperature_0() -> None:
    for sampling in (Sampling(seed=3), Sampling(temperature=0)):
        check_generate(
            GenerateRequest(request_id="a", prompt="x", sampling=sampling, deterministic=True)
        )
    with pytest.raises(BadRequest, match="needs a seed, or temperature 0"):
        check_generate(GenerateRequest(request_id="a", prompt="x", deterministic=True))


@given(st.integers(1, 512), st.integers(0, 3000), st.integers(1, 3000))
def test_what_is_reused_ends_where_a_chunk_of_a_fresh_prompt_does(
    size: int, cached: int, prompt: int
) -> None:
    chunks = FixedChunks(size)

    def ends(start: int) -> list[int]:
        found = []
        while start < prompt:
            start = min(prompt, chunks.end(start))
            found.append(start)
        return found

    reused = chunks.reusable(cached, prompt)
    assert reused <= min(cached, prompt - 1)
    assert ends(0)[reused // size :] == ends(reused)
    known = 0
    for start, end in itertools.pairwise([0, *ends(0)]):
        known = chunks.extended(known, start, end - start)
    assert known == prompt - prompt % size
