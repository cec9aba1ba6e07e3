"""What the company of others in a batch changes in an answer: nothing of what can be promised."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.llama.model import BatchToken
from localllm.engine.worker.sampling.logits import logits_of
from tests.engine.stepped_scheduler import SteppedScheduler

PROMPTS = ("The capital of France is", "Once upon a time", "To make bread you need", "Dear Sir")


@pytest.fixture(scope="module")
def stepped(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(shallow_smollm2, LoadSettings(context=64, parallel=8, threads=1))
    yield stepped
    stepped.close()


def last_logits(stepped: SteppedScheduler, company: int) -> np.ndarray:
    """The first prompt's logits when its last token is computed beside those of `company` others,
    each prompt read alone before."""
    model = stepped.model
    for slot in range(stepped.memory.slots):
        model.remove_cells(slot)
    prompts = [model.vocab.tokenize(PROMPTS[i % 4], special=False) for i in range(1 + company)]
    for slot, prompt in enumerate(prompts):
        model.decode([BatchToken(token, at, slot, False) for at, token in enumerate(prompt[:-1])])
    model.decode([BatchToken(p[-1], len(p) - 1, slot, True) for slot, p in enumerate(prompts)])
    logits = logits_of(model.handle, 0, model.vocab.size).copy()
    for slot in range(stepped.memory.slots):
        model.remove_cells(slot)
    return logits


def test_the_same_batch_gives_the_same_bits(stepped: SteppedScheduler) -> None:
    assert np.array_equal(last_logits(stepped, 7), last_logits(stepped, 7))


@pytest.mark.parametrize("company", [1, 3, 7])
def test_others_in_a_batch_move_a_logit_by_rounding_alone(
    stepped: SteppedScheduler, company: int
) -> None:
    alone = last_logits(stepped, 0)
    beside = last_logits(stepped, company)
    assert int(alone.argmax()) == int(beside.argmax())
    assert float(np.abs(beside - alone).max()) < 1e-2 * float(alone.max() - alone.min())


def test_the_same_requests_at_once_have_the_same_texts_again(stepped: SteppedScheduler) -> None:
    rounds = []
    for number in range(2):
        for slot in list(stepped.scheduler.kv_cache.tokens):
            stepped.scheduler.kv_cache.clear(slot)
        for i, prompt in enumerate(PROMPTS):
            stepped.submit(f"{number} {i}", prompt, max_tokens=8)
        stepped.run()
        rounds.append([stepped.text(f"{number} {i}") for i in range(len(PROMPTS))])
    assert rounds[0] == rounds[1]
