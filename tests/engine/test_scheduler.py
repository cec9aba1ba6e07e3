"""The scheduler on models of every kind of memory: whatever happens, an answer stays the same."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import Finished, FinishReason, PromptProgress, RequestError
from localllm.engine.worker.llama.model import BatchToken
from localllm.errors import BadRequest
from tests.engine import tiny
from tests.engine.stepped_scheduler import Reference, SteppedScheduler, settings

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
class RandomClients:
    """Clients that ask, edit their conversations and cancel, at random but always the same."""

    stepped: SteppedScheduler
    random: random.Random
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def act(self) -> None:
        chance = self.random.random()
        if chance < 0.22:
            self.ask()
        elif chance < 0.28 and self.asked:
            self.stepped.scheduler.cancel(self.random.choice(list(self.asked)))
            self.stepped.check()
        else:  # a recurrent state cannot go back, so the engine never interrupts those
            self.stepped.step(aborted=chance < 0.34 and self.stepped.memory.can_rewind)

    def ask(self) -> None:
        """Begin as an earlier text does, up to anywhere in it, and go on otherwise."""
        text = self.random.choice(self.texts)[: self.random.randrange(1, 200)]
        prompt = text + characters(self.random, self.random.randrange(8))
        request_id, limit = f"r{len(self.asked)}", self.random.randrange(1, 45)
        self.asked[request_id] = (prompt, limit)
        self.stepped.submit(request_id, prompt, max_tokens=limit)

    def collect_texts(self) -> None:
        for event in self.stepped.events:
            if isinstance(event, Finished):
                prompt, _ = self.asked[event.request_id]
                self.texts.append(prompt + self.stepped.text(event.request_id))


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_reused_or_interrupted_an_answer_is_that_of_a_fresh_engine(
    model: Path, reference: Reference, seed: int, unified: bool
) -> None:
    dice = random.Random(seed)
    stepped = SteppedScheduler(model, settings(kv_unified=unified))
    clients = RandomClients(stepped, dice, texts=[characters(dice, 200) for _ in range(2)])
    for _ in range(120):
        clients.act()
        clients.collect_texts()
    stepped.run()
    cached = 0
    for request_id, (prompt, limit) in clients.asked.items():
        end = stepped.end(request_id)
        assert isinstance(end, Finished)
        cached += end.cached_tokens
        whole = end.reason is not FinishReason.CANCELLED
        answer = stepped.text(request_id)
        assert reference.agrees(prompt, answer, max_tokens=limit, whole=whole), request_id
    assert cached > 0 or not stepped.memory.can_share
    stepped.close()


def test_a_conversation_that_goes_on_is_not_read_again(model: Path) -> None:
    stepped = SteppedScheduler(model, settings(parallel=1))
    prompt = characters(random.Random(1), 60)
    answer = stepped.ask(prompt, max_tokens=10)
    stepped.submit("next", prompt + answer + "more", max_tokens=2)
    stepped.run()
    end = stepped.end("next")
    assert isinstance(end, Finished)
    assert end.cached_tokens == len(prompt) + 9  # the last token was drawn and never computed
    stepped.close()


@pytest.mark.parametrize(("kind", "unified"), [("plain", 0), ("plain", 1), ("windowed", 0)])
def test_a_prefix_that_comes_at_once_from_all_is_computed_once(
    tmp_path: Path, kind: str, unified: int
) -> None:
    path = KINDS[kind](tmp_path / "model.gguf")
    stepped = SteppedScheduler(path, settings(parallel=4, kv_unified=bool(unified)))
    reference = Reference(path, settings(parallel=1))
    dice = random.Random(1)
    system = characters(dice, 100)
    prompts = {f"r{i}": system + characters(dice, 20) for i in range(4)}
    for request_id, prompt in prompts.items():
        stepped.submit(request_id, prompt, max_tokens=12)
    stepped.run()
    ends = [stepped.end(request_id) for request_id in prompts]
    first, *others = [end.cached_tokens for end in ends if isinstance(end, Finished)]
    assert first == 0
    assert [tokens > 100 - 16 for tokens in others] == [True] * 3  # fewer are not worth sharing
    for request_id, prompt in prompts.items():
        assert reference.agrees(prompt, stepped.text(request_id), max_tokens=12, whole=True)
    stepped.close()
    reference.close()


def test_who_waits_for_a_prefix_goes_on_alone_when_its_reader_leaves(plain: Path) -> None:
    stepped = SteppedScheduler(plain, settings(parallel=2))
    prompt = characters(random.Random(1), 100)
    stepped.submit("reads", prompt + "a", max_tokens=4)
    stepped.submit("waits", prompt + "b", max_tokens=4)
    stepped.step()
    stepped.scheduler.cancel("reads")
    stepped.run()
    end = stepped.end("waits")
    assert isinstance(end, Finished)
    assert end.completion_tokens == 4
    assert 0 < end.cached_tokens < 100
    stepped.close()


def test_a_window_that_has_moved_on_is_not_reused(windowed: Path) -> None:
    # 256 cells of window cache: after 600 tokens the first ones are overwritten.
    stepped = SteppedScheduler(windowed, settings(parallel=2, context=1024))
    text = characters(random.Random(1), 600)
    stepped.ask(text, max_tokens=4)
    for cut in (100, 590):
        stepped.submit(f"cut{cut}", text[:cut] + "!", max_tokens=4)
        stepped.run()
    early, late = stepped.end("cut100"), stepped.end("cut590")
    assert isinstance(early, Finished)
    assert isinstance(late, Finished)
    assert (early.cached_tokens, late.cached_tokens) == (0, 590)
    stepped.close()


def test_slots_that_share_a_prefix_can_all_outgrow_their_window(windowed: Path) -> None:
    stepped = SteppedScheduler(windowed, settings(parallel=4, context=512))
    reference = Reference(windowed, settings(parallel=1, context=512))
    dice = random.Random(1)
    system = characters(dice, 200)
    stepped.ask(system, max_tokens=1)
    prompts = {f"r{i}": system + characters(dice, 60) for i in range(4)}
    for request_id, prompt in prompts.items():
        stepped.submit(request_id, prompt, max_tokens=60)
    stepped.run()
    for request_id, prompt in prompts.items():
        assert isinstance(stepped.end(request_id), Finished), stepped.end(request_id)
        answer = stepped.text(request_id)
        assert reference.agrees(prompt, answer, max_tokens=60, whole=True)
    stepped.close()
    reference.close()


def test_cells_that_are_given_up_are_read_again_and_nobody_notices(windowed: Path) -> None:
    stepped = SteppedScheduler(windowed, settings(parallel=1))
    reference = Reference(windowed, settings(parallel=1))
    prompt = characters(random.Random(1), 100)
    stepped.submit("a", prompt, max_tokens=8)
    while not stepped.text("a"):
        stepped.step()
    before = len(stepped.events)
    stepped.lose_cells("a")
    stepped.run()
    assert not [e for e in stepped.events[before:] if isinstance(e, PromptProgress)]
    end = stepped.end("a")
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (100, 8)
    assert reference.agrees(prompt, stepped.text("a"), max_tokens=8, whole=True)
    stepped.close()
    reference.close()


def test_slots_with_caches_of_their_own_copy_what_another_one_has_computed(plain: Path) -> None:
    stepped = SteppedScheduler(plain, settings(parallel=3, kv_unified=False))
    reference = Reference(plain, settings(kv_unified=False))
    prompt = characters(random.Random(1), 80)
    stepped.submit("one", prompt + "one")
    for _ in range(4):
        stepped.step()
    stepped.submit("two", prompt + "two")
    stepped.run()
    ends = [stepped.finished(request_id) for request_id in ("one", "two")]
    assert [end.cached_tokens for end in ends] == [0, 80]
    for request_id in ("one", "two"):
        assert reference.agrees(
            prompt + request_id, stepped.text(request_id), max_tokens=20, whole=True
        )
    stepped.close()
    reference.close()


def test_who_runs_together_has_slots_beside_each_other(plain: Path) -> None:
    """llama.cpp computes neighbours with caches of their own in one go, others one by one."""
    stepped = SteppedScheduler(plain, settings(parallel=4, kv_unified=False))
    texts = [characters(random.Random(i), 40) for i in range(4)]
    for i, text in enumerate(texts):  # each slot remembers one
        stepped.submit(f"first {i}", text, max_tokens=60)
        stepped.step()
    stepped.run()
    places = {text: stepped.slot_of(text) for text in texts}
    low, high = min(texts, key=places.__getitem__), max(texts, key=places.__getitem__)
    stepped.submit("low", low + "on", max_tokens=30)
    stepped.step()
    stepped.submit("high", high + "on", max_tokens=30)
    stepped.step()
    running = stepped.running
    assert abs(running["low"].slot - running["high"].slot) == 1
    stepped.run()
    assert stepped.finished("high").cached_tokens == 40
    stepped.close()


def test_a_batch_smaller_than_the_physical_one_bounds_what_is_computed(plain: Path) -> None:
    load = LoadSettings(context=512, parallel=1, batch=16, ubatch=512, threads=1)
    stepped = SteppedScheduler(plain, load)
    assert stepped.ask(characters(random.Random(1), 300))
    stepped.close()


def test_a_stream_says_the_same_when_anothers_prompt_is_cancelled(model: Path) -> None:
    dice = random.Random(1)
    prompts = [characters(dice, 30), characters(dice, 200)]
    stepped = SteppedScheduler(model, settings(parallel=2))
    alone = stepped.ask(prompts[0], max_tokens=40)
    stepped.close()
    stepped = SteppedScheduler(model, settings(parallel=2))
    stepped.submit("runs", prompts[0], max_tokens=40)
    stepped.step()
    stepped.submit("leaves", prompts[1])
    stepped.step()
    stepped.step(aborted=stepped.memory.can_rewind)
    stepped.scheduler.cancel("leaves")
    stepped.check()
    stepped.run()
    assert stepped.text("runs") == alone
    left = stepped.end("leaves")
    assert isinstance(left, Finished)
    assert (left.reason, left.completion_tokens) == (FinishReason.CANCELLED, 0)
    stepped.close()


def test_an_id_that_is_taken_is_refused_and_the_first_request_goes_on(plain: Path) -> None:
    stepped = SteppedScheduler(plain, settings(parallel=1))
    stepped.submit("a", "first", max_tokens=5)
    with pytest.raises(BadRequest, match="'a' is running"):
        stepped.submit("a", "second")
    stepped.step()
    with pytest.raises(BadRequest, match="'a' is running"):
        stepped.submit("a", "third")
    stepped.run()
    end = stepped.end("a")
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (5, 5)
    stepped.submit("a", "again")  # an id is free when its request has ended
    stepped.close()


def test_cancelling_twice_or_cancelling_nobody_changes_nothing(plain: Path) -> None:
    stepped = SteppedScheduler(plain, settings(parallel=1))
    stepped.submit("waits", "one")
    stepped.submit("waits too", "two")
    stepped.step()
    for request_id in ("waits too", "waits too", "waits", "waits", "nobody"):
        stepped.scheduler.cancel(request_id)
        stepped.check()
    ends = [e for e in stepped.events if isinstance(e, Finished | RequestError)]
    assert [e.request_id for e in ends] == ["waits too", "waits"]
    assert not stepped.scheduler.busy
    stepped.close()


def test_the_shares_of_all_answers_are_the_batches_that_were_computed(plain: Path) -> None:
    stepped = SteppedScheduler(plain, settings())
    computed: list[int] = []
    decode = stepped.model.decode

    def counted(tokens: Sequence[BatchToken]) -> None:
        computed.append(len({token.slot for token in tokens}))
        decode(tokens)

    stepped.model.decode = counted  # type: ignore[method-assign]  # to look on
    dice, names = random.Random(1), [f"r{i}" for i in range(5)]
    for name in names:
        stepped.submit(name, characters(dice, dice.randrange(1, 90)), max_tokens=dice.randrange(9))
    stepped.run()
    ends = [stepped.finished(name) for name in names]
    assert sum(end.batch_share for end in ends) == pytest.approx(len(computed))
    assert sum(end.batches for end in ends) == sum(computed)
    assert max(computed) > 1
    stepped.close()
