"""Who waits for whom, and for how long at most."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.engine.messages import Finished, PromptProgress
from tests.engine import tiny
from tests.engine.driven import Driven, settings


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    """Chunks of 32 tokens."""
    driven = Driven(tiny.plain(tmp_path / "plain.gguf"), settings(parallel=3, context=512))
    yield driven
    driven.close()


def characters(count: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(tiny.CHARACTERS, k=count))


def finished(driven: Driven) -> list[str]:
    return [event.request_id for event in driven.events if isinstance(event, Finished)]


def test_a_stream_goes_on_in_every_step_in_which_long_prompts_are_read(driven: Driven) -> None:
    driven.submit("streams", characters(10), max_tokens=100)
    driven.step()
    for number in range(2):
        driven.submit(f"long{number}", characters(300, seed=2 + number), max_tokens=2)
    steps = 0
    while len(finished(driven)) < 2:
        before = len(driven.text("streams"))
        driven.step()
        steps += 1
        assert len(driven.text("streams")) > before
    assert steps >= 2 * 300 // 32
    driven.run()


def test_prompts_are_read_in_the_order_in_which_they_came(driven: Driven) -> None:
    names = ["first", "second", "third"]
    for number, name in enumerate(names):
        driven.submit(name, characters(100, seed=number), max_tokens=1)
    driven.run()
    assert finished(driven) == names
    told = [event.request_id for event in driven.events if isinstance(event, PromptProgress)]
    assert told == sorted(told, key=names.index)


def test_who_waits_for_a_slot_gets_one_in_the_order_of_coming(driven: Driven) -> None:
    names = [f"r{number}" for number in range(9)]
    for number, name in enumerate(names):
        driven.submit(name, characters(8, seed=number), max_tokens=5)
    driven.run()
    assert [name for name in finished(driven) if name in names] == names
