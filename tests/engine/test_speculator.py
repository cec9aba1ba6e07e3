"""Speculative decoding changes when tokens come and nothing else."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Sampling,
    Token,
)
from localllm.engine.worker.llama.model import BatchToken
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sequences.batch import count_groups
from localllm.engine.worker.speculative.draft_state import Draft
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, settings

KINDS = {
    "plain": tiny.plain,
    "windowed": tiny.windowed,
    "recurrent": tiny.recurrent,
    "hybrid": tiny.hybrid,
    "rolling back": tiny.rolling_back,
}
ALWAYS = Speculate.NGRAM
EXACT = LoadSettings(context=1024, parallel=2, batch=64, ubatch=64, threads=1)
"""With one thread and no repacked weights a row's logits are the same in every batch."""

REPEATING = "1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2,"


class Oracle:
    """Knows how texts go on, and is wrong every so often."""

    def __init__(self, texts: list[list[int]], *, wrong: float) -> None:
        self._texts = texts
        self._wrong = wrong
        self._dice = random.Random(7)

    def draft(self, texts: Mapping[int, Sequence[int]], most: int) -> dict[int, Draft]:
        return {slot: self._continue(list(text), most) for slot, text in texts.items()}

    def _continue(self, text: list[int], most: int) -> Draft:
        for known in self._texts:
            if known[: len(text)] == text:
                tokens = tuple(
                    0 if self._dice.random() < self._wrong else token
                    for token in known[len(text) : len(text) + most]
                )
                return Draft(tokens, (3,) * len(tokens))
        return Draft((0,) * most, (0,) * most)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def reference(model: Path) -> Iterator[Reference]:
    reference = Reference(model, settings(parallel=1))
    yield reference
    reference.close()


@pytest.fixture(scope="module")
def plainly(smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(smollm2, EXACT)
    yield stepped
    stepped.close()


@pytest.fixture(scope="module")
def drafting(smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(smollm2, replace(EXACT, speculate=ALWAYS), in_company=True)
    yield stepped
    stepped.close()


@pytest.fixture(scope="module")
def shallow_plainly(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(shallow_smollm2, EXACT, in_company=True)
    yield stepped
    stepped.close()


@pytest.fixture(scope="module")
def shallow_drafting(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    """One that repeats little of the prompt: most drafts are wrong."""
    stepped = SteppedScheduler(shallow_smollm2, replace(EXACT, speculate=ALWAYS), in_company=True)
    yield stepped
    stepped.close()


def characters(dice: random.Random, count: int) -> str:
    return "".join(dice.choices(tiny.CHARACTERS, k=count))


def finished(stepped: SteppedScheduler, request_id: str) -> Finished:
    end = stepped.end(request_id)
    assert isinstance(end, Finished)
    return end


def submit(stepped: SteppedScheduler, request: GenerateRequest) -> None:
    assert request.prompt is not None
    tokens = stepped.model.vocab.tokenize(request.prompt, special=False)
    stepped.scheduler.submit(request, Prompt(tokens=tokens), 0.0)


def answer(stepped: SteppedScheduler, request: GenerateRequest) -> list[Token]:
    """The tokens of one answer, alone, with nothing left of an earlier one."""
    stepped.events.clear()
    submit(stepped, request)
    stepped.run()
    return [event for event in stepped.events if isinstance(event, Token)]


def text(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_slots_that_follow_each_other_are_one_group() -> None:
    assert count_groups([0, 6]) == 2
    assert count_groups([2, 0, 1, 5, 4, 7]) == 3
    assert count_groups([3]) == 1
    assert count_groups([]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_answers_of_many_clients_stay_the_same(
    model: Path, reference: Reference, seed: int
) -> None:
    dice = random.Random(seed)
    prompts = [characters(dice, dice.randrange(20, 120)) for _ in range(6)]
    alone = SteppedScheduler(model, settings(parallel=1))
    known = [
        alone.model.vocab.tokenize(prompt + alone.ask(prompt, max_tokens=50), special=False)
        for prompt in prompts
    ]
    alone.close()
    stepped = SteppedScheduler(
        model, replace(settings(), speculate=ALWAYS), drafter=Oracle(known, wrong=0.1)
    )
    asked: dict[str, tuple[str, int]] = {}
    for step in range(160):
        if dice.random() < 0.12:
            asked[f"r{step}"] = prompt, limit = dice.choice(prompts), dice.randrange(1, 50)
            stepped.submit(f"r{step}", prompt, max_tokens=limit)
        elif dice.random() < 0.03 and asked:
            stepped.scheduler.cancel(dice.choice(list(asked)))
        stepped.step(aborted=dice.random() < 0.05 and stepped.memory.can_rewind)
    stepped.run()
    ends = {request_id: finished(stepped, request_id) for request_id in asked}
    for request_id, (prompt, limit) in asked.items():
        whole = ends[request_id].reason is not FinishReason.CANCELLED
        said = stepped.text(request_id)
        assert reference.agrees(prompt, said, max_tokens=limit, whole=whole), request_id
        assert len(said) == ends[request_id].completion_tokens
    drafted = sum(end.timings.drafted for end in ends.values())
    accepted = sum(end.timings.accepted for end in ends.values())
    if not stepped.memory.can_reject_drafts:  # its state cannot take a token back
        assert drafted == 0
    else:
        assert 0 < accepted < drafted
    stepped.close()


def test_a_wrong_draft_costs_no_second_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.rolling_back(tmp_path / "lfm2.gguf")
    prompt = "abcdefgh" * 4
    alone = SteppedScheduler(path, settings(parallel=1))
    expected = alone.ask(prompt, max_tokens=60)
    known = alone.model.vocab.tokenize(prompt + expected, special=False)
    alone.close()
    load = replace(settings(parallel=1), speculate=ALWAYS)
    stepped = SteppedScheduler(path, load, drafter=Oracle([known], wrong=0.3))
    decode, remove_cells = stepped.model.decode, stepped.model.remove_cells
    batches: list[int] = []

    def counted(batch: Sequence[BatchToken]) -> None:
        batches.append(len(batch))
        decode(batch)

    def bounded(slot: int, start: int = 0, end: int = -1) -> bool:
        rejected = stepped.model.newest_position(slot) + 1 - start
        assert start == 0 or rejected < batches[-1]  # llama.cpp would not notice
        return remove_cells(slot, start, end)

    monkeypatch.setattr(stepped.model, "decode", counted)
    monkeypatch.setattr(stepped.model, "remove_cells", bounded)
    assert stepped.ask(prompt, max_tokens=60) == expected
    (end,) = (event for event in stepped.events if isinstance(event, Finished))
    drafted, accepted = end.timings.drafted, end.timings.accepted
    assert 0 < accepted < drafted
    assert sum(batches) == len(prompt) + 59 + drafted - accepted
    stepped.close()


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=0.5),
        Sampling(temperature=0.7, top_k=5, repeat_penalty=1.05),
        Sampling(temperature=0.6, mirostat=2),
        Sampling(temperature=0.6, dry_multiplier=0.5, xtc_probability=0.3),
    ],
    ids=["greedy", "warm", "penalties", "mirostat", "dry"],
)
def test_the_same_is_drawn_with_drafts_and_without(
    shallow_plainly: SteppedScheduler, shallow_drafting: SteppedScheduler, sampling: Sampling
) -> None:
    accepted = drafted = 0
    for seed in range(4):
        request = GenerateRequest(
            request_id="a",
            prompt=REPEATING + " 3, 4, 5," * seed,
            sampling=replace(sampling, seed=seed),
            max_tokens=40,
            ignore_eos=True,
        )
        expected = text(answer(shallow_plainly, request))
        assert text(answer(shallow_drafting, request)) == expected
        assert finished(shallow_plainly, "a").timings.drafted == 0
        accepted += finished(shallow_drafting, "a").timings.accepted
        drafted += finished(shallow_drafting, "a").timings.drafted
    assert 0 < accepted < drafted


def test_accepted_tokens_save_steps(drafting: SteppedScheduler) -> None:
    request = GenerateRequest(
        request_id="a", prompt=REPEATING, sampling=GREEDY, max_tokens=40, ignore_eos=True
    )
    drafting.events.clear()
    submit(drafting, request)
    steps = 0
    while drafting.scheduler.busy:
        drafting.step()
        steps += 1
    end = finished(drafting, "a")
    assert end.completion_tokens == 40
    assert end.timings.accepted >= 30
    assert steps < 15


def test_an_answer_ends_where_it_would_have_ended(
    plainly: SteppedScheduler, drafting: SteppedScheduler
) -> None:
    four = drafting.model.vocab.tokenize("1, 4", special=False, ends=False)[-1]
    for limits in (
        GenerateRequest(request_id="a", prompt=REPEATING, max_tokens=7),
        GenerateRequest(request_id="a", prompt=REPEATING, max_tokens=30, stop=("4, 1, 2",)),
        GenerateRequest(request_id="a", prompt=REPEATING, max_tokens=30, stop_tokens=(four,)),
        GenerateRequest(request_id="a", prompt=REPEATING, max_tokens=30, min_tokens=20),
    ):
        request = replace(limits, sampling=GREEDY)
        expected = text(answer(plainly, request))
        end = finished(plainly, "a")
        assert text(answer(drafting, request)) == expected
        ended = finished(drafting, "a")
        assert (ended.reason, ended.completion_tokens) == (end.reason, end.completion_tokens)
        next_prompt = replace(request, prompt=REPEATING + expected + "!", stop=(), max_tokens=3)
        expected = text(answer(plainly, next_prompt))  # nothing wrong is left in the cache
        assert text(answer(drafting, next_prompt)) == expected


def test_log_probabilities_are_those_of_the_tokens(
    plainly: SteppedScheduler, drafting: SteppedScheduler
) -> None:
    request = GenerateRequest(
        request_id="a", prompt=REPEATING, sampling=GREEDY, max_tokens=20, top_logprobs=2
    )
    expected = answer(plainly, request)
    assert answer(drafting, request) == expected
    assert finished(drafting, "a").timings.accepted > 0


def test_a_grammar_is_followed_through_drafts(
    plainly: SteppedScheduler, drafting: SteppedScheduler
) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="( 3, 4, 1, 2,){3} 3, 4, 5!")
    for sampling in (GREEDY, Sampling(temperature=0.7, seed=3)):
        request = GenerateRequest(
            request_id="a", prompt=REPEATING, sampling=sampling, max_tokens=60, grammar=grammar
        )
        expected = text(answer(plainly, request))
        assert text(answer(drafting, request)) == expected == " 3, 4, 1, 2," * 3 + " 3, 4, 5!"
        assert finished(drafting, "a").timings.accepted > 0


def test_a_full_context_is_filled_and_no_further(shallow_smollm2: Path) -> None:
    load = replace(EXACT, context=256, parallel=1)
    texts = []
    for speculate in (Speculate.OFF, ALWAYS):
        stepped = SteppedScheduler(
            shallow_smollm2, replace(load, speculate=speculate), in_company=True
        )
        request = GenerateRequest(
            request_id="a", prompt=REPEATING * 3, sampling=GREEDY, ignore_eos=True
        )
        texts.append(text(answer(stepped, request)))
        end = finished(stepped, "a")
        assert end.reason is FinishReason.LENGTH
        assert end.prompt_tokens + end.completion_tokens == 256
        stepped.close()
    assert texts[0] == texts[1]


def test_two_conversations_have_drafts_in_one_step(
    plainly: SteppedScheduler, drafting: SteppedScheduler
) -> None:
    def request(request_id: str, prompt: str) -> GenerateRequest:
        return GenerateRequest(
            request_id=request_id, prompt=prompt, sampling=GREEDY, max_tokens=30, ignore_eos=True
        )

    asked = {"one": REPEATING, "two": "The cat sat on the mat.\n" * 4}
    expected = {name: text(answer(plainly, request(name, asked[name]))) for name in asked}
    drafting.events.clear()
    for name, prompt in asked.items():
        submit(drafting, request(name, prompt))
    drafting.run()
    for name in asked:
        assert drafting.text(name) == expected[name]
        assert finished(drafting, name).timings.accepted > 0


def test_greedy_answers_under_penalties_have_no_drafts(drafting: SteppedScheduler) -> None:
    request = GenerateRequest(
        request_id="a",
        prompt=REPEATING,
        sampling=replace(GREEDY, repeat_penalty=1.1),
        max_tokens=20,
    )
    answer(drafting, request)
    assert finished(drafting, "a").timings.drafted == 0
