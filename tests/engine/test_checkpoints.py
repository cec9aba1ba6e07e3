"""Checkpoints: models that cannot go back continue at a state that was kept."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.checkpoints import MAX_CHECKPOINTS, least_useful
from localllm.engine.worker.kv_cache.host_cache import HostCache
from localllm.engine.worker.llama.model import BatchToken, Model
from localllm.engine.worker.prompt.boundaries import Boundary, Section, checkpoint_positions
from tests.engine import tiny
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, log, settings

KINDS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "recurrent": (tiny.recurrent, False),
    "hybrid": (tiny.hybrid, True),
    "windowed": (tiny.windowed, False),
    "windowed pool": (tiny.windowed, True),
}


def read(model: Model, slot: int, tokens: list[int], start: int) -> np.ndarray:
    """Compute tokens, and return the logits after the last one."""
    for at in range(0, len(tokens), model.max_batch_tokens):
        part = tokens[at : at + model.max_batch_tokens]
        model.decode(
            [
                BatchToken(token, start + at + i, slot, i == len(part) - 1)
                for i, token in enumerate(part)
            ]
        )
    row = llama.llama_get_logits_ith(model.handle, len(part) - 1)
    return np.ctypeslib.as_array(row, (model.vocab.size,)).copy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_state_takes_a_sequence_back(kind: str, tmp_path: Path) -> None:
    make, unified = KINDS[kind]
    load = settings(context=256, kv_unified=unified)
    model = Model(str(make(tmp_path / "m.gguf")), load, log=log(), on_progress=lambda _: None)
    beginning, end = [7 * i % 90 for i in range(80)], [11 * i % 90 for i in range(20)]
    read(model, 1, end, 0)  # another sequence beside it
    read(model, 0, beginning, 0)
    state = memoryview(bytearray(model.partial_state_bytes(0)))
    assert model.copy_partial_state(0, state)
    read(model, 0, [3] * 90, len(beginning))
    read(model, 1, [5] * 40, len(end))
    assert model.put_partial_state(0, len(beginning), state)
    back = read(model, 0, end, len(beginning))
    fresh = read(model, 2, beginning + end, 0)
    other = read(model, 1, end, len(end) + 40)
    assert np.abs(back - fresh).max() < 1e-3 < np.abs(back - other).max()
    model.close()


@given(positions=st.sets(st.integers(1, 5000), min_size=3))
def test_what_is_dropped_is_neither_the_first_nor_the_last(positions: set[int]) -> None:
    rising = sorted(positions)
    assert 0 < least_useful(rising) < len(rising) - 1


def test_checkpoints_are_the_closer_together_the_later_they_are() -> None:
    held: list[int] = []
    for position in range(100, 6100, 100):
        held.append(position)
        if len(held) > MAX_CHECKPOINTS:
            held.pop(least_useful(held))
    gaps = [later - earlier for earlier, later in pairwise(held)]
    assert (held[0], held[-2:]) == (100, [5900, 6000])
    assert gaps == sorted(gaps, reverse=True)


def test_checkpoints_are_wanted_where_a_later_turn_may_part() -> None:
    sections = [Section.SYSTEM, Section.USER, Section.ASSISTANT, Section.USER, Section.ANSWER]
    boundaries = [Boundary(position=10 * i, section=each) for i, each in enumerate(sections)]
    assert checkpoint_positions(boundaries, 45) == (10, 30, 40)
    assert checkpoint_positions(boundaries, 40) == (10, 30, 39)
    assert checkpoint_positions((), 50) == (49,)
    assert checkpoint_positions((), 1) == ()


# --- conversations ---

SYSTEM, QUESTION, REASONING, ANSWER = 40, 20, 30, 12
KEEP_ALL = 2**26
PADDED_WINDOW = 256
"""Cells of a sliding window, however short: so much of a slot can be gone back anyway."""


def memory(size_bytes: int = KEEP_ALL) -> HostCache:
    """Measured times are noise on models this small: what is there to be gained is worth it."""
    host = HostCache(lambda _held: size_bytes)

    def is_worth(lost: int, size_bytes: int, *, most_tokens: int | None = None) -> bool:
        return lost >= 16

    host.is_worth = is_worth  # type: ignore[method-assign]
    return host


class Chat:
    """A conversation whose template leaves the reasoning of earlier turns out."""

    def __init__(self, dice: random.Random, system: str, reasoning: int = REASONING) -> None:
        self._dice = dice
        self.reasoning = reasoning
        self.sections = [(Section.SYSTEM, system)]

    def _text(self, count: int) -> str:
        return "".join(self._dice.choices(tiny.CHARACTERS, k=count))

    @property
    def text(self) -> str:
        return "".join(part for _, part in self.sections)

    def start_of(self, section: int) -> int:
        """The position at which a section (an index, also a negative one) begins."""
        return sum(len(part) for _, part in self.sections[:section])

    def ask(self) -> None:
        """Add a question, and the beginning of an answer."""
        self.sections += [(Section.USER, self._text(QUESTION)), (Section.ANSWER, "A:<")]

    def end(self, answer: str) -> None:
        """Write the answer without its reasoning."""
        self.sections[-1] = (Section.ASSISTANT, "A:" + answer[self.reasoning :])


class Run:
    """A scheduler, its host memory, and what a fresh one says."""

    def __init__(self, path: Path, *, parallel: int, unified: bool, host: HostCache) -> None:
        load = settings(context=1600, parallel=parallel, kv_unified=unified)
        self.stepped = SteppedScheduler(path, load, host=host)
        self.reference = Reference(path, settings(context=1600, parallel=1))
        self.count = self.from_checkpoints = 0

    def submit(self, chat: Chat) -> str:
        self.count += 1
        name = f"request {self.count}"
        self.stepped.submit_sections(name, chat.sections, max_tokens=chat.reasoning + ANSWER)
        return name

    def answer(self, chat: Chat, *, checked: bool = True) -> tuple[str, int, int]:
        """Return the answer, and the tokens of its prompt that were there and that were
        computed."""
        name = self.submit(chat)
        self.stepped.run()
        answer, cache = self.stepped.text(name), self.stepped.finished(name).timings.cache
        assert cache is not None
        if checked:
            self.check(chat, answer)
        self.from_checkpoints += cache.checkpoint
        return answer, len(chat.text) - cache.computed, cache.computed

    def check(self, chat: Chat, answer: str, *, whole: bool = True) -> None:
        most = chat.reasoning + ANSWER
        assert self.reference.agrees(chat.text, answer, max_tokens=most, whole=whole)

    def close(self) -> None:
        self.stepped.close()
        self.reference.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_costs_what_is_new_since_the_last_answer_began(kind: str, tmp_path: Path) -> None:
    make, unified = KINDS[kind]
    run = Run(make(tmp_path / "m.gguf"), parallel=2, unified=unified, host=memory())
    windowed = make is tiny.windowed
    chat = Chat(random.Random(1), "S" * SYSTEM, PADDED_WINDOW if windowed else REASONING)
    for turn in range(5 if windowed else 30):
        begun = chat.start_of(-1) if turn else 0
        chat.ask()
        answer, kept, computed = run.answer(chat, checked=turn % 8 == 4)
        assert computed <= len(chat.text) - begun
        assert kept >= begun
        chat.end(answer)
    assert run.from_checkpoints > chat.start_of(-3)
    question = chat.start_of(-2)
    chat.sections[-1] = (Section.ANSWER, "A:<")
    _, kept, computed = run.answer(chat)  # again
    assert 0 < computed <= len(chat.text) - chat.start_of(-1)
    del chat.sections[-2:]
    chat.ask()
    _, kept, computed = run.answer(chat)  # another question
    assert question - 16 <= kept < len(chat.text)
    del chat.sections[-6:]
    chat.ask()
    _, kept, computed = run.answer(chat)  # from earlier on
    assert kept > len(chat.text) / 2
    other = Chat(random.Random(2), "S" * SYSTEM)
    other.ask()
    run.answer(other)
    run.close()


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_survive_company_cancels_and_little_memory(kind: str, tmp_path: Path) -> None:
    make, unified = KINDS[kind]
    host = memory(size_bytes=300_000)
    run = Run(make(tmp_path / "m.gguf"), parallel=2, unified=unified, host=host)
    dice = random.Random(3)
    chats = [Chat(dice, "S" * SYSTEM) for _ in range(4)]
    used = 0
    for _ in range(8):
        asked = {}
        for chat in dice.sample(chats, 3):
            if len(chat.sections) > 4 and dice.random() < 0.3:
                del chat.sections[-2:]
            chat.ask()
            asked[run.submit(chat)] = chat
        cancelled = dice.choice(list(asked))
        for _ in range(dice.randrange(1, 12)):
            run.stepped.step(aborted=dice.random() < 0.2)
        run.stepped.scheduler.cancel(cancelled)
        run.stepped.run()
        for name, chat in asked.items():
            answer, cache = run.stepped.text(name), run.stepped.finished(name).timings.cache
            used += cache.checkpoint if cache is not None else 0
            run.check(chat, answer, whole=name != cancelled)
            chat.end(answer)
        assert host.size_bytes <= 300_000
    assert used > 0 or make is tiny.windowed
    run.close()
    assert host.size_bytes == 0
