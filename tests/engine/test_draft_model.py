"""A second model drafts; the answers stay those of the first."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.messages import Finished, GenerateRequest, Sampling
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.speculative.draft_model import DraftModel
from localllm.errors import LoadFailed
from tests.engine import native, tiny
from tests.engine.answers import GREEDY
from tests.engine.stepped_scheduler import SteppedScheduler, log

EXACT = LoadSettings(context=512, parallel=2, batch=64, ubatch=64, threads=1)
ALWAYS = replace(EXACT, speculate=Speculate.NGRAM)
PROMPT = "The old harbour master opened the gate and"


@pytest.fixture(scope="module")
def smaller(shallow_smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model in 4.5 bits."""
    log()
    target = tmp_path_factory.mktemp("draft") / "q4_0.gguf"
    params = native.llama_model_quantize_default_params()
    params.ftype = native.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    source, out = str(shallow_smollm2).encode(), str(target).encode()
    assert native.llama_model_quantize(source, out, ctypes.byref(params)) == 0
    return target


@pytest.fixture(scope="module")
def plainly(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(shallow_smollm2, EXACT)
    yield stepped
    stepped.close()


def with_draft(main: Path, draft: Path, load: LoadSettings = ALWAYS) -> SteppedScheduler:
    stepped = SteppedScheduler(main, load)
    drafter = DraftModel(str(draft), stepped.model, log=log())
    stepped.close()
    return SteppedScheduler(main, load, drafter=drafter, in_company=True)


def ask(stepped: SteppedScheduler, request_id: str, prompt: str, sampling: Sampling) -> None:
    request = GenerateRequest(
        request_id=request_id, prompt=prompt, sampling=sampling, max_tokens=32, ignore_eos=True
    )
    stepped.scheduler.submit(
        request, Prompt(tokens=stepped.model.vocab.tokenize(prompt, special=False)), 0.0
    )


def answer(stepped: SteppedScheduler, prompt: str, sampling: Sampling) -> str:
    stepped.events.clear()
    ask(stepped, "a", prompt, sampling)
    stepped.run()
    return stepped.text("a")


def finished(stepped: SteppedScheduler, request_id: str = "a") -> Finished:
    end = stepped.end(request_id)
    assert isinstance(end, Finished)
    return end


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.7, seed=4)])
def test_an_answer_is_that_of_the_model_alone(
    plainly: SteppedScheduler, shallow_smollm2: Path, smaller: Path, sampling: Sampling
) -> None:
    expected = answer(plainly, PROMPT, sampling)
    stepped = with_draft(shallow_smollm2, smaller)
    assert answer(stepped, PROMPT, sampling) == expected
    timings = finished(stepped).timings
    assert 0 < timings.accepted < timings.drafted
    stepped.close()


def test_a_model_that_drafts_for_itself_is_right_but_for_what_is_uncertain(
    plainly: SteppedScheduler, shallow_smollm2: Path
) -> None:
    stepped = with_draft(shallow_smollm2, shallow_smollm2)
    assert answer(stepped, PROMPT, Sampling(temperature=0.7, top_k=1, seed=1)) == answer(
        plainly, PROMPT, GREEDY
    )
    timings = finished(stepped).timings
    assert timings.accepted == timings.drafted > 20
    stepped.close()


def test_conversations_side_by_side_have_drafts_of_their_own(
    plainly: SteppedScheduler, shallow_smollm2: Path, smaller: Path
) -> None:
    prompts = {"one": PROMPT, "two": "Water boils at"}
    expected = {name: answer(plainly, prompt, GREEDY) for name, prompt in prompts.items()}
    stepped = with_draft(shallow_smollm2, smaller)
    for name, prompt in prompts.items():
        ask(stepped, name, prompt, GREEDY)
    stepped.run()
    for name in prompts:
        assert stepped.text(name) == expected[name]
        assert finished(stepped, name).timings.drafted > 0
    stepped.close()


def test_a_vocabulary_of_another_model_is_refused(
    plainly: SteppedScheduler, tmp_path: Path
) -> None:
    other = tiny.plain(tmp_path / "tiny.gguf")
    with pytest.raises(LoadFailed, match="vocabularies have 49152 and 95 tokens"):
        DraftModel(str(other), plainly.model, log=log())


def test_a_draft_model_with_a_recurrent_memory_is_refused(tmp_path: Path) -> None:
    main = SteppedScheduler(tiny.plain(tmp_path / "plain.gguf"), EXACT)
    with pytest.raises(LoadFailed, match="recurrent memory"):
        DraftModel(str(tiny.recurrent(tmp_path / "mamba.gguf")), main.model, log=log())
    main.close()
