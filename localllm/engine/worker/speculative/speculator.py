"""Guess tokens ahead, check them all in one step, and learn whether that was worth it.

The scheduler asks for guesses when it builds a batch and samples their rows in order afterwards
(`follow`): as long as the token that is drawn is the one that was guessed, the next row is the
next token's. Nothing is ever drawn from a row that depends on a wrong guess, so what is drawn is
what would have been drawn one by one, at any temperature.

But for rounding: kernels for one row and for several may add in another order. An answer at
temperature 0 is the likeliest token each time, so there a row counts only when its likeliest
token leads by SAFE_LEAD; otherwise the token before it is computed again, alone
(docs/speculation.md has what that was measured on).
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from localllm.core.sizing.load import Speculate
from localllm.engine.messages import Sampling
from localllm.engine.worker.kv_cache.kv_cache import Cells
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sampling.sampler import changes_logits, is_greedy
from localllm.engine.worker.sequences.sequence import Batch, Chunk, Sequence
from localllm.engine.worker.speculative.acceptance import (
    NO_DRAFT,
    Acceptance,
    Draft,
    Drafter,
    StepCost,
    allot,
    kind_of_match,
)
from localllm.engine.worker.speculative.ngram import NgramIndex
from localllm.errors import GenerationFailed

if TYPE_CHECKING:
    from localllm.engine.worker.sampling.logits import Allowed

SAFE_LEAD = 1.0
"""Logits. The largest change of a lead between one row and eight was 0.86 in 640 tokens of
gemma-3-270m Q4_K_M, and no lead above 0.1 changed its sign (docs/speculation.md, 2026-11-21)."""

_FIRST_CERTAIN = 0.9
_FIRST_MODELLED = 0.8
"""What is believed before anything was seen. A draft model that is believed in too little would
never be asked."""

_DRAFT_WEIGHT = 0.2
"""Of the newest measurement of what a draft costs."""

_REST_STEPS = 32
"""Steps without guesses after the cache had no room for them."""

_MEASURED_ROWS = 32
"""Larger steps are measured in multiples of this many rows."""


@dataclass(slots=True)
class Guesses:
    """What one sequence's guesses are made of, and what became of them."""

    repeated: Acceptance
    """Of guesses from the text itself."""
    modelled: Acceptance
    """Of a draft model's guesses."""
    certainty: Acceptance
    index: NgramIndex = field(default_factory=NgramIndex)
    known: int = 0
    """Tokens of the answer that are in the index."""
    offered: Draft = NO_DRAFT
    source: Acceptance | None = None
    alone: bool = False
    """The next token has to be computed in a step without guesses for this sequence."""
    drafted: int = 0
    accepted: int = 0

    def learn(self, tokens: Tokens[int]) -> None:
        """Take in the tokens that came; compare them with what was offered, computed or not."""
        if self.source is not None:
            for token, guess, kind in zip(
                tokens, self.offered.tokens, self.offered.kinds, strict=False
            ):
                self.source.observe(kind, token == guess)
                if token != guess:
                    break
        self.index.extend(tokens)
        self.certainty.fade()
        if self.source is not self.modelled:
            self.modelled.fade()

    def offer(self, draft: Draft, source: Acceptance) -> None:
        self.offered, self.source = draft, source

    def chances(self, *, greedy: bool) -> tuple[float, ...]:
        """Of the offered tokens: that each and all before it will count."""
        if self.source is None:
            return ()
        certain = self.certainty.average() if greedy else 1.0
        chances = self.source.chances(self.offered.kinds)
        return tuple(each * certain ** (i + 1) for i, each in enumerate(chances))


class Speculation:
    """All guessing of one model."""

    def __init__(
        self,
        model: Model,
        cells: Cells,
        clock: Callable[[], float],
        drafter: Drafter | None = None,
    ) -> None:
        self._model = model
        self._cells = cells
        self._clock = clock
        settings = model.settings
        self._most = settings.outputs - settings.parallel
        self._always = settings.speculate is Speculate.NGRAM
        # A recurrent state cannot give up a guess that was wrong.
        self._off = self._most == 0 or model.recurrent
        self._drafter = drafter
        self._cost = StepCost()
        self._draft_s = 0.0
        self._repeated = Acceptance()
        self._modelled = Acceptance(first=_FIRST_MODELLED)
        self._certainty = Acceptance(first=_FIRST_CERTAIN)
        self._rest = 0

    # --- before a step ---

    def guess(self, answering: Tokens[Sequence], room: int) -> dict[int, tuple[int, ...]]:
        """Guesses by slot for these sequences, `room` at most."""
        if self._off:
            return {}
        held = self._cells.held
        able = [each for each in answering if self._look(each, held[each.slot])]
        self._rest = max(0, self._rest - 1)
        room = 0 if self._rest else min(room, self._most)
        if self._drafter is not None and able and room:
            self._draft(self._drafter, able, room, running=len(answering))
        offers = [_of(each).chances(greedy=_greedy(each)) for each in able]
        if self._always:
            counts = _in_turn([len(offer) for offer in offers], room)
        else:
            counts = allot(offers, running=len(answering), room=room, seconds=self._cost.of)
        return {
            sequence.slot: _of(sequence).offered.tokens[:count]
            for sequence, count in zip(able, counts, strict=True)
            if count
        }

    def _look(self, sequence: Sequence, held: Tokens[int]) -> bool:
        """Take in what came since the last step and look for it in the text itself. False when
        nothing may be guessed now."""
        guesses = sequence.guesses
        if guesses is None:
            guesses = sequence.guesses = Guesses(
                Acceptance(self._repeated),
                Acceptance(self._modelled),
                Acceptance(self._certainty),
            )
            new = len(held) + 1
        else:
            new = sequence.produced - guesses.known
        assert sequence.next_token is not None
        if new:
            guesses.learn([*held[len(held) + 1 - new :], sequence.next_token])
            guesses.known = sequence.produced
            found = guesses.index.guess(self._wanted(sequence))
            tokens = self._usable(found.tokens)
            kinds = tuple(kind_of_match(found.match + i) for i in range(len(tokens)))
            guesses.offer(Draft(tokens, kinds), guesses.repeated)
        alone, guesses.alone = guesses.alone, False
        return not alone and _may_guess(sequence)

    def _draft(
        self,
        drafter: Drafter,
        able: list[Sequence],
        room: int,
        *,
        running: int,
    ) -> None:
        """Let the draft model guess where it is expected to pay, for sequences whose own text
        says less."""
        asking = []
        for sequence in able:
            if sequence.pictures is not None:
                continue  # what a draft model reads has tokens only
            guesses = _of(sequence)
            likely = guesses.modelled.average()
            if next(iter(guesses.chances(greedy=False)), 0.0) < likely:
                asking.append((sequence, likely))
        offers = [tuple(likely ** (i + 1) for i in range(room)) for _, likely in asking]
        counts = allot(
            offers, running=running, room=room, seconds=self._cost.of, guess_s=self._draft_s
        )
        wanted = room if self._always and asking else max(counts, default=0)
        if not wanted:
            return
        held = self._cells.held
        texts = {s.slot: [*held[s.slot], s.next_token or 0] for s, _ in asking}
        started = self._clock()
        drafts = drafter.draft(texts, wanted)
        self._drafted(self._clock() - started, sum(len(each.tokens) for each in drafts.values()))
        for sequence, _ in asking:
            draft = drafts.get(sequence.slot, NO_DRAFT)
            tokens = self._usable(draft.tokens[: self._wanted(sequence)])
            if tokens:
                _of(sequence).offer(
                    Draft(tokens, draft.kinds[: len(tokens)]), _of(sequence).modelled
                )

    def _drafted(self, seconds: float, tokens: int) -> None:
        if tokens:
            newest = seconds / tokens
            self._draft_s += _DRAFT_WEIGHT * (newest - self._draft_s) if self._draft_s else newest

    def _wanted(self, sequence: Sequence) -> int:
        """How many guesses are of use: the last token of an answer is never computed."""
        return max(0, min(self._most, sequence.limit - sequence.produced - 1))

    def _usable(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Up to the first that ends an answer or is none: what stands for an image is not one."""
        return tuple(takewhile(lambda each: each >= 0 and not self._model.is_end(each), tokens))

    # --- after a step ---

    def measured(self, rows: int, seconds: float) -> None:
        """Note how long a step took."""
        if self._off or not rows:
            return
        if rows > _MEASURED_ROWS:
            whole = rows - rows % _MEASURED_ROWS
            rows, seconds = whole, seconds * whole / rows
        self._cost.observe(rows, seconds)

    def no_room(self, batch: Batch) -> bool:
        """The cache was full: go without guesses for a while. False when there were none."""
        if not any(chunk.guessed for chunk in batch.chunks):
            return False
        self._rest = _REST_STEPS
        return True

    def follow(self, chunk: Chunk, sample: Callable[[Sequence, int], None]) -> bool:
        """Sample a sequence's rows as long as each guess was right, and drop the cells of the
        others. False, and an empty slot, when this kind of memory cannot be cut there."""
        sequence, guesses = chunk.sequence, _of(chunk.sequence)
        slot, first = sequence.slot, chunk.last_row - chunk.guessed
        sequence.has_guesses = True
        guesses.drafted += chunk.guessed
        for i, token in enumerate(chunk.tokens):
            if token != sequence.next_token:
                break
            if not self._certain(sequence, guesses, first + i):
                if i == 0:
                    self._cells.cut(slot, self._cells.count(slot) - 1)
                break
            if i > 0:
                guesses.accepted += 1
                self._cells.grow(slot, [token])
            sample(sequence, first + i)
            if sequence.ended:
                return True
        return self.drop(sequence)

    def drop(self, sequence: Sequence) -> bool:
        """Take guesses that were not right out of the cache, if there are any; as `follow`."""
        if not sequence.has_guesses:
            return True
        sequence.has_guesses = False
        return self._cells.cut(sequence.slot, self._cells.count(sequence.slot))

    def _certain(self, sequence: Sequence, guesses: Guesses, row: int) -> bool:
        """Whether the likeliest token of this row would be that of a step with one row, too."""
        if not _greedy(sequence):
            return True
        from localllm.engine.worker.sampling.logits import lead, row_of

        allowed: Allowed | None = None
        if sequence.constraint is not None:
            try:
                allowed = sequence.constraint.allowed()
            except GenerationFailed:
                return True  # and whoever draws from this row says so
        logits = row_of(self._model.handle, row, self._model.vocabulary)
        certain = lead(logits, allowed) >= SAFE_LEAD
        guesses.certainty.observe(0, certain)
        guesses.alone = not certain
        return certain


def _of(sequence: Sequence) -> Guesses:
    assert sequence.guesses is not None
    return sequence.guesses


def _greedy(sequence: Sequence) -> bool:
    return is_greedy(sequence.request.sampling)


def _may_guess(sequence: Sequence) -> bool:
    """Not before `min_tokens`, and not where a lead would have to be known that penalties or a
    bias have changed."""
    sampling: Sampling = sequence.request.sampling
    if sequence.produced < sequence.request.min_tokens:
        return False
    return not (_greedy(sequence) and changes_logits(sampling))


def _in_turn(offered: list[int], room: int) -> list[int]:
    """Give each as many as are offered while there is room."""
    counts = []
    for each in offered:
        counts.append(min(each, room))
        room -= counts[-1]
    return counts
