"""The prompt said again before its answer, and how likely each of its tokens was."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.messages import Finished, FinishReason, GenerateRequest, Token
from localllm.engine.messages.validation import check_generate
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sequences.sequence import Echo
from localllm.errors import BadRequest
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.driven import Driven, settings

PROMPT = "".join(random.Random(5).choices(tiny.CHARACTERS, k=50))
KINDS = {"plain": tiny.plain, "windowed": tiny.windowed, "recurrent": tiny.recurrent}


@pytest.fixture(params=KINDS)
def driven(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driven]:
    driven = Driven(KINDS[request.param](tmp_path / "model.gguf"), settings(parallel=3))
    yield driven
    driven.close()


def echo(*, max_tokens: int = 4, top: int | None = 2, request_id: str = "echo") -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        prompt=PROMPT,
        sampling=GREEDY,
        max_tokens=max_tokens,
        top_logprobs=top,
        echo=True,
    )


def submit(driven: Driven, request: GenerateRequest) -> None:
    prompt = driven.model.tokenize(request.prompt or "", special=False)
    driven.scheduler.submit(request, prompt, 0.0)


def tokens(driven: Driven, request_id: str = "echo") -> list[Token]:
    return [e for e in driven.events if isinstance(e, Token) and e.request_id == request_id]


def expected(driven: Driven) -> list[float]:
    """The log probability of each token of PROMPT but the first, one after the other."""
    found = []
    for end in range(1, len(PROMPT)):
        row = driven.logits(PROMPT[:end]).astype(np.float64)
        own = driven.model.tokenize(PROMPT[end], special=False)[0]
        found.append(float(row[own] - row.max() - np.log(np.exp(row - row.max()).sum())))
    return found


def test_a_prompt_is_scored_token_by_token(driven: Driven) -> None:
    submit(driven, echo(max_tokens=0))
    driven.run()
    said = tokens(driven)
    assert "".join(each.text for each in said) == PROMPT
    assert all(each.of_prompt for each in said)
    assert said[0].logprob is None
    values = [each.logprob.logprob for each in said[1:] if each.logprob is not None]
    end = driven.finished("echo")
    assert (end.reason, end.completion_tokens) == (FinishReason.LENGTH, 0)
    assert values == pytest.approx(expected(driven), abs=2e-3)


def test_the_likeliest_tokens_come_with_each(driven: Driven) -> None:
    submit(driven, echo(max_tokens=0, top=3))
    driven.run()
    for each in tokens(driven)[1:]:
        assert each.logprob is not None
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].logprob >= each.logprob.logprob - 1e-9


def test_the_answer_after_an_echo_is_the_one_without_it(driven: Driven) -> None:
    submit(driven, echo(max_tokens=6))
    driven.run()
    answer = "".join(each.text for each in tokens(driven) if not each.of_prompt)
    assert answer == driven.ask(PROMPT, max_tokens=6)
    assert driven.finished("echo").completion_tokens == 6


def test_an_echo_without_log_probabilities_reuses_the_cache(driven: Driven) -> None:
    driven.ask(PROMPT, max_tokens=1)
    submit(driven, echo(top=None))
    driven.run()
    said = [each for each in tokens(driven) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert all(each.logprob is None for each in said)
    assert driven.finished("echo").cached_tokens == (0 if driven.model.recurrent else 49)


def test_what_is_scored_is_computed_again_even_when_it_is_cached(driven: Driven) -> None:
    driven.ask(PROMPT, max_tokens=1)
    submit(driven, echo(max_tokens=1))
    driven.run()
    assert driven.finished("echo").cached_tokens == 0
    assert sum(each.logprob is not None for each in tokens(driven) if each.of_prompt) == 49


def test_no_batch_asks_for_more_logits_than_there_is_room_for(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    decode = driven.model.decode

    def counted(rows: list[object]) -> None:
        asked_for.append(sum(row.output for row in rows))  # type: ignore[attr-defined]
        decode(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(driven.model, "decode", counted)
    for number in range(4):
        submit(driven, echo(request_id=f"echo{number}"))
        driven.submit(f"other{number}", PROMPT[number:], max_tokens=9)
        driven.step()
    driven.run()
    assert driven.model.outputs == 3
    assert max(asked_for) == 3  # more would be an assertion of llama.cpp
    for number in range(4):
        said = [each for each in tokens(driven, f"echo{number}") if each.of_prompt]
        assert "".join(each.text for each in said) == PROMPT
        assert sum(each.logprob is not None for each in said) == 49


def test_a_prompt_that_is_read_again_is_not_said_again(driven: Driven) -> None:
    submit(driven, echo())
    for _ in range(9):
        driven.step()
    (running,) = driven.scheduler._running.values()
    assert 0 < len(tokens(driven)) < 50
    driven.scheduler._recompute(running)
    driven.run()
    said = [each for each in tokens(driven) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert driven.finished("echo").completion_tokens == 4


def test_many_answers_have_one_echo(driven: Driven) -> None:
    submit(driven, replace(echo(), n=5))
    driven.run()
    said = [each for each in tokens(driven) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert {each.index for each in said} == {0}
    ends = [e for e in driven.events if isinstance(e, Finished)]
    assert sorted(e.index for e in ends) == [0, 1, 2, 3, 4]


def test_a_prompt_of_token_ids_is_taken_as_it_is(driven: Driven) -> None:
    ids = (5, 6, 7, tiny.END, 8)
    request = replace(echo(max_tokens=0), prompt=None, prompt_tokens=ids)
    driven.scheduler.submit(request, list(ids), 0.0)
    driven.run()
    said = tokens(driven)
    assert "".join(each.text for each in said) == "&'(<end>)"
    assert [each.logprob.token for each in said[1:] if each.logprob is not None] == list(ids[1:])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"echo": False, "max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "n": 2}, "n is 2"),
        ({"n": 0}, "n is 0"),
        ({"n": 129}, "n is 129"),
        ({"prompt_tokens": (1,)}, "one of them"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_generate(replace(echo(), **fields))  # type: ignore[arg-type]


class Pieces:
    """A vocabulary with a BOS and words that begin with spaces, as SentencePiece's do."""

    bos_token = 0
    words = (b"", b" Hello", b" you", b"\xc3", b"\xa9", b" ")

    def piece(self, token: int) -> bytes:
        return self.words[token]

    def token_text(self, token: int) -> str:
        return "<s>" if token == 0 else ""


@pytest.mark.parametrize(
    ("prompt", "ids", "text"),
    [
        ("Hello you", (0, 1, 2), "Hello you"),
        ("Hello you", (1, 2), "Hello you"),
        (" Hello", (0, 1), " Hello"),
        ("<s> Hello", (0, 1), "<s> Hello"),
        ("Hello<s>", (0, 1, 0), "Hello<s>"),
        (None, (0, 1, 2), " Hello you"),
        ("é", (3, 4), "é"),
        ("", (3,), "\ufffd"),
    ],
)
def test_an_echo_is_the_prompt_s_own_text(
    prompt: str | None, ids: tuple[int, ...], text: str
) -> None:
    model: Model = Pieces()  # type: ignore[assignment]  # what an Echo asks of a model
    spoken = Echo(model, prompt)
    assert "".join([*map(spoken.say, ids), spoken.finish()]) == text
