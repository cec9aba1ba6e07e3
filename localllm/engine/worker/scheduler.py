"""Continuous batching: admit, build a batch, decode, sample, emit, retire.

Every step computes one batch for all running sequences: one token for each that is answering,
and a chunk of the prompts that are still being read. Sequences join and leave between steps.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from localllm.engine.events import (
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    Refused,
    Token,
    TokenLogprob,
)
from localllm.engine.worker import prefix
from localllm.engine.worker.adapters import Turns
from localllm.engine.worker.cells import Cells
from localllm.engine.worker.model import Aborted, Model, NoRoom
from localllm.engine.worker.sampling import Sampler
from localllm.engine.worker.sequence import Batch, Chunk, Sequence, timings
from localllm.engine.worker.text import TextStream
from localllm.engine.worker.vision.prompt import PicturePrompt
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, QueueFull

if TYPE_CHECKING:
    from localllm.engine.worker.grammar import Constraint, GrammarCompiler
    from localllm.engine.worker.logits import Row

MAX_WAITING = 256
"""Requests that may wait for a slot; one more is refused at once."""


class Scheduler:
    """Runs every request of one model. Not thread-safe: one thread calls `step`."""

    def __init__(self, model: Model, emit: Callable[[Event], None]) -> None:
        self._model = model
        self._emit = emit
        self._grammars: GrammarCompiler | None = None
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._cells = Cells(model)
        self._turns = Turns()
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
        self, request: GenerateRequest, prompt: list[int], arrived: float, *, dropped: int = 0
    ) -> None:
        """Queue a request, of whose messages `dropped` were left out.

        Raises BadRequest (its id is taken), ContextOverflow, QueueFull.
        """
        if any(sequence.id == request.request_id for sequence in self._everybody()):
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        pictures = prompt if isinstance(prompt, PicturePrompt) else None
        tokens = pictures.tokens if pictures is not None else len(prompt)
        room = self._model.context - tokens
        if room < 1:
            raise ContextOverflow(
                f"The prompt has {tokens} tokens and the context holds {self._model.context}. "
                f"Shorten the conversation, or load the model with a larger context (--ctx)."
            )
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFull(f"{len(self._waiting)} requests are waiting already. Try again later.")
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        self._waiting.append(
            Sequence(
                request=request,
                prompt=prompt,
                prompt_tokens=tokens,
                limit=limit,
                text=TextStream(request.stop),
                arrived=arrived,
                constraint=self._constraint(request),
                dropped=dropped,
                space=self._model.adapters.space(request.adapters),
                pictures=pictures,
            )
        )

    def _constraint(self, request: GenerateRequest) -> "Constraint | None":
        if request.grammar is None:
            return None
        if self._grammars is None:
            from localllm.engine.worker.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._model)
        return self._grammars.start(request.grammar)

    def cancel(self, request_id: str) -> None:
        """End a request between steps. Unknown ids are ignored."""
        for sequence in self._everybody():
            if sequence.id == request_id:
                self._retire(sequence, FinishReason.CANCELLED)
                return

    def _everybody(self) -> list[Sequence]:
        return [*self._running.values(), *self._waiting]

    def step(self) -> None:
        """Compute one batch for everybody."""
        self._admit()
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
            chunk = Chunk(sequence, pictures[picture.start : picture.end], -1, samples=False)
            batch = Batch(chunks=[chunk], picture_cells=picture.cells)
            self._model.use(sequence.space)
            self._compute(batch, partial(pictures.show, picture, sequence.slot))
            return

    def _compute(self, batch: Batch, decode: Callable[[], None]) -> None:
        self.reading = frozenset(
            c.sequence.id for c in batch.chunks if c.sequence.next_token is None
        )
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
            for chunk in batch.chunks:
                self._advance(chunk)

    # --- admit ---

    def _admit(self) -> None:
        while self._has_slot and (sequence := self._next_ready()) is not None:
            self._waiting.remove(sequence)
            sequence.admitted = time.monotonic()
            sequence.slot = self._cells.take(sequence.prompt, sequence.space)
            sequence.cached = self._cells.count(sequence.slot)
            sequence.sampler = Sampler(
                sequence.request.sampling,
                vocab=self._model.vocab,
                vocabulary=self._model.vocabulary,
            )
            sequence.sampler.accept_prompt(sequence.prompt)
            self._running[sequence.slot] = sequence

    def _next_ready(self) -> Sequence | None:
        """The first that waits, but for those whose grammar is being compiled: they are overtaken
        as long as somebody else can be served."""
        for sequence in list(self._waiting):
            if sequence.constraint is None:
                return sequence
            if sequence.constraint.ready or not self._running:
                try:
                    sequence.constraint.check()
                except BadRequest as error:
                    self._refuse(sequence, error)
                    continue
                return sequence
        return None

    # --- build ---

    def _build(self) -> Batch:
        batch = Batch()
        self._model.use(self._turns.next(s.space for s in self._running.values()))
        for sequence in self._answering():
            assert sequence.next_token is not None
            start = self._cells.count(sequence.slot)
            batch.add(sequence, [sequence.next_token], start, samples=True)
        # One physical batch a step: larger ones are split inside llama_decode anyway, and this
        # way nobody who is answering waits for more than one chunk of somebody's prompt.
        room = self._model.chunk - len(batch.rows)
        ahead: list[Sequence] = []
        for sequence in self._reading():
            if room <= 0:
                break
            if self._catch_up(sequence) and any(self._soon(each, sequence) for each in ahead):
                continue
            ahead.append(sequence)
            start = self._cells.count(sequence.slot)
            tokens = sequence.prompt[start : start + sequence.text_from(start, room)]
            if not tokens:
                continue  # a picture is next
            whole = start + len(tokens) == len(sequence.prompt)
            batch.add(sequence, tokens, start, samples=whole)
            room -= len(tokens)
        return batch

    def _catch_up(self, sequence: Sequence) -> bool:
        """Share what others have computed of a prompt. False when this one shares nothing."""
        if not self._model.shares or not sequence.may_share:
            return False
        if self._cells.catch_up(sequence.slot, sequence.prompt) and not sequence.produced:
            sequence.cached = self._cells.count(sequence.slot)
        return True

    def _soon(self, other: Sequence, sequence: Sequence) -> bool:
        """Whether `other` is about to compute a good part of what `sequence` has yet to read.

        Clients that ask at the same time with one system prompt: it is computed once.
        """
        if other.space != sequence.space:
            return False
        shared = prefix.common(other.prompt, sequence.prompt[:-1])
        has, computed = self._cells.count(sequence.slot), self._cells.count(other.slot)
        return computed < shared and shared - has >= prefix.MIN_AWAITED_TOKENS

    def _in_turn(self) -> Iterator[Sequence]:
        return (s for s in self._running.values() if s.space == self._turns.current)

    def _answering(self) -> Iterator[Sequence]:
        return (s for s in self._in_turn() if s.next_token is not None)

    def _reading(self) -> list[Sequence]:
        """Sequences whose prompt is not read yet, first come first."""
        reading = [s for s in self._in_turn() if s.next_token is None]
        return sorted(reading, key=lambda sequence: sequence.arrived)

    # --- after decode ---

    def _advance(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        self._cells.grow(sequence.slot, chunk.tokens)
        if sequence.produced == 0:
            self._emit(
                PromptProgress(
                    request_id=sequence.id,
                    processed=self._cells.count(sequence.slot),
                    total=len(sequence.prompt),
                    cached=sequence.cached,
                )
            )
        if chunk.samples:
            self._sample(sequence, chunk.last_row)

    def _sample(self, sequence: Sequence, row: int) -> None:
        assert sequence.sampler is not None
        request = sequence.request
        try:
            token = self._draw(sequence, sequence.sampler, row)
        except GenerationFailed as error:
            self._refuse(sequence, error)
            return
        sequence.last_token = time.monotonic()
        if sequence.first_token is None:
            sequence.first_token = sequence.last_token
        sequence.next_token = token
        sequence.produced += 1
        if self._ends(request, token):
            self._retire(sequence, FinishReason.STOP)
            return
        complete = sequence.constraint is not None and not sequence.constraint.accept(token)
        text = sequence.text.push(self._model.piece(token))
        if request.top_logprobs is None:
            self._emit(Token(request_id=sequence.id, text=text))
        else:
            self._emit(self._with_logprobs(sequence, token, text, self._row(row)))
        if sequence.text.stopped or complete:
            self._retire(sequence, FinishReason.STOP)
        elif sequence.produced >= sequence.limit:
            self._retire(sequence, FinishReason.LENGTH)

    def _draw(self, sequence: Sequence, sampler: Sampler, row: int) -> int:
        """The next token. Raises GenerationFailed when a grammar cannot be followed."""
        request, constraint = sequence.request, sequence.constraint
        if constraint is None and sequence.produced >= request.min_tokens:
            return sampler.sample(self._model.handle, row)
        from localllm.engine.worker.logits import all_but

        if constraint is not None:
            allowed = constraint.allowed()
        else:
            ends = set(request.stop_tokens) | (set() if request.ignore_eos else self._model.ends)
            allowed = all_but(ends, self._model.vocabulary)
        return sampler.sample_among(self._row(row), allowed)

    def _row(self, index: int) -> "Row":
        from localllm.engine.worker.logits import row_of

        return row_of(self._model.handle, index, self._model.vocabulary)

    def _ends(self, request: GenerateRequest, token: int) -> bool:
        if token in request.stop_tokens:
            return True
        return self._model.is_end(token) and not request.ignore_eos

    def _with_logprobs(self, sequence: Sequence, token: int, text: str, row: "Row") -> Token:
        from localllm.engine.worker.logits import logprobs

        own, top = logprobs(row, token, sequence.request.top_logprobs or 0)
        return Token(
            request_id=sequence.id,
            text=text,
            logprob=self._logprob(token, own),
            top=tuple(self._logprob(*each) for each in top),
        )

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        raw = self._model.piece(token)
        text = raw.decode("utf-8", "replace")
        return TokenLogprob(token=token, text=text, raw=tuple(raw), logprob=logprob)

    # --- retire ---

    def _retire(self, sequence: Sequence, reason: FinishReason) -> None:
        rest = sequence.text.finish()
        if rest:
            self._emit(Token(request_id=sequence.id, text=rest))
        self._release(sequence)
        self._emit(
            Finished(
                request_id=sequence.id,
                reason=reason,
                prompt_tokens=sequence.prompt_tokens,
                completion_tokens=sequence.produced,
                cached_tokens=sequence.cached,
                timings=timings(sequence),
                dropped_messages=sequence.dropped,
            )
        )

    def _release(self, sequence: Sequence) -> None:
        """Give the slot back; its cells stay for the next prompt that begins the same way."""
        if sequence.sampler is None:
            self._waiting.remove(sequence)
            return
        sequence.sampler.close()
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
        """The cache is full: forget what idle slots remember, then what running ones share.

        A sliding window's cache has a window for each slot, but llama.cpp gives back a cell that
        has left the window only when it belongs to one sequence (llama_kv_cache::find_slot): a
        shared prefix stays, and is too much once every slot has filled its window.
        """
        self._undo(batch)
        # Of a picture more cells may be held than its positions: what is missing is not certain.
        if self._cells.evict(batch.cells) or self._cells.evict(self._model.cells):
            return
        shortest = self._cells.least_shared()
        if shortest is not None:
            self._running[shortest].may_share = False  # or it would take the same cells again
            self._recompute(self._running[shortest])
        else:
            self._fail(batch, GenerationFailed("The KV cache has no room for this request."))

    def _fail(self, batch: Batch, error: GenerationFailed) -> None:
        for chunk in batch.chunks:
            self._refuse(chunk.sequence, error)
            self._cells.forget(chunk.sequence.slot)

    def _refuse(self, sequence: Sequence, error: GenerationFailed) -> None:
        self._release(sequence)
        self._emit(Refused(request_id=sequence.id, code=error.code, message=str(error)))
