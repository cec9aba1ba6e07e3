"""Speculative decoding: propose draft tokens, verify them all in one step, and learn from it.

The scheduler asks for draft tokens when it builds a batch (`propose`) and has their rows sampled in
order afterwards (`verify`): as long as the token that is drawn is the draft token, the next row is
the next token's. Nothing is ever drawn from a row that depends on a rejected token, so the answer
is the one that single steps would give, at any temperature.

But for rounding: kernels for one row and for several may add in another order. An answer at
temperature 0 is the most likely token each time, so there a row counts only when its most likely
token leads by SAFE_MARGIN; otherwise the token before it is computed again, alone
(docs/speculation.md has the measurements).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Tokens
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from localllm.core.sizing.load import Speculate
from localllm.engine.worker.kv_cache.kv_cache import KvCache
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sampling.sampler import adjusts_logits, is_greedy
from localllm.engine.worker.sequences.batch import Batch, Chunk, count_groups
from localllm.engine.worker.sequences.sequence import FINISHED, Sequence
from localllm.engine.worker.speculative.acceptance import (
    AcceptanceRate,
    StepCost,
    allot,
    match_confidence,
)
from localllm.engine.worker.speculative.draft_state import NO_DRAFT, Draft, DraftState
from localllm.errors import GenerationFailed

if TYPE_CHECKING:  # and numpy with it
    from localllm.engine.worker.sampling.logits import Allowed

SAFE_MARGIN = 1.0
"""Logits. The largest change of a margin between one row and eight was 0.86 in 640 tokens of
gemma-3-270m Q4_K_M, and no margin above 0.1 changed its sign (docs/speculation.md, 2026-11-21)."""

_FIRST_STABILITY = 0.9
_FIRST_MODEL_RATE = 0.8
"""Expected before anything was measured. A draft model of which too little is expected would never
be asked."""

_DRAFT_COST_WEIGHT = 0.2
"""Of the newest measurement of what a draft costs."""

_PAUSE_STEPS = 32
"""Steps without draft tokens after the cache had no cells for them."""

_MEASURED_ROWS = 32
"""Larger steps are measured in multiples of this many rows."""


class Drafter(Protocol):
    """Computes drafts: a draft model, or a fake in tests."""

    def draft(self, texts: Mapping[int, Tokens[int]], most: int) -> dict[int, Draft]:
        """Return up to `most` draft tokens for each of these slots, given their texts from the
        first token to the last. A slot whose text has to be computed first may be missing."""


class Speculator:
    """Drafts of all running sequences of one model."""

    def __init__(
        self,
        model: Model,
        kv_cache: KvCache,
        clock: Callable[[], float],
        drafter: Drafter | None = None,
    ) -> None:
        self._model = model
        self._vocab = model.vocab
        self._kv_cache = kv_cache
        self._clock = clock
        settings = model.settings
        self._max_tokens = settings.outputs - settings.parallel
        self._always = settings.speculate is Speculate.NGRAM
        self._off = self._max_tokens == 0 or not kv_cache.memory.can_reject_drafts
        self._drafter = drafter
        self._states: dict[int, DraftState] = {}
        """By slot, of running sequences that have drawn a token."""
        self._one_pool = model.unified_cache
        self._step_costs: defaultdict[int, StepCost] = defaultdict(StepCost)
        """By the groups of slots that are computed together: each takes a pass of its own."""
        self._step_cost = self._step_costs[1]
        self._draft_s = 0.0
        self._ngram_rate = AcceptanceRate()
        self._model_rate = AcceptanceRate(first=_FIRST_MODEL_RATE)
        self._stability = AcceptanceRate(first=_FIRST_STABILITY)
        self._paused_steps = 0

    # --- before a step ---

    def propose(self, decoding: Tokens[Sequence], most: int) -> dict[int, tuple[int, ...]]:
        """Return draft tokens by slot for these sequences, `most` together."""
        if self._off:
            return {}
        self._step_cost = self._step_costs[self._groups(each.slot for each in decoding)]
        tokens = self._kv_cache.tokens
        able = [
            each
            for each in decoding
            if self._may_draft(each) and self._update(each, tokens[each.slot])
        ]
        states = [self._states[each.slot] for each in able]
        self._paused_steps = max(0, self._paused_steps - 1)
        most = 0 if self._paused_steps else min(most, self._max_tokens)
        if self._drafter is not None and able and most:
            self._ask_drafter(self._drafter, able, most, running=len(decoding))
        acceptance = [
            state.acceptance(greedy=_is_greedy(each))
            for each, state in zip(able, states, strict=True)
        ]
        if self._always:
            counts = _first_come([len(each) for each in acceptance], most)
        else:
            counts = allot(acceptance, running=len(decoding), most=most, step_s=self._step_cost.of)
        return {
            sequence.slot: state.draft.tokens[:count]
            for sequence, state, count in zip(able, states, counts, strict=True)
            if count
        }

    def _may_draft(self, sequence: Sequence) -> bool:
        """Return False for a request that is computed as it always is: how many drafts pay is
        measured, and a batch of more tokens may sum in another order. In company one with a seed
        has drafts only where they were asked for at the load."""
        if sequence.prompt.fixed_chunks:
            return False
        chosen = self._always or self._drafter is not None
        return chosen or sequence.request.sampling.seed is None

    def _update(self, sequence: Sequence, tokens: Tokens[int]) -> bool:
        """Learn the tokens that came since the last step and draft from the text itself. Returns
        False when the sequence must have no draft now."""
        output, state = sequence.output, self._states.get(sequence.slot)
        if state is None:
            state = self._states[sequence.slot] = DraftState(
                ngram_rate=AcceptanceRate(self._ngram_rate),
                model_rate=AcceptanceRate(self._model_rate),
                stability=AcceptanceRate(self._stability),
            )
            new = len(tokens) + 1
        else:
            new = output.count - state.indexed
        assert output.next_token is not None
        if new:
            state.learn([*tokens[len(tokens) + 1 - new :], output.next_token])
            state.indexed = output.count
            match = state.index.propose(self._useful(sequence))
            draft = self._until_end(match.tokens)
            levels = tuple(match_confidence(match.length + i) for i in range(len(draft)))
            state.propose(Draft(draft, levels), state.ngram_rate)
        skip, state.skip_step = state.skip_step, False
        return not skip and _may_have_draft(sequence)

    def _ask_drafter(
        self, drafter: Drafter, able: list[Sequence], most: int, *, running: int
    ) -> None:
        """Let the draft model draft, where that is expected to pay, for sequences whose own text
        promises less."""
        asking: list[Sequence] = []
        acceptance: list[tuple[float, ...]] = []
        for sequence in able:
            if sequence.prompt.images is not None:
                continue  # a draft model reads tokens only
            state = self._states[sequence.slot]
            rate = state.model_rate.overall()
            if next(iter(state.acceptance(greedy=False)), 0.0) < rate:
                asking.append(sequence)
                acceptance.append(tuple(rate ** (i + 1) for i in range(most)))
        counts = allot(
            acceptance,
            running=running,
            most=most,
            step_s=self._step_cost.of,
            draft_s=self._draft_s,
        )
        length = most if self._always and asking else max(counts, default=0)
        if not length:
            return
        tokens = self._kv_cache.tokens
        texts = {s.slot: [*tokens[s.slot], s.output.next_token or 0] for s in asking}
        started = self._clock()
        drafts = drafter.draft(texts, length)
        self._record_draft(self._clock() - started, sum(len(d.tokens) for d in drafts.values()))
        for sequence in asking:
            draft = drafts.get(sequence.slot, NO_DRAFT)
            useful = self._until_end(draft.tokens[: self._useful(sequence)])
            if useful:
                state = self._states[sequence.slot]
                state.propose(Draft(useful, draft.levels[: len(useful)]), state.model_rate)

    def _record_draft(self, seconds: float, tokens: int) -> None:
        if tokens:
            newest = seconds / tokens
            change = _DRAFT_COST_WEIGHT * (newest - self._draft_s)
            self._draft_s = self._draft_s + change if self._draft_s else newest

    def _useful(self, sequence: Sequence) -> int:
        """The number of draft tokens that are of use: an answer's last token is never computed."""
        output = sequence.output
        return max(0, min(self._max_tokens, output.limit - output.count - 1))

    def _until_end(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Cut before the first token that ends an answer or is a position of an image."""
        return tuple(takewhile(lambda each: each >= 0 and not self._vocab.is_end(each), tokens))

    # --- after a step ---

    def record_step(self, batch: Batch, seconds: float) -> None:
        """Measure the time of a step."""
        rows = len(batch.tokens)
        if self._off or not rows:
            return
        if rows > _MEASURED_ROWS:
            whole = rows - rows % _MEASURED_ROWS
            rows, seconds = whole, seconds * whole / rows
        groups = self._groups(chunk.sequence.slot for chunk in batch.chunks)
        self._step_costs[groups].observe(rows, seconds)

    def _groups(self, slots: Iterable[int]) -> int:
        return 1 if self._one_pool else count_groups(slots)

    def pause(self, batch: Batch) -> bool:
        """Propose nothing for a while: the cache had no cells for this batch. Returns False when
        there were no draft tokens in it."""
        if not any(chunk.drafted for chunk in batch.chunks):
            return False
        self._paused_steps = _PAUSE_STEPS
        return True

    def verify(self, chunk: Chunk, sample: Callable[[Sequence, int], None]) -> bool:
        """Sample a sequence's rows as long as each draft token is accepted, and remove the cells of
        the others. Returns False, and leaves the slot empty, when this kind of memory cannot be cut
        there."""
        sequence = chunk.sequence
        slot, state = sequence.slot, self._states[sequence.slot]
        first_row = chunk.last_row - chunk.drafted
        state.has_draft_cells = True
        sequence.metrics.drafted += chunk.drafted
        for i, token in enumerate(chunk.tokens):
            if token != sequence.output.next_token:
                break
            # A memory that cannot go back to before the first row has to go on from it.
            checked = i > 0 or self._kv_cache.memory.can_rewind
            if checked and not self._is_stable(sequence, state, first_row + i):
                if i == 0:
                    self._kv_cache.truncate(slot, self._kv_cache.length(slot) - 1)
                break
            if i > 0:
                sequence.metrics.accepted += 1
                self._kv_cache.append(slot, [token])
            sample(sequence, first_row + i)
            if sequence.status is FINISHED:
                return True
        return self._remove_draft_cells(slot, state)

    def finish(self, sequence: Sequence) -> None:
        """Drop the state of a sequence that leaves its slot, and the cells of its draft tokens."""
        state = self._states.pop(sequence.slot, None)
        if state is not None:
            self._remove_draft_cells(sequence.slot, state)

    def _remove_draft_cells(self, slot: int, state: DraftState) -> bool:
        if not state.has_draft_cells:
            return True
        state.has_draft_cells = False
        return self._kv_cache.truncate(slot, self._kv_cache.length(slot))

    def _is_stable(self, sequence: Sequence, state: DraftState, row: int) -> bool:
        """Return True when a step with one row would have the same most likely token."""
        if not _is_greedy(sequence):
            return True
        from localllm.engine.worker.sampling.logits import logits_of, top_margin

        allowed: Allowed | None = None
        if sequence.output.constraint is not None:
            try:
                allowed = sequence.output.constraint.allowed()
            except GenerationFailed:
                return True  # which drawing from this row will raise again
        logits = logits_of(self._model.handle, row, self._vocab.size)
        stable = top_margin(logits, allowed) >= SAFE_MARGIN
        state.stability.observe(0, stable)
        state.skip_step = not stable
        return stable


def _is_greedy(sequence: Sequence) -> bool:
    return is_greedy(sequence.request.sampling)


def _may_have_draft(sequence: Sequence) -> bool:
    """Return False before `min_tokens`, and where a margin would have to be known that penalties or
    a bias have changed."""
    request = sequence.request
    if sequence.output.count < request.min_tokens:
        return False
    return not (is_greedy(request.sampling) and adjusts_logits(request.sampling))


def _first_come(proposed: list[int], most: int) -> list[int]:
    """Give each as many as it has proposed until there are `most`."""
    counts = []
    for each in proposed:
        counts.append(min(each, most))
        most -= counts[-1]
    return counts
