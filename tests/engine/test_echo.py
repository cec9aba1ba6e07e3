"""The prompt said again before its answer, and how likely each of its tokens was."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.messages import Finished, FinishReason, GenerateRequest, Token
from localllm.engine.messages.validation import check_generate
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sequences.sequence import PromptEcho
from localllm.errors import BadRequest
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import SteppedScheduler, settings

PROMPT = "".join(random.Random(5).choices(tiny.CHARACTERS, k=50))
KINDS = {"plain": tiny.plain, "windowed": tiny.windowed, "recurrent": tiny.recurrent}


@pytest.fixture(params=KINDS)
def stepped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(KINDS[request.param](tmp_path / "model.gguf"), settings(parallel=3))
    yield stepped
    stepped.close()


def echo(*, max_tokens: int = 4, top: int | None = 2, request_id: str = "echo") -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        prompt=PROMPT,
        sampling=GREEDY,
        max_tokens=max_tokens,
        top_logprobs=top,
        echo=True,
    )


def submit(stepped: SteppedScheduler, request: GenerateRequest) -> None:
    prompt = stepped.model.vocab.tokenize(request.prompt or "", special=False)
    stepped.scheduler.submit(request, Prompt(tokens=prompt), 0.0)


def tokens(stepped: SteppedScheduler, request_id: str = "echo") -> list[Token]:
    return [e for e in stepped.events if isinstance(e, Token) and e.request_id == request_id]


def expected(stepped: SteppedScheduler) -> list[float]:
    """The log probability of each token of PROMPT but the first, one after the other."""
    found = []
    for end in range(1, len(PROMPT)):
        row = stepped.logits(PROMPT[:end]).astype(np.float64)
        own = stepped.model.vocab.tokenize(PROMPT[end], special=False)[0]
        found.append(float(row[own] - row.max() - np.log(np.exp(row - row.max()).sum())))
    return found


def test_a_prompt_is_scored_token_by_token(stepped: SteppedScheduler) -> None:
    submit(stepped, echo(max_tokens=0))
    stepped.run()
    said = tokens(stepped)
    assert "".join(each.text for each in said) == PROMPT
    assert all(each.of_prompt for each in said)
    assert said[0].logprob is None
    values = [each.logprob.logprob for each in said[1:] if each.logprob is not None]
    end = stepped.finished("echo")
    assert (end.reason, end.completion_tokens) == (FinishReason.LENGTH, 0)
    assert values == pytest.approx(expected(stepped), abs=2e-3)


def test_the_likeliest_tokens_come_with_each(stepped: SteppedScheduler) -> None:
    submit(stepped, echo(max_tokens=0, top=3))
    stepped.run()
    for each in tokens(stepped)[1:]:
        assert each.logprob is not None
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].logprob >= each.logprob.logprob - 1e-9


def test_the_answer_after_an_echo_is_the_one_without_it(stepped: SteppedScheduler) -> None:
    submit(stepped, echo(max_tokens=6))
    stepped.run()
    answer = "".join(each.text for each in tokens(stepped) if not each.of_prompt)
    assert answer == stepped.ask(PROMPT, max_tokens=6)
    assert stepped.finished("echo").completion_tokens == 6


def test_an_echo_without_log_probabilities_reuses_the_cache(stepped: SteppedScheduler) -> None:
    stepped.ask(PROMPT, max_tokens=1)
    submit(stepped, echo(top=None))
    stepped.run()
    said = [each for each in tokens(stepped) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert all(each.logprob is None for each in said)
    assert stepped.finished("echo").cached_tokens == (0 if not stepped.memory.can_rewind else 49)


def test_what_is_scored_is_computed_again_even_when_it_is_cached(stepped: SteppedScheduler) -> None:
    stepped.ask(PROMPT, max_tokens=1)
    submit(stepped, echo(max_tokens=1))
    stepped.run()
    assert stepped.finished("echo").cached_tokens == 0
    assert sum(each.logprob is not None for each in tokens(stepped) if each.of_prompt) == 49


def test_no_batch_asks_for_more_logits_than_there_is_room_for(
    stepped: SteppedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    decode = stepped.model.decode

    def counted(rows: list[object]) -> None:
        asked_for.append(sum(row.output for row in rows))  # type: ignore[attr-defined]
        decode(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(stepped.model, "decode", counted)
    for number in range(4):
        submit(stepped, echo(request_id=f"echo{number}"))
        stepped.submit(f"other{number}", PROMPT[number:], max_tokens=9)
        stepped.step()
    stepped.run()
    assert stepped.model.max_outputs == 3
    assert max(asked_for) == 3  # more would be an assertion of llama.cpp
    for number in range(4):
        said = [each for each in tokens(stepped, f"echo{number}") if each.of_prompt]
        assert "".join(each.text for each in said) == PROMPT
        assert sum(each.logprob is not None for each in said) == 49


def test_a_prompt_that_is_read_again_is_not_said_again(stepped: SteppedScheduler) -> None:
    submit(stepped, echo())
    for _ in range(9):
        stepped.step()
    assert 0 < len(tokens(stepped)) < 50
    stepped.lose_cells("echo")
    stepped.run()
    said = [each for each in tokens(stepped) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert stepped.finished("echo").completion_tokens == 4


def test_many_answers_have_one_echo(stepped: SteppedScheduler) -> None:
    submit(stepped, replace(echo(), n=5))
    stepped.run()
    said = [each for each in tokens(stepped) if each.of_prompt]
    assert "".join(each.text for each in said) == PROMPT
    assert {each.index for each in said} == {0}
    ends = [e for e in stepped.events if isinstance(e, Finished)]
    assert sorted(e.index for e in ends) == [0, 1, 2, 3, 4]


def test_a_prompt_of_token_ids_is_taken_as_it_is(stepped: SteppedScheduler) -> None:
    ids = (5, 6, 7, tiny.END, 8)
    request = replace(echo(max_tokens=0), prompt=None, prompt_tokens=ids)
    stepped.scheduler.submit(request, Prompt(tokens=list(ids)), 0.0)
    stepped.run()
    said = tokens(stepped)
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
    vocab: Vocabulary = Pieces()  # type: ignore[assignment]  # all that an echo needs
    echo = PromptEcho(vocab, prompt)
    assert "".join([*map(echo.push, ids), echo.finish()]) == text
