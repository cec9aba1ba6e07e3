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
from localllm.engine.worker.llama.model import Row
from localllm.errors import QueueFull
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.driven import Driven, settings

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
def driven(plain: Path) -> Iterator[Driven]:
    driven = Driven(plain, settings(parallel=3))
    yield driven
    driven.close()


def asking(n: int, *, max_tokens: int = 12, sampling: Sampling = WARM) -> GenerateRequest:
    return GenerateRequest(
        request_id="many", prompt=PROMPT, sampling=sampling, max_tokens=max_tokens, n=n
    )


def submit(driven: Driven, request: GenerateRequest, prompt: str = PROMPT) -> None:
    driven.scheduler.submit(request, driven.model.tokenize(prompt, special=False), 0.0)


def texts(driven: Driven, n: int) -> list[str]:
    tokens = [e for e in driven.events if isinstance(e, Token) and e.request_id == "many"]
    return ["".join(e.text for e in tokens if e.index == index) for index in range(n)]


def ends(driven: Driven) -> list[Finished]:
    return [e for e in driven.events if isinstance(e, Finished) and e.request_id == "many"]


def count_rows(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each batch computes, from now on."""
    counts: list[int] = []
    decode: Callable[[list[Row]], None] = driven.model.decode

    def counted(rows: list[Row]) -> None:
        counts.append(len(rows))
        decode(rows)

    monkeypatch.setattr(driven.model, "decode", counted)
    return counts


def test_every_answer_is_the_one_that_its_seed_gives_alone(any_model: Path) -> None:
    driven = Driven(any_model, settings(parallel=3))
    submit(driven, asking(3))
    driven.run()
    together = texts(driven, 3)
    assert len(set(together)) == 3
    for index, text in enumerate(together):
        alone = Driven(any_model, settings(parallel=1))
        submit(alone, asking(1, sampling=replace(WARM, seed=11 + index)))
        alone.run()
        assert texts(alone, 1) == [text]
        alone.close()
    driven.close()


def test_the_prompt_of_all_answers_is_computed_once(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(driven, monkeypatch)
    submit(driven, asking(3, max_tokens=1))
    driven.run()
    assert sum(counts) == len(PROMPT)
    assert [(e.prompt_tokens, e.completion_tokens, e.cached_tokens) for e in ends(driven)] == [
        (90, 1, 0)
    ] * 3


def test_a_short_prompt_is_computed_once_too(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(driven, monkeypatch)
    submit(driven, asking(3, max_tokens=1), "abc")
    driven.run()
    assert sum(counts) == 3


def test_answers_that_have_no_slot_wait_and_take_the_prompt_from_the_cache(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_rows(driven, monkeypatch)
    submit(driven, asking(10, max_tokens=5))
    driven.run()
    assert sorted(e.index for e in ends(driven)) == list(range(10))
    assert [e.remaining for e in ends(driven)] == list(reversed(range(10)))
    assert {e.reason for e in ends(driven)} == {FinishReason.LENGTH}
    assert sum(counts) <= len(PROMPT) + 10 * 4 + 7  # and the prompt's last token for each
    assert len(set(texts(driven, 10))) == 10


def test_progress_of_the_prompt_is_told_once(driven: Driven) -> None:
    submit(driven, asking(3))
    driven.run()
    progress = [e.processed for e in driven.events if isinstance(e, PromptProgress)]
    assert progress == [32, 64, 90]


def test_at_temperature_0_all_answers_are_the_same(driven: Driven) -> None:
    submit(driven, asking(3, sampling=GREEDY))
    driven.run()
    assert len(set(texts(driven, 3))) == 1


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancelling_ends_every_answer_and_frees_every_slot(driven: Driven, steps: int) -> None:
    submit(driven, asking(5))
    for _ in range(steps):
        driven.step()
    driven.scheduler.cancel("many")
    driven.check()
    assert [e.remaining for e in ends(driven)] == [4, 3, 2, 1, 0]
    assert {e.reason for e in ends(driven)} == {FinishReason.CANCELLED}
    assert not driven.scheduler.busy


def test_a_grammar_holds_for_each_answer_apart(driven: Driven) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="[a-d]{3}x")
    submit(driven, replace(asking(5), grammar=grammar))
    driven.run()
    answers = texts(driven, 5)
    assert all(
        len(each) == 4 and each[3] == "x" and set(each[:3]) <= set("abcd") for each in answers
    )
    assert len(set(answers)) > 1


def test_a_refusal_ends_all_answers_once(driven: Driven) -> None:
    # No character of this grammar is in the vocabulary: nothing can begin the answer.
    grammar = Grammar(kind=GrammarKind.REGEX, text="é{3}")
    submit(driven, replace(asking(5), grammar=grammar))
    driven.submit("other", PROMPT + "other", max_tokens=4)
    driven.run()
    (refused,) = (e for e in driven.events if isinstance(e, RequestError))
    assert refused.request_id == "many"
    assert "grammar" in refused.message.lower()
    assert isinstance(driven.end("other"), Finished)


def test_a_grammar_that_is_none_refuses_all_answers_once(driven: Driven) -> None:
    submit(driven, replace(asking(5), grammar=Grammar(kind=GrammarKind.REGEX, text="((")))
    driven.submit("other", PROMPT, max_tokens=4)
    driven.run()
    assert [e.request_id for e in driven.events if isinstance(e, RequestError)] == ["many"]
    assert isinstance(driven.end("other"), Finished)


def test_answers_beside_others_requests_leave_the_books_right(driven: Driven) -> None:
    dice = random.Random(3)
    for number in range(12):
        request = replace(asking(dice.randrange(1, 6)), request_id=f"r{number}")
        prompt = PROMPT[: dice.randrange(1, 90)]
        submit(driven, request, prompt)
        for _ in range(dice.randrange(6)):
            driven.step(aborted=dice.random() < 0.2)
        if dice.random() < 0.3:
            driven.scheduler.cancel(f"r{dice.randrange(number + 1)}")
            driven.check()
    driven.run()
    for number in range(12):
        found = [
            e for e in driven.events if isinstance(e, Finished) and e.request_id == f"r{number}"
        ]
        assert found[-1].remaining == 0
        assert sorted(e.index for e in found) == list(range(len(found)))


def test_more_answers_than_may_wait_are_refused(driven: Driven) -> None:
    for number in range(2):
        submit(driven, replace(asking(120), request_id=f"r{number}"))
    with pytest.raises(QueueFull, match="240"):
        submit(driven, asking(17))
    submit(driven, asking(16))
