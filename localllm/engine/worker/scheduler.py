"""Continuous batching: admit, build a batch, decode, sample, emit, retire.

Every step computes one batch for all running sequences: one token for each that is answering,
and a chunk of the prompts that are still being read. Sequences join and leave between steps.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from localllm.engine.events import (
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    Refused,
    Timings,
    Token,
    TokenLogprob,
)
from localllm.engine.worker import logits, prefix
from localllm.engine.worker.model import Aborted, Model, NoRoom, Row
from localllm.engine.worker.sampling import Sampler
from localllm.engine.worker.text import TextStream
from localllm.errors import BadRequest, ContextOverflow, GenerationFailed, QueueFull

MAX_WAITING = 256
"""Requests that may wait for a slot; one more is refused at once."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One request on its way: its prompt, its slot, what it has produced, when."""

    request: GenerateRequest
    prompt: list[int]
    prompt_tokens: int
    limit: int
    text: TextStream
    arrived: float
    slot: int = -1
    sampler: Sampler | None = None
    next_token: int | None = None
    produced: int = 0
    cached: int = 0
    admitted: float = 0.0
    first_token: float | None = None
    last_token: float = 0.0

    @property
    def id(self) -> str:
        return self.request.request_id


@dataclass(slots=True)
class _Chunk:
    """The rows of one sequence in a batch; `samples` when the last of them asks for logits."""

    sequence: Sequence
    tokens: list[int]
    last_row: int
    samples: bool


@dataclass(slots=True)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    chunks: list[_Chunk] = field(default_factory=list)

    def add(self, sequence: Sequence, tokens: list[int], start: int, *, samples: bool) -> None:
        last = len(tokens) - 1
        self.rows += [
            Row(token, start + i, sequence.slot, samples and i == last)
            for i, token in enumerate(tokens)
        ]
        self.chunks.append(_Chunk(sequence, tokens, len(self.rows) - 1, samples))


class Scheduler:
    """Runs every request of one model. Not thread-safe: one thread calls `step`."""

    def __init__(self, model: Model, emit: Callable[[Event], None]) -> None:
        self._model = model
        self._emit = emit
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(model.settings.parallel))
        self._cells: dict[int, list[int]] = {slot: [] for slot in self._idle}
        self._sharing: set[int] = set()
        """Slots that may have cells in common with another one."""
        self.reading: frozenset[str] = frozenset()
        """Requests whose prompt is in the batch being computed: those an abort may interrupt.
        Replaced, never changed: another thread looks at it."""

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, request: GenerateRequest, prompt: list[int], arrived: float) -> None:
        """Queue a request. Raises BadRequest (its id is taken), ContextOverflow, QueueFull."""
        if any(sequence.id == request.request_id for sequence in self._everybody()):
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        room = self._model.context - len(prompt)
        if room < 1:
            raise ContextOverflow(
                f"The prompt has {len(prompt)} tokens and the context holds {self._model.context}. "
                f"Shorten the conversation, or load the model with a larger context (--ctx)."
            )
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFull(f"{len(self._waiting)} requests are waiting already. Try again later.")
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        self._waiting.append(
            Sequence(
                request=request,
                prompt=prompt,
                prompt_tokens=len(prompt),
                limit=limit,
                text=TextStream(request.stop),
                arrived=arrived,
            )
        )

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
        batch = self._build()
        if not batch.rows:
            return
        self.reading = frozenset(
            c.sequence.id for c in batch.chunks if c.sequence.next_token is None
        )
        try:
            self._model.decode(batch.rows)
        except Aborted:
            self._undo(batch)
            return
        except NoRoom:
            self._make_room(batch)
            return
        except RuntimeError as error:
            self._fail(batch, f"llama.cpp could not compute this batch: {error}.")
            return
        for chunk in batch.chunks:
            self._advance(chunk)

    # --- admit ---

    def _admit(self) -> None:
        while self._waiting and self._idle:
            sequence = self._waiting.popleft()
            sequence.admitted = time.monotonic()
            sequence.cached = self._take_slot(sequence)
            sequence.sampler = Sampler(
                sequence.request.sampling,
                vocab=self._model.vocab,
                vocabulary=self._model.vocabulary,
            )
            sequence.sampler.accept_prompt(sequence.prompt)
            self._running[sequence.slot] = sequence

    def _take_slot(self, sequence: Sequence) -> int:
        """Choose a slot and its reusable cells; return how many tokens of the prompt they hold."""
        reuse = prefix.plan(
            sequence.prompt,
            self._cells,
            list(self._idle),
            continues=self._model.can_continue_at,
            shares=self._model.shares,
        )
        sequence.slot = reuse.slot
        del self._idle[reuse.slot]
        if reuse.source == reuse.slot:
            kept = self._model.keep(reuse.slot, reuse.tokens)
        else:
            kept = self._model.share(reuse.source, reuse.slot, reuse.tokens)
            self._sharing |= {reuse.source, reuse.slot}
        tokens = reuse.tokens if kept else 0
        self._cells[reuse.slot] = sequence.prompt[:tokens]
        return tokens

    # --- build ---

    def _build(self) -> _Batch:
        batch = _Batch()
        for sequence in self._answering():
            assert sequence.next_token is not None
            start = len(self._cells[sequence.slot])
            batch.add(sequence, [sequence.next_token], start, samples=True)
        # One physical batch a step: larger ones are split inside llama_decode anyway, and this
        # way nobody who is answering waits for more than one chunk of somebody's prompt.
        room = self._model.chunk - len(batch.rows)
        for sequence in self._reading():
            if room <= 0:
                break
            start = len(self._cells[sequence.slot])
            tokens = sequence.prompt[start : start + room]
            whole = start + len(tokens) == len(sequence.prompt)
            batch.add(sequence, tokens, start, samples=whole)
            room -= len(tokens)
        return batch

    def _answering(self) -> Iterator[Sequence]:
        return (s for s in self._running.values() if s.next_token is not None)

    def _reading(self) -> list[Sequence]:
        """Sequences whose prompt is not read yet, first come first."""
        reading = [s for s in self._running.values() if s.next_token is None]
        return sorted(reading, key=lambda sequence: sequence.arrived)

    # --- after decode ---

    def _advance(self, chunk: _Chunk) -> None:
        sequence = chunk.sequence
        cells = self._cells[sequence.slot]
        cells += chunk.tokens
        if sequence.produced == 0:
            self._emit(
                PromptProgress(
                    request_id=sequence.id,
                    processed=len(cells),
                    total=len(sequence.prompt),
                    cached=sequence.cached,
                )
            )
        if chunk.samples:
            self._sample(sequence, chunk.last_row)

    def _sample(self, sequence: Sequence, row: int) -> None:
        assert sequence.sampler is not None
        request = sequence.request
        untouched = self._row(row).copy() if request.top_logprobs is not None else None
        if sequence.produced < request.min_tokens:
            ends = self._model.ends if not request.ignore_eos else frozenset[int]()
            logits.rule_out(self._row(row), ends.union(request.stop_tokens))
        token = sequence.sampler.sample(self._model.handle, row)
        sequence.last_token = time.monotonic()
        if sequence.first_token is None:
            sequence.first_token = sequence.last_token
        sequence.next_token = token
        sequence.produced += 1
        if self._ends(request, token):
            self._retire(sequence, FinishReason.STOP)
            return
        text = sequence.text.push(self._model.piece(token))
        if untouched is None:
            self._emit(Token(request_id=sequence.id, text=text))
        else:
            self._emit(self._with_logprobs(sequence, token, text, untouched))
        if sequence.text.stopped:
            self._retire(sequence, FinishReason.STOP)
        elif sequence.produced >= sequence.limit:
            self._retire(sequence, FinishReason.LENGTH)

    def _row(self, index: int) -> logits.Row:
        return logits.row_of(self._model.handle, index, self._model.vocabulary)

    def _ends(self, request: GenerateRequest, token: int) -> bool:
        if token in request.stop_tokens:
            return True
        return self._model.is_end(token) and not request.ignore_eos

    def _with_logprobs(self, sequence: Sequence, token: int, text: str, row: logits.Row) -> Token:
        own, top = logits.logprobs(row, token, sequence.request.top_logprobs or 0)
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
                timings=_timings(sequence),
            )
        )

    def _release(self, sequence: Sequence) -> None:
        """Give the slot back; its cells stay for the next prompt that begins the same way."""
        if sequence.sampler is None:
            self._waiting.remove(sequence)
            return
        sequence.sampler.close()
        del self._running[sequence.slot]
        self._idle[sequence.slot] = None

    # --- when a batch is not computed ---

    def _undo(self, batch: _Batch) -> None:
        """Take the interrupted batch's cells out again; the next step computes what is left."""
        for chunk in batch.chunks:
            slot = chunk.sequence.slot
            if not self._model.keep(slot, len(self._cells[slot])):
                self._recompute(chunk.sequence)

    def _recompute(self, sequence: Sequence) -> None:
        """Read everything again: what its cells held is lost or given up."""
        answered = self._cells[sequence.slot][len(sequence.prompt) :]
        if sequence.next_token is not None:
            answered = [*answered, sequence.next_token]
            sequence.next_token = None
        sequence.prompt = [*sequence.prompt, *answered]
        self._forget(sequence.slot)

    def _forget(self, slot: int) -> None:
        self._model.keep(slot, 0)
        self._cells[slot] = []
        self._sharing.discard(slot)

    def _make_room(self, batch: _Batch) -> None:
        """The cache is full: forget what idle slots remember, then what running ones share.

        A sliding window's cache has a window for each slot, but llama.cpp gives back a cell that
        has left the window only when it belongs to one sequence (llama_kv_cache::find_slot): a
        shared prefix stays, and is too much once every slot has filled its window.
        """
        self._undo(batch)
        remembered = [slot for slot in self._idle if self._cells[slot]]
        sharing = [slot for slot in self._running if slot in self._sharing and self._cells[slot]]
        if remembered:
            for slot in remembered:
                self._forget(slot)
        elif sharing:
            shortest = min(sharing, key=lambda slot: len(self._cells[slot]))
            self._recompute(self._running[shortest])
        else:
            self._fail(batch, "The KV cache has no room for this request.")

    def _fail(self, batch: _Batch, message: str) -> None:
        for chunk in batch.chunks:
            sequence = chunk.sequence
            self._release(sequence)
            self._forget(sequence.slot)
            code = GenerationFailed.code
            self._emit(Refused(request_id=sequence.id, code=code, message=message))


def _timings(sequence: Sequence) -> Timings:
    now = time.monotonic()
    first, read = sequence.first_token, sequence.prompt_tokens - sequence.cached
    prefill_s = first - sequence.admitted if first is not None else 0.0
    decode_s = sequence.last_token - first if first is not None else 0.0
    return Timings(
        queue_s=(sequence.admitted or now) - sequence.arrived,
        ttft_s=first - sequence.arrived if first is not None else None,
        total_s=now - sequence.arrived,
        prefill_tps=read / prefill_s if prefill_s > 0 else None,
        decode_tps=(sequence.produced - 1) / decode_s if decode_s > 0 else None,
    )
