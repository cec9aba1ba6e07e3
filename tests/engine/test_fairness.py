"""Who waits for whom, and for how long at most."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.engine.messages import Finished, PromptProgress
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


def test_prompts_are_read_in_the_order_in_which_they_came(stepped: SteppedScheduler) -> None:
    names = ["first", "second", "third"]
    for number, name in enumerate(names):
        stepped.submit(name, characters(100, seed=number), max_tokens=1)
    stepped.run()
    assert finished(stepped) == names
    told = [event.request_id for event in stepped.events if isinstance(event, PromptProgress)]
    assert told == sorted(told, key=names.index)


def test_who_waits_for_a_slot_gets_one_in_the_order_of_coming(stepped: SteppedScheduler) -> None:
    names = [f"r{number}" for number in range(9)]
    for number, name in enumerate(names):
        stepped.submit(name, characters(8, seed=number), max_tokens=5)
    stepped.run()
    assert [name for name in finished(stepped) if name in names] == names
