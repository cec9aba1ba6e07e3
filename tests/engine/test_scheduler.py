"""The scheduler on models of every kind of memory: whatever happens, an answer stays the same."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import Finished, FinishReason, PromptProgress, RequestError
from localllm.errors import BadRequest
from tests.engine import tiny
from tests.engine.driven import Driven, Reference, settings

KINDS = {
    "plain": tiny.plain,
    "windowed": tiny.windowed,
    "recurrent": tiny.recurrent,
    "hybrid": tiny.hybrid,
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each kind of memory."""
    return KINDS[request.param](tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.windowed(tmp_path_factory.mktemp("tiny") / "windowed.gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


@pytest.fixture(scope="module")
def reference(model: Path) -> Iterator[Reference]:
    reference = Reference(model, settings(parallel=1))
    yield reference
    reference.close()


def characters(random: random.Random, count: int) -> str:
    return "".join(random.choices(tiny.CHARACTERS, k=count))


@dataclass
class Crowd:
    """People who ask, edit their conversations, give up, all at random but always the same."""

    driven: Driven
    random: random.Random
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def act(self) -> None:
        chance = self.random.random()
        if chance < 0.22:
            self.ask()
        elif chance < 0.28 and self.asked:
            self.driven.scheduler.cancel(self.random.choice(list(self.asked)))
            self.driven.check()
        else:  # a recurrent state cannot go back, so the engine never interrupts those
            self.driven.step(aborted=chance < 0.34 and not self.driven.model.recurrent)

    def ask(self) -> None:
        """Begin as an earlier text does, up to anywhere in it, and go on otherwise."""
        text = self.random.choice(self.texts)[: self.random.randrange(1, 200)]
        prompt = text + characters(self.random, self.random.randrange(8))
        request_id, limit = f"r{len(self.asked)}", self.random.randrange(1, 45)
        self.asked[request_id] = (prompt, limit)
        self.driven.submit(request_id, prompt, max_tokens=limit)

    def listen(self) -> None:
        for event in self.driven.events:
            if isinstance(event, Finished):
                prompt, _ = self.asked[event.request_id]
                self.texts.append(prompt + self.driven.text(event.request_id))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_reused_or_interrupted_an_answer_is_that_of_a_fresh_engine(
    model: Path, reference: Reference, seed: int, pooled: bool
) -> None:
    dice = random.Random(seed)
    driven = Driven(model, settings(kv_unified=pooled))
    crowd = Crowd(driven, dice, texts=[characters(dice, 200) for _ in range(2)])
    for _ in range(120):
        crowd.act()
        crowd.listen()
    driven.run()
    cached = 0
    for request_id, (prompt, limit) in crowd.asked.items():
        end = driven.end(request_id)
        assert isinstance(end, Finished)
        cached += end.cached_tokens
        whole = end.reason is not FinishReason.CANCELLED
        answer = driven.text(request_id)
        assert reference.agrees(prompt, answer, max_tokens=limit, whole=whole), request_id
    assert cached > 0 or not driven.model.shares
    driven.close()


def test_a_conversation_that_goes_on_is_not_read_again(model: Path) -> None:
    driven = Driven(model, settings(parallel=1))
    prompt = characters(random.Random(1), 60)
    answer = driven.ask(prompt, max_tokens=10)
    driven.submit("next", prompt + answer + "more", max_tokens=2)
    driven.run()
    end = driven.end("next")
    assert isinstance(end, Finished)
    assert end.cached_tokens == len(prompt) + 9  # the last token was drawn and never computed
    driven.close()


@pytest.mark.parametrize(("kind", "pooled"), [("plain", 0), ("plain", 1), ("windowed", 0)])
def test_a_prefix_that_comes_at_once_from_all_is_computed_once(
    tmp_path: Path, kind: str, pooled: int
) -> None:
    path = KINDS[kind](tmp_path / "model.gguf")
    driven = Driven(path, settings(parallel=4, kv_unified=bool(pooled)))
    reference = Reference(path, settings(parallel=1))
    dice = random.Random(1)
    system = characters(dice, 100)
    prompts = {f"r{i}": system + characters(dice, 20) for i in range(4)}
    for request_id, prompt in prompts.items():
        driven.submit(request_id, prompt, max_tokens=12)
    driven.run()
    ends = [driven.end(request_id) for request_id in prompts]
    first, *others = [end.cached_tokens for end in ends if isinstance(end, Finished)]
    assert first == 0
    assert [tokens > 100 - 16 for tokens in others] == [True] * 3  # fewer are not worth sharing
    for request_id, prompt in prompts.items():
        assert reference.agrees(prompt, driven.text(request_id), max_tokens=12, whole=True)
    driven.close()
    reference.close()


def test_who_waits_for_a_prefix_goes_on_alone_when_its_reader_leaves(plain: Path) -> None:
    driven = Driven(plain, settings(parallel=2))
    prompt = characters(random.Random(1), 100)
    driven.submit("reads", prompt + "a", max_tokens=4)
    driven.submit("waits", prompt + "b", max_tokens=4)
    driven.step()
    driven.scheduler.cancel("reads")
    driven.run()
    end = driven.end("waits")
    assert isinstance(end, Finished)
    assert end.completion_tokens == 4
    assert 0 < end.cached_tokens < 100
    driven.close()


def test_a_window_that_has_moved_on_is_not_reused(windowed: Path) -> None:
    # 256 cells of window cache: after 600 tokens the first ones are overwritten.
    driven = Driven(windowed, settings(parallel=2, context=1024))
    text = characters(random.Random(1), 600)
    driven.ask(text, max_tokens=4)
    for cut in (100, 590):
        driven.submit(f"cut{cut}", text[:cut] + "!", max_tokens=4)
        driven.run()
    early, late = driven.end("cut100"), driven.end("cut590")
    assert isinstance(early, Finished) and isinstance(late, Finished)
    assert (early.cached_tokens, late.cached_tokens) == (0, 590)
    driven.close()


def test_slots_that_share_a_prefix_can_all_outgrow_their_window(windowed: Path) -> None:
    driven = Driven(windowed, settings(parallel=4, context=512))
    reference = Reference(windowed, settings(parallel=1, context=512))
    dice = random.Random(1)
    system = characters(dice, 200)
    driven.ask(system, max_tokens=1)
    prompts = {f"r{i}": system + characters(dice, 60) for i in range(4)}
    for request_id, prompt in prompts.items():
        driven.submit(request_id, prompt, max_tokens=60)
    driven.run()
    for request_id, prompt in prompts.items():
        assert isinstance(driven.end(request_id), Finished), driven.end(request_id)
        answer = driven.text(request_id)
        assert reference.agrees(prompt, answer, max_tokens=60, whole=True)
    driven.close()
    reference.close()


def test_cells_that_are_given_up_are_read_again_and_nobody_notices(windowed: Path) -> None:
    driven = Driven(windowed, settings(parallel=1))
    reference = Reference(windowed, settings(parallel=1))
    prompt = characters(random.Random(1), 100)
    driven.submit("a", prompt, max_tokens=8)
    while not driven.text("a"):
        driven.step()
    before = len(driven.events)
    driven.scheduler._recompute(driven.scheduler._running[0])
    driven.run()
    assert not [e for e in driven.events[before:] if isinstance(e, PromptProgress)]
    end = driven.end("a")
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (100, 8)
    assert reference.agrees(prompt, driven.text("a"), max_tokens=8, whole=True)
    driven.close()
    reference.close()


def test_slots_with_caches_of_their_own_copy_what_another_one_has_computed(plain: Path) -> None:
    driven = Driven(plain, settings(parallel=3, kv_unified=False))
    reference = Reference(plain, settings(kv_unified=False))
    prompt = characters(random.Random(1), 80)
    driven.submit("one", prompt + "one")
    for _ in range(4):
        driven.step()
    driven.submit("two", prompt + "two")
    driven.run()
    ends = [driven.finished(request_id) for request_id in ("one", "two")]
    assert [end.cached_tokens for end in ends] == [0, 80]
    for request_id in ("one", "two"):
        assert reference.agrees(
            prompt + request_id, driven.text(request_id), max_tokens=20, whole=True
        )
    driven.close()
    reference.close()


def test_who_runs_together_has_slots_beside_each_other(plain: Path) -> None:
    """llama.cpp computes neighbours with caches of their own in one go, others one by one."""
    driven = Driven(plain, settings(parallel=4, kv_unified=False))
    texts = [characters(random.Random(i), 40) for i in range(4)]
    for i, text in enumerate(texts):  # each slot remembers one
        driven.submit(f"first {i}", text, max_tokens=60)
        driven.step()
    driven.run()
    places = {text: driven.slot_of(text) for text in texts}
    low, high = min(texts, key=places.__getitem__), max(texts, key=places.__getitem__)
    driven.submit("low", low + "on", max_tokens=30)
    driven.step()
    driven.submit("high", high + "on", max_tokens=30)
    driven.step()
    running = driven.running()
    assert abs(running["low"] - running["high"]) == 1
    driven.run()
    assert driven.finished("high").cached_tokens == 40
    driven.close()


def test_a_batch_smaller_than_the_physical_one_bounds_what_is_computed(plain: Path) -> None:
    load = LoadSettings(context=512, parallel=1, batch=16, ubatch=512, threads=1)
    driven = Driven(plain, load)
    assert driven.ask(characters(random.Random(1), 300))
    driven.close()


def test_a_stream_says_the_same_when_anothers_prompt_is_cancelled(model: Path) -> None:
    dice = random.Random(1)
    prompts = [characters(dice, 30), characters(dice, 200)]
    driven = Driven(model, settings(parallel=2))
    alone = driven.ask(prompts[0], max_tokens=40)
    driven.close()
    driven = Driven(model, settings(parallel=2))
    driven.submit("runs", prompts[0], max_tokens=40)
    driven.step()
    driven.submit("leaves", prompts[1])
    driven.step()
    driven.step(aborted=not driven.model.recurrent)
    driven.scheduler.cancel("leaves")
    driven.check()
    driven.run()
    assert driven.text("runs") == alone
    left = driven.end("leaves")
    assert isinstance(left, Finished)
    assert (left.reason, left.completion_tokens) == (FinishReason.CANCELLED, 0)
    driven.close()


def test_an_id_that_is_taken_is_refused_and_the_first_request_goes_on(plain: Path) -> None:
    driven = Driven(plain, settings(parallel=1))
    driven.submit("a", "first", max_tokens=5)
    with pytest.raises(BadRequest, match="'a' is running"):
        driven.submit("a", "second")
    driven.step()
    with pytest.raises(BadRequest, match="'a' is running"):
        driven.submit("a", "third")
    driven.run()
    end = driven.end("a")
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (5, 5)
    driven.submit("a", "again")  # an id is free when its request has ended
    driven.close()


def test_cancelling_twice_or_cancelling_nobody_changes_nothing(plain: Path) -> None:
    driven = Driven(plain, settings(parallel=1))
    driven.submit("waits", "one")
    driven.submit("waits too", "two")
    driven.step()
    for request_id in ("waits too", "waits too", "waits", "waits", "nobody"):
        driven.scheduler.cancel(request_id)
        driven.check()
    ends = [e for e in driven.events if isinstance(e, Finished | RequestError)]
    assert [e.request_id for e in ends] == ["waits too", "waits"]
    assert not driven.scheduler.busy
    driven.close()
