"""A request whose time is over ends between two steps, wherever it is, and its slot is free."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.client.pending import error_of
from localllm.engine.messages import Finished, GenerateRequest, RequestError
from localllm.engine.messages.validation import check_generate
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.errors import BadRequest, DeadlineExceeded, GenerationFailed
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import SteppedScheduler, settings

PROMPT = "".join(random.Random(5).choices(tiny.CHARACTERS, k=90))


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stepped(tmp_path: Path, clock: Clock) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(tiny.plain(tmp_path / "plain.gguf"), settings(parallel=1), clock)
    yield stepped
    stepped.close()


def submit(
    stepped: SteppedScheduler, request_id: str, *, deadline_s: float | None = 5.0, n: int = 1
) -> None:
    request = GenerateRequest(
        request_id=request_id,
        prompt=PROMPT,
        sampling=GREEDY,
        max_tokens=20,
        deadline_s=deadline_s,
        n=n,
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize(PROMPT, special=False)), 1000.0
    )


def refused(stepped: SteppedScheduler, request_id: str) -> RequestError:
    end = stepped.end(request_id)
    assert isinstance(end, RequestError)
    return end


def test_an_answer_that_takes_too_long_says_how_many_tokens_came(
    stepped: SteppedScheduler, clock: Clock
) -> None:
    submit(stepped, "slow")
    for _ in range(7):
        stepped.step()
    clock.now += 5
    stepped.step()
    said = len(stepped.text("slow"))
    assert said > 1
    error = error_of(refused(stepped, "slow"))
    assert isinstance(error, DeadlineExceeded | TimeoutError)
    assert f"5 s has passed: {said} tokens" in str(error)
    assert not stepped.scheduler.busy
    assert len(stepped.scheduler.kv_cache.idle) == 1


def test_a_prompt_that_takes_too_long_says_so(stepped: SteppedScheduler, clock: Clock) -> None:
    submit(stepped, "slow")
    stepped.step()
    clock.now += 6
    stepped.step()
    assert "its prompt was being read" in refused(stepped, "slow").message
    assert not stepped.scheduler.busy


def test_who_waits_too_long_never_runs_and_who_runs_goes_on(
    stepped: SteppedScheduler, clock: Clock
) -> None:
    submit(stepped, "runs", deadline_s=None)
    submit(stepped, "waits")
    stepped.step()
    clock.now += 5
    stepped.run()
    assert "waiting for its turn" in refused(stepped, "waits").message
    assert isinstance(stepped.end("runs"), Finished)


def test_the_slot_of_who_is_late_goes_to_the_next(stepped: SteppedScheduler, clock: Clock) -> None:
    submit(stepped, "late")
    submit(stepped, "next", deadline_s=None)
    stepped.step()
    clock.now += 5
    stepped.step()
    assert refused(stepped, "late").code == "deadline"
    stepped.run()
    assert isinstance(stepped.end("next"), Finished)


def test_a_deadline_ends_every_answer_with_one_word(
    stepped: SteppedScheduler, clock: Clock
) -> None:
    submit(stepped, "many", n=4)
    for _ in range(5):
        stepped.step()
    clock.now += 5
    stepped.step()
    assert refused(stepped, "many").code == "deadline"
    assert not stepped.scheduler.busy


def test_each_deadline_is_kept_apart(stepped: SteppedScheduler, clock: Clock) -> None:
    for seconds in (30.0, 10.0, 20.0):
        submit(stepped, f"r{seconds:.0f}", deadline_s=seconds)
    late: list[str] = []
    for now in (1009.0, 1010.0, 1019.0, 1020.0):
        clock.now = now
        stepped.step()
        late = [e.request_id for e in stepped.events if isinstance(e, RequestError)]
        assert len(late) == (now >= 1010) + (now >= 1020)
    assert late == ["r10", "r20"]


def test_in_time_is_in_time(stepped: SteppedScheduler, clock: Clock) -> None:
    submit(stepped, "quick")
    clock.now += 4.99
    stepped.run()
    assert isinstance(stepped.end("quick"), Finished)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_that_is_none_is_refused_by_name(seconds: float) -> None:
    request = GenerateRequest(request_id="a", prompt="x")
    with pytest.raises(BadRequest, match="deadline_s"):
        check_generate(replace(request, deadline_s=seconds))


def test_a_deadline_is_a_failed_generation_and_a_timeout() -> None:
    assert issubclass(DeadlineExceeded, GenerationFailed)
    assert issubclass(DeadlineExceeded, TimeoutError)
