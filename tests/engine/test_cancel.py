"""A request that is cancelled is gone at once, wherever it is, and so is what it held."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    RequestError,
)
from localllm.engine.worker.binding import llama
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.scheduling.request_queue import MAX_WAITING
from localllm.errors import QueueFull
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import SteppedScheduler, settings

CHOICE = Grammar(kind=GrammarKind.REGEX, text="[a-z]{1,200}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


@pytest.fixture
def stepped(model: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(model, settings())
    yield stepped
    stepped.close()


def submit(
    stepped: SteppedScheduler, request_id: str, text: str = "hello", *, grammar: bool = False
) -> None:
    request = GenerateRequest(
        request_id=request_id,
        prompt=text,
        sampling=GREEDY,
        max_tokens=20,
        grammar=CHOICE if grammar else None,
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize(text, special=False)), 0.0
    )


class Compiling:
    """The thread that compiles grammars is busy until `go_on`."""

    def __init__(self, stepped: SteppedScheduler) -> None:
        submit(stepped, "first", grammar=True)
        stepped.run()
        assert isinstance(stepped.end("first"), Finished)
        self._gate = threading.Event()
        compiler = stepped.scheduler._queue._grammars
        assert compiler is not None
        compiler._compiling.submit(self._gate.wait, 30)

    def go_on(self) -> None:
        self._gate.set()


def test_a_request_whose_grammar_is_compiled_is_cancelled_at_once(
    stepped: SteppedScheduler,
) -> None:
    compiling = Compiling(stepped)
    submit(stepped, "a", grammar=True)
    stepped.step()  # it does not wait for the compiler, though nobody else is there
    assert stepped.scheduler.busy
    stepped.scheduler.cancel("a")
    end = stepped.end("a")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    assert not stepped.scheduler.busy
    compiling.go_on()
    assert stepped.ask("next")


def test_an_answer_under_a_grammar_goes_on_while_another_grammar_is_compiled(
    stepped: SteppedScheduler,
) -> None:
    submit(stepped, "beside", grammar=True)
    while not stepped.text("beside"):
        stepped.step()
    compiler = stepped.scheduler._queue._grammars
    assert compiler is not None
    gate = threading.Event()
    compiler._compiling.submit(gate.wait, 30)
    submit(stepped, "waits", grammar=True)
    while not any(isinstance(e, Finished) and e.request_id == "beside" for e in stepped.events):
        stepped.step()
    assert len(stepped.text("beside")) == 20
    gate.set()
    stepped.run()
    assert isinstance(stepped.end("waits"), Finished)


def test_a_request_that_waits_for_a_slot_is_cancelled_at_once(stepped: SteppedScheduler) -> None:
    for i in range(5):  # two more than there are slots
        submit(stepped, f"r{i}")
    stepped.step()
    for request_id in ("r4", "r0", "r1", "r2"):
        stepped.scheduler.cancel(request_id)
        stepped.check()
    stepped.run()
    ends = [stepped.end(f"r{i}") for i in range(5)]
    reasons = [end.reason for end in ends if isinstance(end, Finished)]
    cancelled = FinishReason.CANCELLED
    assert reasons == [cancelled, cancelled, cancelled, FinishReason.LENGTH, cancelled]


def test_the_cells_of_a_cancelled_request_are_free_for_the_next(model: Path) -> None:
    stepped = SteppedScheduler(model, settings(parallel=1, context=64))
    for i in range(5):
        submit(stepped, f"r{i}", chr(97 + i) * 60)
        stepped.step()
        stepped.scheduler.cancel(f"r{i}")
        stepped.check()
    assert len(stepped.ask("z" * 40)) == 20
    stepped.close()


def test_one_request_too_many_is_told_how_many_wait(stepped: SteppedScheduler) -> None:
    for i in range(MAX_WAITING):
        submit(stepped, f"r{i}")
    with pytest.raises(QueueFull, match=str(MAX_WAITING)):
        submit(stepped, "one too many")
    for i in range(MAX_WAITING):
        stepped.scheduler.cancel(f"r{i}")
    assert not stepped.scheduler.busy
    assert stepped.ask("next")


def test_a_grammar_that_is_none_is_refused_when_it_is_known(stepped: SteppedScheduler) -> None:
    request = GenerateRequest(
        request_id="bad",
        prompt="x",
        grammar=Grammar(kind=GrammarKind.REGEX, text="(never closed"),
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize("x", special=False)), 0.0
    )
    stepped.run()
    assert isinstance(stepped.end("bad"), RequestError)


def test_after_everything_every_cell_is_accounted_for(stepped: SteppedScheduler) -> None:
    memory = llama.llama_get_memory(stepped.model.handle)
    for i in range(60):
        submit(stepped, f"r{i}", "abc" * (i % 20 + 1), grammar=i % 7 == 0)
        stepped.step()
        if i % 3 == 0:
            stepped.scheduler.cancel(f"r{i - i % 2}")
    stepped.run()
    held = sum(
        1 + llama.llama_memory_seq_pos_max(memory, slot)
        for slot in range(stepped.model.settings.parallel)
    )
    assert held <= stepped.model.settings.cells
    assert len({e.request_id for e in stepped.events if isinstance(e, Finished)}) == 60


def test_no_thread_of_a_grammar_reads_the_vocabulary_of_a_closed_model(model: Path) -> None:
    stepped = SteppedScheduler(model, settings())
    submit(stepped, "a", grammar=True)
    while not stepped.text("a"):
        stepped.step()
    compiler = stepped.scheduler._queue._grammars
    assert compiler is not None
    threads = [*compiler._compiling._threads, *compiler._masking._threads]
    stepped.close()
    assert threads
    assert not any(thread.is_alive() for thread in threads)
