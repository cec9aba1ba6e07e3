"""Several answers to one prompt: it is read once, and each is what it would be alone."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    PromptProgress,
    RequestError,
    Sampling,
    Token,
)
from localllm.engine.worker.llama.model import BatchToken
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.errors import QueueFull
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import SteppedScheduler, settings

WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=11)
KINDS = {"plain": tiny.plain, "windowed": tiny.windowed, "recurrent": tiny.recurrent}
PROMPT = "".join(random.Random(5).choices(tiny.CHARACTERS, k=90))


@pytest.fixture(scope="module", params=KINDS)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


@pytest.fixture
def stepped(plain: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(plain, settings(parallel=3))
    yield stepped
    stepped.close()


def asking(n: int, *, max_tokens: int = 12, sampling: Sampling = WARM) -> GenerateRequest:
    return GenerateRequest(
        request_id="many", prompt=PROMPT, sampling=sampling, max_tokens=max_tokens, n=n
    )


def submit(stepped: SteppedScheduler, request: GenerateRequest, prompt: str = PROMPT) -> None:
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize(prompt, special=False)), 0.0
    )


def texts(stepped: SteppedScheduler, n: int) -> list[str]:
    tokens = [e for e in stepped.events if isinstance(e, Token) and e.request_id == "many"]
    return ["".join(e.text for e in tokens if e.index == index) for index in range(n)]


def ends(stepped: SteppedScheduler) -> list[Finished]:
    return [e for e in stepped.events if isinstance(e, Finished) and e.request_id == "many"]


def count_rows(stepped: SteppedScheduler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each batch computes, from now on."""
    counts: list[int] = []
    decode: Callable[[list[BatchToken]], None] = stepped.model.decode

    def counted(rows: list[BatchToken]) -> None:
        counts.append(len(rows))
        decode(rows)

    monkeypatch.setattr(stepped.model, "decode", counted)
    return counts


def test_every_answer_is_the_one_that_its_seed_gives_alone(any_model: Path) -> None:
    stepped = SteppedScheduler(any_model, settings(parallel=3))
    submit(stepped, asking(3))
    stepped.run()
    together = texts(stepped, 3)
    assert len(set(together)) == 3
    for index, text in enumerate(together):
        alone = SteppedScheduler(any_model, settings(parallel=1))
        submit(alone, asking(1, sampling=replace(WARM, seed=11 + index)))
        alone.run()
        assert texts(alone, 1) == [text]
        alone.close()
    stepped.close()


def test_the_prompt_of_all_answers_is_computed_once(
    stepped: SteppedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(stepped, monkeypatch)
    submit(stepped, asking(3, max_tokens=1))
    stepped.run()
    assert sum(counts) == len(PROMPT)
    assert [(e.prompt_tokens, e.completion_tokens, e.cached_tokens) for e in ends(stepped)] == [
        (90, 1, 0)
    ] * 3


def test_a_short_prompt_is_computed_once_too(
    stepped: SteppedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(stepped, monkeypatch)
    submit(stepped, asking(3, max_tokens=1), "abc")
    stepped.run()
    assert sum(counts) == 3


def test_answers_that_have_no_slot_wait_and_take_the_prompt_from_the_cache(
    stepped: SteppedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(stepped, monkeypatch)
    drawn = replace(WARM, seed=None)
    submit(stepped, replace(asking(10, sampling=drawn, max_tokens=5), ignore_eos=True))
    stepped.run()
    assert sorted(e.index for e in ends(stepped)) == list(range(10))
    assert [e.remaining for e in ends(stepped)] == list(reversed(range(10)))
    assert {e.reason for e in ends(stepped)} == {FinishReason.LENGTH}
    assert sum(counts) <= len(PROMPT) + 10 * 4 + 7  # and the prompt's last token for each
    assert len(set(texts(stepped, 10))) > 5  # drawn at random, of few characters


def test_progress_of_the_prompt_is_told_once(stepped: SteppedScheduler) -> None:
    submit(stepped, asking(3))
    stepped.run()
    progress = [e.processed for e in stepped.events if isinstance(e, PromptProgress)]
    assert progress == [0, 32, 64, 90]


def test_at_temperature_0_all_answers_are_the_same(stepped: SteppedScheduler) -> None:
    submit(stepped, asking(3, sampling=GREEDY))
    stepped.run()
    assert len(set(texts(stepped, 3))) == 1


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancelling_ends_every_answer_and_frees_every_slot(
    stepped: SteppedScheduler, steps: int
) -> None:
    submit(stepped, asking(5))
    for _ in range(steps):
        stepped.step()
    stepped.scheduler.cancel("many")
    stepped.check()
    assert [e.remaining for e in ends(stepped)] == [4, 3, 2, 1, 0]
    assert {e.reason for e in ends(stepped)} == {FinishReason.CANCELLED}
    assert not stepped.scheduler.busy


def test_a_grammar_holds_for_each_answer_apart(stepped: SteppedScheduler) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="[a-d]{3}x")
    submit(stepped, replace(asking(5), grammar=grammar))
    stepped.run()
    answers = texts(stepped, 5)
    assert all(
        len(each) == 4 and each[3] == "x" and set(each[:3]) <= set("abcd") for each in answers
    )
    assert len(set(answers)) > 1


def test_a_refusal_ends_all_answers_once(stepped: SteppedScheduler) -> None:
    # No character of this grammar is in the vocabulary: nothing can begin the answer.
    grammar = Grammar(kind=GrammarKind.REGEX, text="é{3}")
    submit(stepped, replace(asking(5), grammar=grammar))
    stepped.submit("other", PROMPT + "other", max_tokens=4)
    stepped.run()
    (refused,) = (e for e in stepped.events if isinstance(e, RequestError))
    assert refused.request_id == "many"
    assert "grammar" in refused.message.lower()
    assert isinstance(stepped.end("other"), Finished)


def test_a_grammar_that_is_none_refuses_all_answers_once(stepped: SteppedScheduler) -> None:
    submit(stepped, replace(asking(5), grammar=Grammar(kind=GrammarKind.REGEX, text="((")))
    stepped.submit("other", PROMPT, max_tokens=4)
    stepped.run()
    assert [e.request_id for e in stepped.events if isinstance(e, RequestError)] == ["many"]
    assert isinstance(stepped.end("other"), Finished)


def test_answers_beside_others_requests_leave_the_books_right(stepped: SteppedScheduler) -> None:
    dice = random.Random(3)
    for number in range(12):
        request = replace(asking(dice.randrange(1, 6)), request_id=f"r{number}")
        prompt = PROMPT[: dice.randrange(1, 90)]
        submit(stepped, request, prompt)
        for _ in range(dice.randrange(6)):
            stepped.step(aborted=dice.random() < 0.2)
        if dice.random() < 0.3:
            stepped.scheduler.cancel(f"r{dice.randrange(number + 1)}")
            stepped.check()
    stepped.run()
    for number in range(12):
        found = [
            e for e in stepped.events if isinstance(e, Finished) and e.request_id == f"r{number}"
        ]
        assert found[-1].remaining == 0
        assert sorted(e.index for e in found) == list(range(len(found)))


def test_more_answers_than_may_wait_are_refused(stepped: SteppedScheduler) -> None:
    for number in range(2):
        submit(stepped, replace(asking(120), request_id=f"r{number}"))
    with pytest.raises(QueueFull, match="240"):
        submit(stepped, asking(17))
    submit(stepped, asking(16))
