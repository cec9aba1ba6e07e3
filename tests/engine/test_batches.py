"""What the company of others in a batch changes in an answer: nothing of what can be promised."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localllm.core.sizing.load import LoadSettings
from localllm.engine.worker.llama.model import Row
from localllm.engine.worker.sampling.logits import row_of
from tests.engine.driven import Driven

PROMPTS = ("The capital of France is", "Once upon a time", "To make bread you need", "Dear Sir")


@pytest.fixture(scope="module")
def driven(smollm2: Path) -> Iterator[Driven]:
    driven = Driven(smollm2, LoadSettings(context=64, parallel=8, threads=1))
    yield driven
    driven.close()


def last_logits(driven: Driven, company: int) -> np.ndarray:
    """The first prompt's logits when its last token is computed beside those of `company` others,
    each prompt read alone before."""
    model = driven.model
    for slot in range(model.sequences):
        model.keep(slot, 0)
    prompts = [model.tokenize(PROMPTS[i % 4], special=False) for i in range(1 + company)]
    for slot, prompt in enumerate(prompts):
        model.decode([Row(token, at, slot, False) for at, token in enumerate(prompt[:-1])])
    model.decode([Row(p[-1], len(p) - 1, slot, True) for slot, p in enumerate(prompts)])
    logits = row_of(model.handle, 0, model.vocabulary).copy()
    for slot in range(model.sequences):
        model.keep(slot, 0)
    return logits


def test_the_same_batch_gives_the_same_bits(driven: Driven) -> None:
    assert np.array_equal(last_logits(driven, 7), last_logits(driven, 7))


@pytest.mark.parametrize("company", [1, 3, 7])
def test_others_in_a_batch_move_a_logit_by_rounding_alone(driven: Driven, company: int) -> None:
    alone = last_logits(driven, 0)
    beside = last_logits(driven, company)
    assert int(alone.argmax()) == int(beside.argmax())
    assert float(np.abs(beside - alone).max()) < 1e-2 * float(alone.max() - alone.min())


def test_the_same_requests_at_once_have_the_same_texts_again(driven: Driven) -> None:
    rounds = []
    for number in range(2):
        for slot in list(driven.scheduler.cells.held):
            driven.scheduler.cells.forget(slot)
        for i, prompt in enumerate(PROMPTS):
            driven.submit(f"{number} {i}", prompt, max_tokens=8)
        driven.run()
        rounds.append([driven.text(f"{number} {i}") for i in range(len(PROMPTS))])
    assert rounds[0] == rounds[1]
