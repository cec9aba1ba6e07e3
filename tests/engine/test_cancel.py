"""A request that is cancelled is gone at once, wherever it is, and so is what it held."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    RequestError,
)
from localllm.engine.worker.scheduling.request_queue import MAX_WAITING
from localllm.errors import QueueFull
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.driven import Driven, settings

CHOICE = Grammar(kind=GrammarKind.REGEX, text="[a-z]{1,200}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.plain(tmp_path_factory.mktemp("tiny") / "plain.gguf")


@pytest.fixture
def driven(model: Path) -> Iterator[Driven]:
    driven = Driven(model, settings())
    yield driven
    driven.close()


def submit(driven: Driven, request_id: str, text: str = "hello", *, grammar: bool = False) -> None:
    request = GenerateRequest(
        request_id=request_id,
        prompt=text,
        sampling=GREEDY,
        max_tokens=20,
        grammar=CHOICE if grammar else None,
    )
    driven.scheduler.submit(request, driven.model.tokenize(text, special=False), 0.0)


class Compiling:
    """The thread that compiles grammars is busy until `go_on`."""

    def __init__(self, driven: Driven) -> None:
        submit(driven, "first", grammar=True)
        driven.run()
        assert isinstance(driven.end("first"), Finished)
        self._gate = threading.Event()
        compiler = driven.scheduler._waiting._grammars
        assert compiler is not None
        compiler._compiling.submit(self._gate.wait)

    def go_on(self) -> None:
        self._gate.set()


def test_a_request_whose_grammar_is_compiled_is_cancelled_at_once(driven: Driven) -> None:
    compiling = Compiling(driven)
    submit(driven, "a", grammar=True)
    driven.step()  # it does not wait for the compiler, though nobody else is there
    assert driven.scheduler.busy
    driven.scheduler.cancel("a")
    end = driven.end("a")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.CANCELLED
    assert not driven.scheduler.busy
    compiling.go_on()
    assert driven.ask("next")


def test_an_answer_under_a_grammar_goes_on_while_another_grammar_is_compiled(
    driven: Driven,
) -> None:
    submit(driven, "beside", grammar=True)
    while not driven.text("beside"):
        driven.step()
    compiler = driven.scheduler._waiting._grammars
    assert compiler is not None
    gate = threading.Event()
    compiler._compiling.submit(gate.wait)
    submit(driven, "waits", grammar=True)
    while not any(isinstance(e, Finished) and e.request_id == "beside" for e in driven.events):
        driven.step()
    assert len(driven.text("beside")) == 20
    gate.set()
    driven.run()
    assert isinstance(driven.end("waits"), Finished)


def test_a_request_that_waits_for_a_slot_is_cancelled_at_once(driven: Driven) -> None:
    for i in range(5):  # two more than there are slots
        submit(driven, f"r{i}")
    driven.step()
    for request_id in ("r4", "r0", "r1", "r2"):
        driven.scheduler.cancel(request_id)
        driven.check()
    driven.run()
    ends = [driven.end(f"r{i}") for i in range(5)]
    reasons = [end.reason for end in ends if isinstance(end, Finished)]
    cancelled = FinishReason.CANCELLED
    assert reasons == [cancelled, cancelled, cancelled, FinishReason.LENGTH, cancelled]


def test_the_cells_of_a_cancelled_request_are_free_for_the_next(model: Path) -> None:
    driven = Driven(model, settings(parallel=1, context=64))
    for i in range(5):
        submit(driven, f"r{i}", chr(97 + i) * 60)
        driven.step()
        driven.scheduler.cancel(f"r{i}")
        driven.check()
    assert len(driven.ask("z" * 40)) == 20
    driven.close()


def test_one_request_too_many_is_told_how_many_wait(driven: Driven) -> None:
    for i in range(MAX_WAITING):
        submit(driven, f"r{i}")
    with pytest.raises(QueueFull, match=str(MAX_WAITING)):
        submit(driven, "one too many")
    for i in range(MAX_WAITING):
        driven.scheduler.cancel(f"r{i}")
    assert not driven.scheduler.busy
    assert driven.ask("next")


def test_a_grammar_that_is_none_is_refused_when_it_is_known(driven: Driven) -> None:
    request = GenerateRequest(
        request_id="bad",
        prompt="x",
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps({"type": "nothing"})),
    )
    driven.scheduler.submit(request, driven.model.tokenize("x", special=False), 0.0)
    driven.run()
    assert isinstance(driven.end("bad"), RequestError)


def test_after_everything_every_cell_is_accounted_for(driven: Driven) -> None:
    memory = llama.llama_get_memory(driven.model.handle)
    for i in range(60):
        submit(driven, f"r{i}", "abc" * (i % 20 + 1), grammar=i % 7 == 0)
        driven.step()
        if i % 3 == 0:
            driven.scheduler.cancel(f"r{i - i % 2}")
    driven.run()
    held = sum(
        1 + llama.llama_memory_seq_pos_max(memory, slot)
        for slot in range(driven.model.settings.parallel)
    )
    assert held <= driven.model.settings.cells
    assert len({e.request_id for e in driven.events if isinstance(e, Finished)}) == 60
