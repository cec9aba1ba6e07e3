"""Continuous batching: admit, build a batch, decode, sample, emit, retire.

Every step computes one batch for all running sequences: one token for each that is answering,
and a chunk of the prompts that are still being read. Sequences join and leave between steps.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from localllm.engine.messages import (
    Event,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    RequestError,
)
from localllm.engine.worker.kv_cache import radix_tree
from localllm.engine.worker.kv_cache.kv_cache import Cells
from localllm.engine.worker.llama.lora import Turns
from localllm.engine.worker.llama.model import Aborted, Model, NoRoom
from localllm.engine.worker.sampling.sampler import Sampler
from localllm.engine.worker.scheduling.request_queue import Waiting
from localllm.engine.worker.sequences.output import Voice
from localllm.engine.worker.sequences.parallel_sampling import (
    deadline,
    deadline_message,
    sampling_of,
)
from localllm.engine.worker.sequences.sequence import Batch, Chunk, Sequence
from localllm.engine.worker.speculative.acceptance import Drafter
from localllm.engine.worker.speculative.speculator import Speculation
from localllm.errors import BadRequest, DeadlineExceeded, GenerationFailed

if TYPE_CHECKING:
    from localllm.engine.worker.parsing.model_format import Manner


class Scheduler:
    """Runs every request of one model. Not thread-safe: one thread calls `step`."""

    def __init__(
        self,
        model: Model,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
    ) -> None:
        self._model = model
        self._emit = emit
        self._clock = clock
        self._voice = Voice(model, emit, clock)
        self._next_deadline = math.inf
        self._waiting = Waiting(model)
        self._running: dict[int, Sequence] = {}
        self._cells = Cells(model)
        self._turns = Turns()
        self._speculation = Speculation(model, self._cells, clock, drafter)
        self.reading: frozenset[str] = frozenset()
        """Requests whose prompt is in the batch being computed: those an abort may interrupt.
        Replaced, never changed: another thread looks at it."""

    @property
    def cells(self) -> Cells:
        """Between two steps anybody may look at what is in the cache."""
        return self._cells

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def _has_slot(self) -> bool:
        return len(self._running) < self._model.settings.parallel

    def submit(
        self,
        request: GenerateRequest,
        prompt: list[int],
        arrived: float,
        *,
        dropped: int = 0,
        manner: "Manner | None" = None,
    ) -> None:
        """Queue a request, of whose messages `dropped` were left out; `manner`: its answers are
        more than text.

        Raises BadRequest (its id is taken), ContextOverflow, QueueFull.
        """
        if any(sequence.id == request.request_id for sequence in self._everybody()):
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        self._waiting.add(request, prompt, arrived, dropped=dropped, manner=manner)
        self._next_deadline = min(self._next_deadline, deadline(request, arrived))

    def cancel(self, request_id: str) -> None:
        """End a request between steps. Unknown ids are ignored."""
        for sequence in self._everybody():
            if sequence.id == request_id:
                self._retire(sequence, FinishReason.CANCELLED)

    def _end_overdue(self) -> None:
        """Refuse every request whose deadline has passed."""
        now = self._clock()
        if now < self._next_deadline:
            return
        for sequence in self._everybody():
            if not sequence.ended and deadline(sequence.request, sequence.arrived) <= now:
                message = deadline_message(self._answers(sequence.request))
                self._refuse(sequence, DeadlineExceeded(message))
        left = (deadline(each.request, each.arrived) for each in self._everybody())
        self._next_deadline = min(left, default=math.inf)

    def _everybody(self) -> list[Sequence]:
        return [*self._running.values(), *self._waiting]

    def _answers(self, request: GenerateRequest) -> list[Sequence]:
        """Those of one request that have not ended."""
        return [each for each in self._everybody() if each.request is request]

    def step(self) -> None:
        """Compute one batch for everybody."""
        self._end_overdue()
        self._admit()
        if not self._running:
            self._waiting.wait_for_grammar()
            return
        self._show()
        batch = self._build()
        if batch.rows:
            self._compute(batch, lambda: self._model.decode(batch.rows))

    def _show(self) -> None:
        """Compute the next picture of the first who has come to one. One a step, and a batch for
        everybody after it: nobody waits for two."""
        for sequence in self._reading():
            pictures = sequence.pictures
            if pictures is None:
                continue
            self._catch_up(sequence)
            picture = pictures.at(self._cells.count(sequence.slot))
            if picture is None:
                continue
            if picture.start != self._cells.count(sequence.slot):  # a part of one is of no use
                self._cells.cut(sequence.slot, picture.start)
                sequence.cached = min(sequence.cached, self._cells.count(sequence.slot))
                return
            shown = pictures[picture.start : picture.end]
            chunk = Chunk(sequence, picture.start, shown, samples=False)
            batch = Batch([chunk], picture_cells=picture.cells)
            self._model.use(sequence.space)
            self._compute(batch, partial(pictures.show, picture, sequence.slot))
            return

    def _compute(self, batch: Batch, decode: Callable[[], None]) -> None:
        self.reading = frozenset(
            c.sequence.id for c in batch.chunks if c.sequence.next_token is None
        )
        started = self._clock()
        try:
            decode()
        except Aborted:
            self._undo(batch)
        except NoRoom:
            self._make_room(batch)
        except GenerationFailed as error:
            self._fail(batch, error)
        except RuntimeError as error:
            reason = f"llama.cpp could not compute this batch: {error}."
            self._fail(batch, GenerationFailed(reason))
        else:
            self._speculation.measured(len(batch.rows), self._clock() - started)
            for chunk in batch.chunks:
                self._cells.grow(chunk.sequence.slot, chunk.sure)
            for chunk in batch.chunks:
                if not chunk.sequence.ended:
                    self._advance(chunk)

    # --- admit ---

    def _admit(self) -> None:
        while self._has_slot and (sequence := self._waiting.next_ready(self._refuse)) is not None:
            self._waiting.remove(sequence)
            sequence.admitted = self._clock()
            reusable = [] if sequence.scores else sequence.prompt
            sequence.slot = self._cells.take(reusable, sequence.space)
            sequence.cached = self._cells.count(sequence.slot)
            sequence.sampler = Sampler(
                sampling_of(sequence),
                vocab=self._model.vocab,
                vocabulary=self._model.vocabulary,
            )
            sequence.sampler.accept_prompt(sequence.prompt)
            if sequence.constraint is not None:
                sequence.constraint.begin()
            self._running[sequence.slot] = sequence

    # --- build ---

    def _build(self) -> Batch:
        self._model.use(self._turns.next(s.space for s in self._running.values()))
        answering, reading = list(self._answering()), self._reading()
        room = 0 if reading else self._model.chunk - len(answering)
        guesses = self._speculation.guess(answering, room)
        chunks: list[Chunk] = []
        for sequence in answering:
            assert sequence.next_token is not None
            slot, start = sequence.slot, self._cells.count(sequence.slot)
            tokens = [sequence.next_token, *guesses.get(slot, ())]
            chunks.append(Chunk(sequence, start, tokens, samples=True, guessed=len(tokens) - 1))
        # One physical batch a step: larger ones are split inside llama_decode anyway, and this
        # way nobody who is answering waits for more than one chunk of somebody's prompt.
        room = self._model.chunk - sum(len(chunk.tokens) for chunk in chunks)
        enough = room - self._model.worthwhile_rows
        spare = self._model.outputs - len(self._running)  # everybody may need one row of logits
        ahead: list[Sequence] = []
        for sequence in reading:
            if room <= max(0, enough):
                break  # the earlier a prompt is read, the earlier its answer begins
            if self._catch_up(sequence) and any(self._soon(each, sequence) for each in ahead):
                continue
            ahead.append(sequence)
            start = self._cells.count(sequence.slot)
            tokens = sequence.prompt[start : start + sequence.text_from(start, room)]
            if not tokens:
                continue  # a picture is next
            if sequence.scores:
                tokens = tokens[: sequence.scorable(start, 1 + spare)]
                spare = 0
            whole = start + len(tokens) == len(sequence.prompt)
            chunks.append(Chunk(sequence, start, tokens, samples=whole and sequence.limit > 0))
            room -= len(tokens)
        return Batch.of(chunks)

    def _catch_up(self, sequence: Sequence) -> bool:
        """Share what others have computed of a prompt. False when this one shares nothing."""
        if not self._model.shares or not sequence.may_share:
            return False
        if self._cells.catch_up(sequence.slot, sequence.prompt) and not sequence.produced:
            sequence.cached = self._cells.count(sequence.slot)
        return True

    def _follows(self, sequence: Sequence) -> bool:
        """Whether its prompt is being read by the first answer to it."""
        leader = sequence.leader
        return (
            leader is not None
            and not leader.waiting
            and not (leader.ended or leader.produced or sequence.produced)
        )

    def _soon(self, other: Sequence, sequence: Sequence) -> bool:
        """Whether `other` is about to compute a good part of what `sequence` has yet to read.

        Clients that ask at the same time with one system prompt: it is computed once.
        """
        if other.space != sequence.space:
            return False
        shared = radix_tree.common(other.prompt, sequence.prompt[:-1])
        has, computed = self._cells.count(sequence.slot), self._cells.count(other.slot)
        least = max(radix_tree.MIN_AWAITED_TOKENS, self._cells.least_gain)
        return computed < shared and shared - has >= least

    def _in_turn(self) -> Iterator[Sequence]:
        return (s for s in self._running.values() if s.space == self._turns.current)

    def _answering(self) -> Iterator[Sequence]:
        return (s for s in self._in_turn() if s.next_token is not None)

    def _reading(self) -> list[Sequence]:
        """Sequences whose prompt is not read yet, first come first."""
        reading = [s for s in self._in_turn() if s.next_token is None and not self._follows(s)]
        return sorted(reading, key=lambda sequence: sequence.arrived)

    # --- after decode ---

    def _advance(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        if chunk.guessed:
            if not self._speculation.follow(chunk, self._sample):
                self._recompute(sequence)
            return
        if sequence.produced == 0:
            self._say_progress(chunk)
        if not chunk.samples:
            if sequence.limit == 0 and self._cells.count(sequence.slot) == len(sequence.prompt):
                self._retire(sequence, FinishReason.LENGTH)
            return
        for each in (sequence, *self._followers(sequence)):
            if not each.ended:  # what is refused ends all answers
                self._sample(each, chunk.last_row)

    def _say_progress(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        read = self._cells.count(sequence.slot)
        if sequence.index == 0:
            self._emit(
                PromptProgress(
                    request_id=sequence.id,
                    processed=read,
                    total=len(sequence.prompt),
                    cached=sequence.cached,
                )
            )
        if sequence.echo is not None:
            self._voice.say_prompt(sequence, chunk, read - len(chunk.tokens))

    def _followers(self, leader: Sequence) -> list[Sequence]:
        """Give the other answers the cells of the prompt that has just been read for all; those
        for which that works draw their first token from the same logits."""
        if leader.request.n == 1 or leader.produced:
            return []
        followers = [
            each
            for each in self._running.values()
            if each.leader is leader
            and self._follows(each)
            and self._cells.copy(leader.slot, each.slot)
        ]
        for each in followers:
            each.cached = leader.cached
        return followers

    def _sample(self, sequence: Sequence, row: int) -> None:
        try:
            reason = self._voice.say_next(sequence, row)
        except GenerationFailed as error:
            self._refuse(sequence, error)
            return
        if reason is not None:
            self._retire(sequence, reason)

    # --- retire ---

    def _retire(self, sequence: Sequence, reason: FinishReason) -> None:
        self._release(sequence)
        remaining = len(self._answers(sequence.request)) if sequence.request.n > 1 else 0
        self._voice.say_end(sequence, reason, remaining=remaining)

    def _release(self, sequence: Sequence) -> None:
        """Give the slot back; its cells stay for the next prompt that begins the same way."""
        sequence.ended = True
        if sequence.sampler is None:
            self._waiting.remove(sequence)
            return
        sequence.sampler.close()
        self._speculation.drop(sequence)
        del self._running[sequence.slot]
        self._cells.give_back(sequence.slot)

    # --- when a batch is not computed ---

    def _undo(self, batch: Batch) -> None:
        """Take the interrupted batch's cells out again; the next step computes what is left."""
        for chunk in batch.chunks:
            slot = chunk.sequence.slot
            if not self._cells.cut(slot, self._cells.count(slot)):
                self._recompute(chunk.sequence)

    def _recompute(self, sequence: Sequence) -> None:
        """Read everything again: what its cells held is lost or given up."""
        answered = self._cells.held[sequence.slot][len(sequence.prompt) :]
        if sequence.next_token is not None:
            answered = [*answered, sequence.next_token]
            sequence.next_token = None
        sequence.prompt = [*sequence.prompt, *answered]
        self._cells.forget(sequence.slot)

    def _make_room(self, batch: Batch) -> None:
        """The cache is full: forget what idle slots remember, or guess less."""
        self._undo(batch)
        # Of a picture more cells may be held than its positions: what is missing is not certain.
        if self._cells.evict(batch.cells) or self._cells.evict(self._model.cells):
            return
        if not self._speculation.no_room(batch):
            self._fail(batch, GenerationFailed("The KV cache has no room for this request."))

    def _fail(self, batch: Batch, error: GenerationFailed) -> None:
        for chunk in batch.chunks:
            if not chunk.sequence.ended:
                self._refuse(chunk.sequence, error)
            self._cells.forget(chunk.sequence.slot)

    def _refuse(self, sequence: Sequence, error: GenerationFailed) -> None:
        """End a request, all of its answers, with an error."""
        for each in self._answers(sequence.request):
            self._release(each)
        self._emit(RequestError(request_id=sequence.id, code=error.code, message=str(error)))
