"""What a scheduler says of prompts that it had to compute again, on tiny models of each memory."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.engine.messages import CacheMiss, CacheUsage, MissReason
from localllm.engine.worker.scheduling.cache_miss import MIN_LOST_TOKENS
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings


def texts(count: int, length: int) -> list[str]:
    dice = random.Random(1)
    return ["".join(dice.choices(tiny.CHARACTERS, k=length)) for _ in range(count)]


def usage(stepped: SteppedScheduler, name: str) -> CacheUsage:
    cache = stepped.finished(name).timings.cache
    assert cache is not None
    return cache


def miss(stepped: SteppedScheduler, name: str, prompt: str) -> CacheMiss | None:
    """Ask, alone, and return what broke the prompt."""
    stepped.submit(name, prompt, max_tokens=4)
    stepped.run()
    found = usage(stepped, name)
    end = stepped.finished(name)
    assert found.own + found.shared + found.host + found.checkpoint == end.cached_tokens
    assert end.cached_tokens + found.computed == end.prompt_tokens
    return found.miss


def test_what_slots_gave_up_was_evicted(tmp_path: Path) -> None:
    stepped = SteppedScheduler(tiny.plain(tmp_path / "m.gguf"), settings(parallel=1))
    one, *others = texts(4, 120)
    assert miss(stepped, "first", one) is None
    assert miss(stepped, "moved", others[0]) is None
    assert miss(stepped, "back", one) is None
    assert usage(stepped, "back").own == len(one) - 1
    for i, other in enumerate(others):
        assert miss(stepped, f"other{i}", other) is None
    assert miss(stepped, "again", one) == CacheMiss(
        reason=MissReason.EVICTED, position=0, lost_tokens=len(one)
    )
    assert miss(stepped, "known", one) is None
    assert miss(stepped, "stranger", texts(5, 120)[4]) is None
    assert usage(stepped, "known").own == len(one) - 1
    stepped.close()


def test_a_part_of_a_prompt_that_changed_is_where_it_broke(tmp_path: Path) -> None:
    stepped = SteppedScheduler(tiny.plain(tmp_path / "m.gguf"), settings(parallel=1))
    head, rest, one, other = texts(4, 60)
    assert miss(stepped, "first", head + one[:10] + rest) is None
    found = miss(stepped, "changed", head + other[:10] + rest)
    assert found is not None
    assert (found.reason, found.timestamp) == (MissReason.PROMPT_CHANGED, False)
    assert 60 <= found.position <= 62  # a character may be the same
    assert found.lost_tokens >= 59
    stepped.close()


@pytest.mark.parametrize("make", [tiny.recurrent, tiny.hybrid])
def test_a_state_that_cannot_go_back_is_named(make: Callable[[Path], Path], tmp_path: Path) -> None:
    stepped = SteppedScheduler(make(tmp_path / "m.gguf"), settings(parallel=2))
    one, *_ = texts(1, 120)
    assert miss(stepped, "first", one) is None
    found = miss(stepped, "again", one)
    computed = usage(stepped, "again").computed
    if computed < MIN_LOST_TOKENS:  # a checkpoint was near enough
        assert found is None
    else:
        assert found is not None
        assert (found.reason, found.lost_tokens) == (MissReason.NO_CHECKPOINT, computed)
    stepped.close()
