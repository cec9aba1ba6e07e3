"""A second model guesses; what is said stays what the first one says."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.messages import Finished, GenerateRequest, Sampling
from localllm.engine.worker.speculative.draft_model import DraftModel
from localllm.errors import LoadFailed
from tests.engine import tiny
from tests.engine.answers import GREEDY
from tests.engine.driven import Driven, log

EXACT = LoadSettings(context=512, parallel=2, batch=64, ubatch=64, threads=1)
ALWAYS = replace(EXACT, speculate=Speculate.NGRAM)
PROMPT = "The old harbour master opened the gate and"


@pytest.fixture(scope="module")
def smaller(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model in 4.5 bits."""
    log()
    target = tmp_path_factory.mktemp("draft") / "q4_0.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    source, out = str(smollm2).encode(), str(target).encode()
    assert llama.llama_model_quantize(source, out, ctypes.byref(params)) == 0
    return target


@pytest.fixture(scope="module")
def plainly(smollm2: Path) -> Iterator[Driven]:
    driven = Driven(smollm2, EXACT)
    yield driven
    driven.close()


def with_draft(main: Path, draft: Path, load: LoadSettings = ALWAYS) -> Driven:
    driven = Driven(main, load)
    drafter = DraftModel(str(draft), driven.model, log=log())
    driven.close()
    driven = Driven(main, load, drafter=drafter)
    return driven


def ask(driven: Driven, request_id: str, prompt: str, sampling: Sampling) -> None:
    request = GenerateRequest(
        request_id=request_id, prompt=prompt, sampling=sampling, max_tokens=32, ignore_eos=True
    )
    driven.scheduler.submit(request, driven.model.tokenize(prompt, special=False), 0.0)


def answer(driven: Driven, prompt: str, sampling: Sampling) -> str:
    driven.events.clear()
    ask(driven, "a", prompt, sampling)
    driven.run()
    return driven.text("a")


def finished(driven: Driven, request_id: str = "a") -> Finished:
    end = driven.end(request_id)
    assert isinstance(end, Finished)
    return end


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.7, seed=4)])
def test_an_answer_is_that_of_the_model_alone(
    plainly: Driven, smollm2: Path, smaller: Path, sampling: Sampling
) -> None:
    expected = answer(plainly, PROMPT, sampling)
    driven = with_draft(smollm2, smaller)
    assert answer(driven, PROMPT, sampling) == expected
    timings = finished(driven).timings
    assert 0 < timings.accepted < timings.drafted
    driven.close()


def test_a_model_that_guesses_for_itself_is_right_but_for_what_is_uncertain(
    plainly: Driven, smollm2: Path
) -> None:
    driven = with_draft(smollm2, smollm2)
    assert answer(driven, PROMPT, Sampling(temperature=0.7, top_k=1, seed=1)) == answer(
        plainly, PROMPT, GREEDY
    )
    timings = finished(driven).timings
    assert timings.accepted == timings.drafted > 20
    driven.close()


def test_conversations_side_by_side_have_drafts_of_their_own(
    plainly: Driven, smollm2: Path, smaller: Path
) -> None:
    prompts = {"one": PROMPT, "two": "Water boils at"}
    expected = {name: answer(plainly, prompt, GREEDY) for name, prompt in prompts.items()}
    driven = with_draft(smollm2, smaller)
    for name, prompt in prompts.items():
        ask(driven, name, prompt, GREEDY)
    driven.run()
    for name in prompts:
        assert driven.text(name) == expected[name]
        assert finished(driven, name).timings.drafted > 0
    driven.close()


def test_a_vocabulary_of_another_model_is_refused(plainly: Driven, tmp_path: Path) -> None:
    other = tiny.plain(tmp_path / "tiny.gguf")
    with pytest.raises(LoadFailed, match="vocabularies have 49152 and 95 tokens"):
        DraftModel(str(other), plainly.model, log=log())


def test_a_draft_model_with_a_recurrent_memory_is_refused(tmp_path: Path) -> None:
    main = Driven(tiny.plain(tmp_path / "plain.gguf"), EXACT)
    with pytest.raises(LoadFailed, match="recurrent memory"):
        DraftModel(str(tiny.recurrent(tmp_path / "mamba.gguf")), main.model, log=log())
    main.close()
