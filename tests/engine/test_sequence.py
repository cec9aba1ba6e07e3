"""The states of a sequence, without a model."""

import pytest

from localllm.engine.messages import CacheReuse, GenerateRequest
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.sampling.sampler import Sampler
from localllm.engine.worker.sequences.sequence import (
    OutputState,
    PromptState,
    Sequence,
    SequenceMetrics,
    SequenceStatus,
)

REQUEST = GenerateRequest(request_id="a", prompt="abc", n=2)


class FakeSampler:
    """A sampler that draws nothing."""

    closed = False

    def close(self) -> None:
        self.closed = True


def sequence(index: int = 0, parent: Sequence | None = None) -> Sequence:
    return Sequence(
        request=REQUEST,
        prompt=PromptState(tokens=[1, 2, 3], cells=3),
        output=OutputState(limit=10, detokenizer=IncrementalDetokenizer()),
        metrics=SequenceMetrics(arrived=10.0),
        index=index,
        parent=parent,
    )


def status(each: Sequence) -> SequenceStatus:
    return each.status


def admit(each: Sequence, *, cached: int = 0) -> FakeSampler:
    fake = FakeSampler()
    sampler: Sampler = fake  # type: ignore[assignment]  # all that a sequence asks of one
    each.admit(each.index, sampler, reuse=CacheReuse(own=cached), now=11.0)
    return fake


def test_a_sequence_goes_from_the_queue_to_its_end() -> None:
    one = sequence()
    assert status(one) is SequenceStatus.WAITING
    sampler = admit(one)
    assert (status(one), one.slot) == (SequenceStatus.PREFILL, 0)
    one.add_token(7, 12.0)
    one.add_token(8, 13.0)
    assert status(one) is SequenceStatus.DECODE
    assert (one.output.next_token, one.output.count) == (8, 2)
    one.finish()
    assert status(one) is SequenceStatus.FINISHED
    assert sampler.closed


def test_a_sequence_can_be_cancelled_in_the_queue() -> None:
    one = sequence()
    one.finish()
    assert status(one) is SequenceStatus.FINISHED


@pytest.mark.parametrize("shared", [True, False])
def test_a_child_awaits_the_prompt_that_its_parent_computes(shared: bool) -> None:
    parent = sequence()
    admit(parent, cached=2)
    child = sequence(1, parent)
    admit(child)
    assert status(child) is SequenceStatus.AWAITING_PARENT
    child.parent_computed(shared=shared)
    assert status(child) is SequenceStatus.PREFILL
    assert child.prompt.cached_tokens == (2 if shared else 0)


def test_a_child_of_a_parent_that_answers_already_awaits_nothing() -> None:
    parent = sequence()
    admit(parent)
    parent.add_token(7, 12.0)
    child = sequence(1, parent)
    admit(child)
    assert status(child) is SequenceStatus.PREFILL


def test_lost_cells_are_computed_again_with_the_answer_so_far() -> None:
    one = sequence()
    admit(one)
    for token in (7, 8, 9):
        one.add_token(token, 12.0)
    one.recompute([1, 2, 3, 7, 8])
    assert status(one) is SequenceStatus.PREFILL
    assert one.prompt.tokens == [1, 2, 3, 7, 8, 9]
    assert (one.output.next_token, one.output.count) == (None, 3)
    one.recompute([1, 2])  # the same again, before it was done
    assert one.prompt.tokens == [1, 2, 3, 7, 8, 9]
    assert one.prompt.cells == 3


def test_timings_count_from_arrival_and_from_the_slot() -> None:
    one = sequence()
    assert one.timings(10.5).queue_s == 0.5
    admit(one, cached=1)
    one.add_token(7, 12.0)
    one.add_token(8, 14.0)
    timings = one.timings(15.0)
    assert (timings.queue_s, timings.ttft_s, timings.total_s) == (1.0, 2.0, 5.0)
    assert (timings.prefill_tps, timings.decode_tps) == (2.0, 0.5)
