"""Bounds on waiting: of the next slot, of a prompt's turn, of a step. Pure, with simulated time."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import GenerateRequest
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.scheduling.admission import MAX_OVERTAKEN, MIN_GAIN_TOKENS, choose
from localllm.engine.worker.scheduling.step_limit import READING_S, STREAMING_S, StepLimit
from localllm.engine.worker.scheduling.turns import PATIENCE, count_passed_over, in_turns
from localllm.engine.worker.sequences.batch import Chunk
from localllm.engine.worker.sequences.sequence import (
    OutputState,
    PromptState,
    Sequence,
    SequenceMetrics,
)

# --- the next slot ---

counts = st.integers(0, 300)


@given(st.lists(st.lists(counts, min_size=0, max_size=3), min_size=1, max_size=60))
def test_nobody_is_overtaken_more_often_than_the_bound(arrivals: list[list[int]]) -> None:
    """Between two free slots some requests come; what the cache has of each changes all the time"""
    waiting: list[list[int]] = []  # times it was overtaken, tokens in the cache
    for step, new in enumerate(arrivals):
        waiting += [[0, cached] for cached in new]
        if not waiting:
            continue
        cached = [(tokens * (7 + step)) % 301 for _, tokens in waiting]
        chosen = choose([overtaken for overtaken, _ in waiting], cached)
        assert chosen == 0 or cached[chosen] >= cached[0] + MIN_GAIN_TOKENS
        for each in waiting[:chosen]:
            each[0] += 1
        del waiting[chosen]
        assert all(overtaken <= MAX_OVERTAKEN for overtaken, _ in waiting)


def test_what_is_cached_goes_first_and_of_equals_what_came_first() -> None:
    assert choose([0, 0, 0], [0, 500, 500]) == 1
    assert choose([0, 0, 0], [0, 200, 500]) == 2
    assert choose([0, 0], [200, 200 + MIN_GAIN_TOKENS - 1]) == 0
    assert choose([MAX_OVERTAKEN, 0], [0, 500]) == 0
    assert choose([0, MAX_OVERTAKEN, 0], [0, 300, 500]) == 1


# --- a prompt's turn ---

SLOTS, STEP = 6, 512


def waiting_prompt(number: int, tokens: int) -> Sequence:
    return Sequence(
        request=GenerateRequest(request_id=str(number), prompt=""),
        prompt=PromptState(tokens=[0] * tokens, cells=tokens),
        output=OutputState(limit=1, detokenizer=IncrementalDetokenizer()),
        metrics=SequenceMetrics(arrived=float(number)),
    )


class Prefill:
    """Prompts that are read by `in_turns`, full batches of which take one step of the clock."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.sequences: list[Sequence] = []
        self.waited: dict[int, int] = {}

    def add(self, sequence: Sequence) -> None:
        self.sequences.append(sequence)
        self.left[id(sequence)] = len(sequence.prompt.tokens)
        self.waited[id(sequence)] = 0

    def step(self) -> list[Sequence]:
        """Returns those whose prompts were finished."""
        budget, chunks = STEP, []
        turns = in_turns(self.sequences, lambda each: self.left[id(each)], patience=PATIENCE * STEP)
        for sequence in turns:
            tokens = min(budget, self.left[id(sequence)])
            if tokens:
                chunks.append(Chunk(sequence, 0, [0] * tokens, samples=False))
                self.left[id(sequence)] -= tokens
                budget -= tokens
        count_passed_over(self.sequences, chunks)
        served = {id(chunk.sequence) for chunk in chunks}
        for sequence in self.sequences:
            key = id(sequence)
            self.waited[key] = 0 if key in served else self.waited[key] + 1
        done = [each for each in self.sequences if not self.left[id(each)]]
        self.sequences = [each for each in self.sequences if self.left[id(each)]]
        return done


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4000)), min_size=1, max_size=40))
def test_no_prompt_starves_whatever_comes(arrivals: list[tuple[int, int]]) -> None:
    """Each arrival: the steps since the one before, and the tokens of the prompt."""
    prefill, queue = Prefill(), list(enumerate(arrivals))
    pause = arrivals[0][0]
    while queue or prefill.sequences:
        while queue and pause <= 0 and len(prefill.sequences) < SLOTS:
            number, (_, tokens) = queue.pop(0)
            prefill.add(waiting_prompt(number, tokens))
            pause = queue[0][1][0] if queue else 0
        pause -= 1
        prefill.step()
        # At most all others have waited longer when its patience ends, and each takes one step.
        assert all(steps <= PATIENCE + SLOTS for steps in prefill.waited.values())


@given(st.integers(STEP, 20_000), st.integers(1, 200))
def test_a_short_question_is_read_in_the_next_step_and_delays_a_document_by_its_own_tokens(
    document: int, question: int
) -> None:
    prefill = Prefill()
    long, short = waiting_prompt(0, document), waiting_prompt(1, question)
    prefill.add(long)
    prefill.step()
    prefill.add(short)
    steps, done = 1, prefill.step()
    if document > STEP:
        assert short in done
    while prefill.sequences:
        prefill.step()
        steps += 1
    assert 1 + steps <= -(-(document + question) // STEP) + 1


# --- a step ---


@given(st.sampled_from([64, 512, 2048]), st.floats(1e-5, 1.0), st.booleans(), st.floats(0.0, 0.1))
def test_steps_soon_take_no_longer_than_they_may(
    most: int, token_s: float, streaming: bool, fixed_s: float
) -> None:
    """`fixed_s`: what the other sequences of the batch take."""
    limit, allowed_s = StepLimit(most, 64), STREAMING_S if streaming else READING_S
    assert limit.tokens(streaming=streaming) == most
    for _ in range(30):
        tokens = limit.tokens(streaming=streaming)
        limit.record(tokens, tokens * token_s + fixed_s)
    taken_s = tokens * token_s + fixed_s
    assert 64 <= tokens <= most
    assert taken_s <= 1.5 * allowed_s or tokens == 64
    if most * token_s + fixed_s <= 0.5 * allowed_s:
        assert tokens == most


def test_a_step_that_took_long_by_chance_is_forgotten_and_a_small_one_says_nothing() -> None:
    limit = StepLimit(512, 64)
    limit.record(63, 100.0)
    assert limit.tokens(streaming=True) == 512
    limit.record(512, 60.0)
    assert limit.tokens(streaming=True) == 64
    for _ in range(12):
        limit.record(64, 0.01)
    assert limit.tokens(streaming=True) == 512
