"""A loaded model is timed: on scripted answers, and with prompts of exact length on real ones."""

import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.cpu_time import CpuTime, cpu_time, crowded
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    LoadRequest,
    Timings,
    Token,
)
from localllm.errors import GenerationFailed
from localllm.runtime.benchmark.stopwatch import (
    Stopwatch,
    Timed,
    context_for,
    rate_together,
)


@dataclass
class FakeModel:
    """FakeModel every request at once, with rates that rise by one from run to run."""

    per_word: Callable[[str], int] = lambda _: 1
    first: int = 1
    cached: int = 1
    ends_after: int | None = None
    requests: list[GenerateRequest] = field(default_factory=list)

    async def __call__(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        self.requests.append(request)
        assert request.prompt is not None
        assert request.max_tokens is not None
        tokens = min(request.max_tokens, self.ends_after or request.max_tokens)
        for _ in range(tokens):
            yield Token(request_id=request.request_id, text="x")
        rate = float(len(self.requests))
        yield Finished(
            request_id=request.request_id,
            reason=FinishReason.LENGTH,
            prompt_tokens=self.first + sum(map(self.per_word, request.prompt.split())),
            completion_tokens=tokens,
            cached_tokens=self.cached,
            timings=Timings(
                queue_s=0, ttft_s=1, total_s=1, prefill_tps=100 + rate, decode_tps=10 + rate
            ),
        )

    def prompts(self) -> list[list[str]]:
        return [(request.prompt or "").split() for request in self.requests]


async def test_a_prompt_has_exactly_the_tokens_that_were_asked_for() -> None:
    answers = FakeModel()
    timed = await Stopwatch(answers).prompt(512, repetitions=3)
    assert timed.tokens == 512
    assert [len(words) for words in answers.prompts()[-4:]] == [511] * 4


@pytest.mark.parametrize("tokens", [16, 17, 100, 1000])
@pytest.mark.parametrize("per_word", [2, 3, 7])
async def test_a_length_that_the_vocabulary_cannot_make_is_the_next_below(
    tokens: int, per_word: int
) -> None:
    timed = await Stopwatch(FakeModel(per_word=lambda _: per_word)).prompt(tokens, repetitions=1)
    assert tokens - per_word < timed.tokens <= tokens


async def test_words_of_many_lengths_come_close_and_never_above() -> None:
    timed = await Stopwatch(FakeModel(per_word=len)).prompt(512, repetitions=1)
    assert 500 < timed.tokens <= 512


async def test_no_prompt_begins_like_another() -> None:
    answers = FakeModel()
    await Stopwatch(answers).prompt(64, repetitions=20)
    for one, other in itertools.combinations(answers.prompts()[-21:], 2):
        assert one[:6] != other[:6]


async def test_the_first_run_warms_up_and_does_not_count() -> None:
    answers, runs = FakeModel(), []
    watch = Stopwatch(answers, ran=lambda: runs.append(len(answers.requests)))
    timed = await watch.prompt(64, repetitions=3)
    requests = len(answers.requests)
    assert timed.tps == (100.0 + requests - 2, 100.0 + requests - 1, 100.0 + requests)
    assert runs == [requests - 3, requests - 2, requests - 1, requests]


async def test_a_prompt_that_a_cache_answered_is_no_measurement() -> None:
    with pytest.raises(GenerationFailed, match="30 of 64 prompt tokens came from the cache"):
        await Stopwatch(FakeModel(cached=30)).prompt(64, repetitions=1)


async def test_one_answer_is_timed_by_the_engine_and_ignores_the_end_token() -> None:
    answers = FakeModel()
    timed = await Stopwatch(answers).decode(5, parallel=1, repetitions=2)
    assert timed == Timed(tokens=5, tps=(12.0, 13.0))
    assert all(request.ignore_eos for request in answers.requests)
    # The first token of an answer comes out of its prompt.
    assert [request.max_tokens for request in answers.requests] == [6, 6, 6]


async def test_several_answers_are_timed_together_as_their_tokens_come() -> None:
    answers, clock = FakeModel(), itertools.count()
    watch = Stopwatch(answers, clock=lambda: float(next(clock)))
    timed = await watch.decode(5, parallel=4, repetitions=3)
    assert timed.tps == (1.0, 1.0, 1.0)  # the clock ticks once a token
    assert len(answers.requests) == 16
    assert len({request.prompt for request in answers.requests}) == 16


async def test_an_answer_that_ends_early_is_no_measurement() -> None:
    with pytest.raises(GenerationFailed, match="ended after 3 of 6 tokens"):
        await Stopwatch(FakeModel(ends_after=3)).decode(5, parallel=1, repetitions=1)


def test_the_rate_together_starts_when_all_of_them_answer() -> None:
    # The second starts a second later; from 2.0 on, five tokens come in three seconds.
    assert rate_together([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]) == pytest.approx(5 / 3)


def test_a_rate_over_no_time_is_refused() -> None:
    with pytest.raises(GenerationFailed, match="too fast"):
        rate_together([[1.0], [1.0]])


def test_mean_and_standard_deviation_are_those_of_a_sample() -> None:
    timed = Timed(tokens=1, tps=(1.0, 2.0, 3.0))
    assert (timed.mean, timed.stdev) == (2.0, 1.0)
    assert Timed(tokens=1, tps=(4.0,)).stdev is None


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
async def test_real_prompts_are_exact_and_new_to_the_engine(
    model: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    engine, ends = ProcessEngine(), []
    settings = LoadSettings(context=context_for(prompt_tokens=96, gen_tokens=1), threads=2)
    async for _ in engine.load(LoadRequest(path=str(path), settings=settings)):
        pass

    async def generate(request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        async for event in engine.generate(request):
            if isinstance(event, Finished):
                ends.append(event)
            yield event

    timed = await Stopwatch(generate).prompt(96, repetitions=5)
    await engine.close()
    assert timed.tokens == 96
    assert [done.prompt_tokens for done in ends[-6:]] == [96] * 6
    assert all(done.cached_tokens <= 4 for done in ends[-6:])
    assert all(rate > 0 for rate in timed.tps)


# --- whether other programs had the processors ---

START = CpuTime(at_s=100.0, all_s=1000.0, own_s=10.0)


@pytest.mark.parametrize(
    ("all_s", "own_s", "threads", "processors", "expected"),
    [
        (20.0, 20.0, 2, 2, False),  # two threads for ten seconds, and nobody else
        (22.0, 20.0, 2, 2, False),  # a fifth of a processor: what an idle desktop uses
        (20.0, 10.0, 2, 2, True),  # others had one of the two
        (50.0, 20.0, 2, 8, False),  # others had three of eight, which leaves five for two threads
        (90.0, 20.0, 2, 8, True),
    ],
)
def test_it_is_crowded_when_the_threads_have_no_processor_each(
    all_s: float, own_s: float, threads: int, processors: int, expected: bool
) -> None:
    end = CpuTime(at_s=110.0, all_s=1000.0 + all_s, own_s=10.0 + own_s)
    assert crowded(START, end, threads=threads, processors=processors) is expected


def test_what_cannot_be_known_is_not_crowded() -> None:
    end = CpuTime(at_s=110.0, all_s=1100.0, own_s=10.0)
    assert crowded(START, end, threads=2, processors=2)
    assert not crowded(None, end, threads=2, processors=2)
    assert not crowded(START, None, threads=2, processors=2)
    assert not crowded(START, end, threads=2, processors=None)
    assert not crowded(START, START, threads=2, processors=2)


def test_this_system_tells_and_its_clocks_go_forward() -> None:
    before = cpu_time()
    sum(i * i for i in range(300_000))
    after = cpu_time()
    assert before is not None
    assert after is not None
    assert after.at_s > before.at_s
    assert after.own_s >= before.own_s > 0
    assert after.all_s >= after.own_s
