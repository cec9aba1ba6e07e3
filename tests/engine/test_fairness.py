"""Who waits for whom, and for how long at most."""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import Finished, GenerateRequest, PromptProgress
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.scheduling.turns import PATIENCE, first_part, in_turns
from localllm.engine.worker.sequences.sequence import (
    OutputState,
    PromptState,
    Sequence,
    SequenceMetrics,
)
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedScheduler]:
    """Chunks of 32 tokens."""
    stepped = SteppedScheduler(
        tiny.plain(tmp_path / "plain.gguf"), settings(parallel=3, context=512)
    )
    yield stepped
    stepped.close()


def characters(count: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(tiny.CHARACTERS, k=count))


def finished(stepped: SteppedScheduler) -> list[str]:
    return [event.request_id for event in stepped.events if isinstance(event, Finished)]


def test_a_stream_goes_on_in_every_step_in_which_long_prompts_are_read(
    stepped: SteppedScheduler,
) -> None:
    stepped.submit("streams", characters(10), max_tokens=100)
    stepped.step()
    for number in range(2):
        stepped.submit(f"long{number}", characters(300, seed=2 + number), max_tokens=2)
    steps = 0
    while len(finished(stepped)) < 2:
        before = len(stepped.text("streams"))
        stepped.step()
        steps += 1
        assert len(stepped.text("streams")) > before
    assert steps >= 2 * 300 // 32
    stepped.run()


def read(stepped: SteppedScheduler) -> list[str]:
    """The requests of whose prompts a part was read, in order."""
    return [e.request_id for e in stepped.events if isinstance(e, PromptProgress) and e.processed]


def test_equal_prompts_are_read_in_the_order_in_which_they_came(
    stepped: SteppedScheduler,
) -> None:
    names = ["first", "second", "third"]
    for number, name in enumerate(names):
        stepped.submit(name, characters(100, seed=number), max_tokens=1)
    stepped.run()
    assert finished(stepped) == names
    assert read(stepped) == sorted(read(stepped), key=names.index)


def test_a_short_prompt_does_not_wait_for_a_long_one(stepped: SteppedScheduler) -> None:
    stepped.submit("long", characters(500), max_tokens=1)
    stepped.step()
    stepped.submit("short", characters(20, seed=2), max_tokens=1)
    stepped.step()
    assert finished(stepped) == ["short"]
    stepped.run()
    assert finished(stepped) == ["short", "long"]


def test_a_long_prompt_is_read_however_many_short_ones_come(stepped: SteppedScheduler) -> None:
    stepped.submit("long", characters(160), max_tokens=1)
    stepped.step()
    steps = 0
    while "long" not in finished(stepped):
        stepped.submit(f"short{steps}", characters(30, seed=steps + 2), max_tokens=1)
        stepped.step()
        steps += 1
    assert steps <= (160 // 32) * (1 + PATIENCE + 1)


def test_a_request_is_accepted_before_its_turn_comes(stepped: SteppedScheduler) -> None:
    for number in range(5):  # for three slots
        stepped.submit(f"r{number}", characters(40, seed=number), max_tokens=30)
    stepped.step()
    accepted = [e for e in stepped.events if isinstance(e, PromptProgress) and not e.processed]
    assert [(e.request_id, e.total) for e in accepted] == [(f"r{n}", 40) for n in range(5)]
    stepped.run()


def sequence(left: int, passed_over: int, arrived: float) -> Sequence:
    return Sequence(
        request=GenerateRequest(request_id=str(arrived), prompt=""),
        prompt=PromptState(tokens=[0] * left, cells=left, passed_over=passed_over),
        output=OutputState(limit=1, detokenizer=IncrementalDetokenizer()),
        metrics=SequenceMetrics(arrived=arrived),
    )


def left_of(sequence: Sequence) -> int:
    return len(sequence.prompt.tokens)


prefilling = st.lists(
    st.builds(sequence, st.integers(1, 3000), st.integers(0, 9000), st.floats(0, 100)), max_size=8
)


@given(prefilling, st.integers(1, 8192))
def test_turns_are_by_patience_and_then_by_length(sequences: list[Sequence], most: int) -> None:
    ordered = in_turns(sequences, left_of, patience=most)
    assert sorted(map(id, ordered)) == sorted(map(id, sequences))
    for one, other in itertools.pairwise(ordered):
        over = [each.prompt.passed_over for each in (one, other)]
        if over[1] >= most:
            assert over[0] >= over[1]
        elif over[0] < most:
            assert left_of(one) <= left_of(other)


@given(st.integers(1, 4096), st.sampled_from([1, 63]))
def test_the_last_token_of_a_prompt_is_computed_alone_or_as_if_it_were(
    tokens: int, alike: int
) -> None:
    first = first_part(tokens, alike)
    assert 1 <= first <= tokens
    assert (first == tokens) == (tokens <= alike)
    assert tokens - first <= 1


def test_who_waits_for_a_slot_gets_one_in_the_order_of_coming(stepped: SteppedScheduler) -> None:
    names = [f"r{number}" for number in range(9)]
    for number, name in enumerate(names):
        stepped.submit(name, characters(8, seed=number), max_tokens=5)
    stepped.run()
    assert [name for name in finished(stepped) if name in names] == names


def test_what_is_in_the_cache_goes_first_and_slow_steps_become_short(tmp_path: Path) -> None:
    """The clock moves on by ten seconds whenever somebody reads it: no step is short enough."""
    seconds = itertools.count(0, 10)
    load = dataclasses.replace(settings(parallel=1, context=512), batch=128, ubatch=128)
    stepped = SteppedScheduler(
        tiny.plain(tmp_path / "p.gguf"), load, lambda: next(seconds), in_company=True
    )
    known, cache = characters(200, seed=5), stepped.scheduler.kv_cache
    stepped.submit("runs", known, max_tokens=20)
    for _ in range(6):
        stepped.step()
    stepped.submit("new", characters(300, seed=9), max_tokens=2)
    stepped.submit("known", known, max_tokens=2)
    stepped.submit("last", characters(400, seed=11), max_tokens=2)  # with a step to wait for
    assert cache.matched(stepped.model.vocab.tokenize(known, special=False)) >= 128
    stepped.run()
    assert finished(stepped) == ["runs", "known", "new", "last"]
    progress = [
        (e.request_id, e.processed) for e in stepped.events if isinstance(e, PromptProgress)
    ]
    assert ("runs", 128) in progress  # nothing was known of the first step
    new = [processed for name, processed in progress if name == "new"]
    assert {b - a for a, b in itertools.pairwise(new[:-2])} == {64}
    stepped.close()
