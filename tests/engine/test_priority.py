"""Requests of a later priority: they rest, give up their slots, and lose nothing by it."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Token,
)
from localllm.engine.worker.sequences.sequence import DECODE
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, settings

LOAD = settings(parallel=2, context=512)
PROMPTS = [
    "".join(random.Random(seed).choices(tiny.CHARACTERS, k=length))
    for seed, length in enumerate((90, 20, 60, 10, 40))
]


@pytest.fixture(params=["streams", "unified", "recurrent"])
def load(request: pytest.FixtureRequest) -> tuple[str, LoadSettings]:
    return request.param, replace(LOAD, kv_unified=request.param == "unified")


@pytest.fixture
def path(tmp_path: Path, load: tuple[str, LoadSettings]) -> Path:
    make = tiny.recurrent if load[0] == "recurrent" else tiny.plain
    return make(tmp_path / "model.gguf")


@pytest.fixture
def stepped(path: Path, load: tuple[str, LoadSettings]) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(path, load[1])
    yield stepped
    stepped.close()


@pytest.fixture
def reference(path: Path, load: tuple[str, LoadSettings]) -> Iterator[Reference]:
    reference = Reference(path, replace(load[1], parallel=1))
    yield reference
    reference.close()


def request(name: str, prompt: str, *, priority: int, max_tokens: int = 30) -> GenerateRequest:
    return GenerateRequest(
        request_id=name,
        prompt=prompt,
        sampling=GREEDY,
        max_tokens=max_tokens,
        priority=priority,
        ignore_eos=True,
    )


def test_a_preempted_answer_is_the_one_it_would_have_been(
    stepped: SteppedScheduler, reference: Reference
) -> None:
    for number in range(3):
        stepped.submit_request(request(f"later{number}", PROMPTS[number], priority=1))
    for step in range(12):
        stepped.step()
        if step % 4 == 1:  # while prompts are read, and while answers are written
            name = f"first{step}"
            stepped.submit_request(request(name, PROMPTS[3 + step % 2], priority=0, max_tokens=3))
    stepped.run()
    for number in range(3):
        end = stepped.finished(f"later{number}")
        assert end.completion_tokens == 30
        assert end.prompt_tokens == len(PROMPTS[number])
        assert end.cached_tokens < end.prompt_tokens
        answer = stepped.text(f"later{number}")
        tokens = [e for e in stepped.events if isinstance(e, Token)]
        assert len([e for e in tokens if e.request_id == f"later{number}"]) == 30
        assert reference.agrees(PROMPTS[number], answer, max_tokens=30, whole=True)


def test_the_first_priority_has_a_slot_at_once_and_every_batch(
    stepped: SteppedScheduler,
) -> None:
    for number in range(2):
        stepped.submit_request(request(f"later{number}", PROMPTS[number], priority=5))
    for _ in range(8):
        stepped.step()
    assert {s.status for s in stepped.running.values()} == {DECODE}
    stepped.submit_request(request("first", PROMPTS[3], priority=0, max_tokens=10))
    before = {name: stepped.text(name) for name in ("later0", "later1")}
    stepped.step()
    assert "first" in stepped.running
    assert len(stepped.running) == 2
    while not stepped.text("first") or "first" in stepped.running:
        stepped.step()
    assert {name: stepped.text(name) for name in before} == before
    stepped.run()
    ends = [e.request_id for e in stepped.events if isinstance(e, Finished)]
    assert ends[0] == "first"


def test_of_two_the_one_that_has_computed_least_gives_up_its_slot(
    stepped: SteppedScheduler,
) -> None:
    stepped.submit_request(request("long", PROMPTS[0], priority=1))
    stepped.submit_request(request("short", PROMPTS[1], priority=1))
    for _ in range(6):
        stepped.step()
    stepped.submit_request(request("first", PROMPTS[3], priority=0))
    stepped.step()
    assert set(stepped.running) == {"long", "first"}
    stepped.run()


def test_equal_priorities_and_siblings_keep_their_slots(stepped: SteppedScheduler) -> None:
    stepped.submit_request(replace(request("both", PROMPTS[1], priority=1), n=2))
    stepped.step()
    for priority in (1, 0):
        name = f"priority{priority}"
        stepped.submit_request(request(name, PROMPTS[3], priority=priority))
        stepped.step()
        assert set(stepped.running) == {"both"}
    stepped.run()
    ends = [e.request_id for e in stepped.events if isinstance(e, Finished)]
    assert sorted(ends) == ["both", "both", "priority0", "priority1"]
    assert ends[0] == "both"
    assert ends[-1] == "priority1"


def test_a_preempted_request_can_be_cancelled_and_expire(path: Path) -> None:
    now = 0.0
    stepped = SteppedScheduler(path, replace(LOAD, parallel=1), clock=lambda: now)
    for name, deadline_s in (("cancelled", None), ("expired", 5.0)):
        later = request(name, PROMPTS[1], priority=1)
        stepped.submit_request(replace(later, deadline_s=deadline_s), arrived=now)
        while not stepped.text(name):
            stepped.step()
        stepped.submit_request(request(f"first {name}", PROMPTS[3], priority=0))
        stepped.step()
        assert name not in stepped.running
        if deadline_s is None:
            stepped.scheduler.cancel(name)
            assert stepped.finished(name).reason is FinishReason.CANCELLED
        else:
            now = deadline_s + 1
            stepped.step()
            assert not isinstance(stepped.end(name), Finished)
        stepped.run()
    stepped.close()


def test_a_grammar_goes_on_where_it_was(path: Path) -> None:
    stepped = SteppedScheduler(path, replace(LOAD, parallel=1))
    digits = Grammar(kind=GrammarKind.REGEX, text="(ab){12}")
    stepped.submit_request(replace(request("later", PROMPTS[1], priority=1), grammar=digits))
    while len(stepped.text("later")) < 5:
        stepped.step()
    stepped.submit_request(request("first", PROMPTS[3], priority=0, max_tokens=2))
    stepped.run()
    assert stepped.text("later") == "ab" * 12
    stepped.close()
