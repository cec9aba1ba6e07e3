"""Continuous batching: a step schedules one batch for all running sequences, runs it, and
postprocesses its rows.

A batch has one token for each sequence that decodes, draft tokens behind it where they pay, and
chunks of the prompts that are being computed. Sequences join and leave between steps. The states of
a sequence are in sequences/sequence.py.
"""

import math
import time
from collections.abc import Callable, Iterator

from localllm.engine.messages import (
    Event,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    RequestError,
)
from localllm.engine.worker.kv_cache import radix_tree
from localllm.engine.worker.kv_cache.host_cache import HostCache
from localllm.engine.worker.kv_cache.kv_cache import KvCache
from localllm.engine.worker.llama.lora import LoraKey, Rotation
from localllm.engine.worker.llama.model import Aborted, CacheFull, Model
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.sampling.sampler import Sampler
from localllm.engine.worker.scheduling.cache_explainer import CacheExplainer
from localllm.engine.worker.scheduling.request_queue import RequestQueue
from localllm.engine.worker.scheduling.step_limit import StepLimit
from localllm.engine.worker.scheduling.turns import (
    PATIENCE,
    count_passed_over,
    first_part,
    in_turns,
)
from localllm.engine.worker.sequences.batch import Batch, Chunk
from localllm.engine.worker.sequences.output import OutputProcessor
from localllm.engine.worker.sequences.parallel_sampling import (
    deadline,
    deadline_message,
    sampling_of,
)
from localllm.engine.worker.sequences.sequence import (
    AWAITING_PARENT,
    DECODE,
    FINISHED,
    PREFILL,
    WAITING,
    Sequence,
)
from localllm.engine.worker.speculative.speculator import Drafter, Speculator
from localllm.errors import BadRequest, DeadlineExceeded, GenerationFailed

BatchKey = tuple[LoraKey, int | None]
"""What the sequences of a batch have in common: the adapters, and the slot of one that must be
alone."""


class Scheduler:
    """Runs every request of one model. Not thread-safe: one thread calls `step`."""

    def __init__(
        self,
        model: Model,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
        host: HostCache | None = None,
    ) -> None:
        self._model = model
        self._emit = emit
        self._clock = clock
        self.kv_cache = KvCache(model, host)
        """Anybody may look at it between two steps."""
        self._memory = self.kv_cache.memory
        self._queue = RequestQueue(model, can_share=self._memory.can_share)
        self._running: dict[int, Sequence] = {}
        self._output = OutputProcessor(model, emit, clock)
        self._explainer = CacheExplainer(self.kv_cache, model.vocab)
        self._rotation: Rotation[BatchKey] = Rotation()
        self._step_limit = StepLimit(model.max_batch_tokens, model.efficient_batch_tokens)
        self._speculator = Speculator(model, self.kv_cache, clock, drafter)
        self._next_deadline = math.inf
        self.interruptible: frozenset[str] = frozenset()
        """Requests whose prompt is in the batch being computed: it is aborted when one of them is
        cancelled. Replaced, never changed: another thread reads it."""

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def submit(self, request: GenerateRequest, prompt: Prompt, arrived: float) -> None:
        """Queue a request. Raises BadRequest (its id is taken), ContextOverflow, QueueFull."""
        if any(sequence.id == request.request_id for sequence in self._all()):
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        self._queue.add(request, prompt, arrived)
        self._next_deadline = min(self._next_deadline, deadline(request, arrived))
        self._accept()

    def cancel(self, request_id: str) -> None:
        """End a request between steps. Unknown ids are ignored."""
        for sequence in self._all():
            if sequence.id == request_id:
                self._finish(sequence, FinishReason.CANCELLED)

    def step(self) -> None:
        """Compute the next image, if any, and one batch for all running sequences.

        At most one image, and a batch after it: no sequence that decodes waits for two.
        """
        self._expire_deadlines()
        self._accept()
        self._admit()
        if not self._running:
            self._queue.wait_for_grammar()
            return
        for schedule in (self._schedule_image, self._schedule):
            batch = schedule()
            if batch is not None and self._run(batch):
                self._postprocess(batch)

    def close(self) -> None:
        """End what runs beside the steps. The model can be closed afterwards."""
        self._queue.close()
        if self.kv_cache.host is not None:
            self.kv_cache.host.close()

    # --- sequences ---

    def _all(self) -> list[Sequence]:
        return [*self._running.values(), *self._queue]

    def _unfinished(self, request: GenerateRequest) -> list[Sequence]:
        return [each for each in self._all() if each.request is request]

    def _active(self) -> list[Sequence]:
        """Return the running sequences of the first priority; the others rest."""
        first = min((s.request.priority for s in self._running.values()), default=0)
        return [s for s in self._running.values() if s.request.priority == first]

    def _in_turn(self) -> Iterator[Sequence]:
        """Iterate over the active sequences that can be in the next batch."""
        return (s for s in self._active() if _batch_key(s) == self._rotation.current)

    def _prefilling(self) -> list[Sequence]:
        """Return the sequences whose prompt is being computed, in the order of their turns."""
        return in_turns(
            [s for s in self._in_turn() if s.status is PREFILL],
            self._left,
            patience=PATIENCE * self._most_prompt_tokens(),
        )

    @property
    def _alone(self) -> bool:
        return len(self._running) == 1 and not self._queue

    def _most_prompt_tokens(self) -> int:
        """The most tokens of prompts in the next step. A prompt that is alone has full batches: how
        long steps take would else decide how it is cut, and its repetition would get other bits."""
        if self._alone:
            return self._model.max_batch_tokens
        statuses = [(s.status, s.prompt.fixed_chunks) for s in self._in_turn()]
        most = self._step_limit.tokens(streaming=any(status is DECODE for status, _ in statuses))
        if (PREFILL, True) in statuses:  # a part of such a chunk has other bits
            most = max(most, self._model.fixed_chunk_tokens)
        return most

    def _left(self, sequence: Sequence) -> int:
        """The number of tokens of its prompt that have yet to be computed."""
        return len(sequence.prompt.tokens) - self.kv_cache.length(sequence.slot)

    def _expire_deadlines(self) -> None:
        """Refuse every request whose deadline has passed."""
        now = self._clock()
        if now < self._next_deadline:
            return
        for sequence in self._all():
            if sequence.status is FINISHED:  # together with another one of its request
                continue
            if deadline(sequence.request, sequence.metrics.arrived) <= now:
                message = deadline_message(self._unfinished(sequence.request))
                self._refuse(sequence, DeadlineExceeded(message))
        left = (deadline(each.request, each.metrics.arrived) for each in self._all())
        self._next_deadline = min(left, default=math.inf)

    def _accept(self) -> None:
        """Emit that a request is accepted, as soon as nothing can be wrong with it by itself."""
        for sequence in self._queue.accepted(self._refuse):
            total = len(sequence.prompt.tokens)
            self._emit(PromptProgress(request_id=sequence.id, processed=0, total=total))

    def _admit(self) -> None:
        """Give sequences that wait a slot, as long as there is one or one can be preempted."""
        while self._queue:
            free = len(self._running) < self._model.settings.parallel
            sequence = self._queue.next_ready(self._refuse, self._matched if free else None)
            if sequence is None or not (free or self._preempt(sequence)):
                return
            self._queue.remove(sequence)
            now, tokens = self._clock(), sequence.prompt.tokens
            reusable = [] if sequence.scores_prompt else tokens
            # A seed is kept where nothing else is computed; in company only on demand.
            fixed = sequence.repeatable and (
                sequence.request.deterministic or not self._has_company(sequence)
            )
            held = self._explainer.held(sequence)
            slot = self.kv_cache.acquire(
                reusable,
                sequence.lora_key,
                repeatable=fixed,
                preamble=sequence.prompt.preamble,
            )
            sampler = sequence.output.sampler
            if sampler is None:  # not after it was preempted
                sampler = Sampler(sampling_of(sequence), self._model.vocab)
                sampler.accept_prompt(tokens)
                if sequence.output.constraint is not None:
                    sequence.output.constraint.begin()
            sequence.prompt.fixed_chunks = fixed
            sequence.admit(slot, sampler, reuse=self.kv_cache.reuse(slot), now=now)
            self._explainer.admit(sequence, held)
            if not fixed:  # the end of the last answer, often just before the next question
                self.kv_cache.take_checkpoint(slot)
            self._running[slot] = sequence

    def _matched(self, sequence: Sequence) -> int:
        """The number of tokens of its prompt that the cache has."""
        if sequence.scores_prompt:
            return 0
        return self.kv_cache.matched(sequence.prompt.tokens, sequence.lora_key)

    def _has_company(self, sequence: Sequence) -> bool:
        return any(each.request is not sequence.request for each in self._running.values())

    def _preempt(self, waiting: Sequence) -> bool:
        """Take the slot of the sequence that `waiting` may go before: of the last priority the one
        that has computed least. It goes on when a slot is free. Returns False when none can."""
        lower = [
            s
            for s in self._running.values()
            if s.request.priority > waiting.request.priority and s.preemptible
        ]
        victim = min(
            lower,
            key=lambda s: (-s.request.priority, self.kv_cache.length(s.slot)),
            default=None,
        )
        if victim is None:
            return False
        tokens = list(self.kv_cache.tokens[victim.slot])  # a slot that is idle may be emptied
        self._vacate(victim)
        victim.preempt(tokens)
        self._queue.requeue(victim)
        return True

    def _vacate(self, sequence: Sequence) -> None:
        """Free the slot; its cells stay for the next prompt that begins the same way."""
        self._speculator.finish(sequence)
        del self._running[sequence.slot]
        self.kv_cache.release(sequence.slot)

    # --- schedule ---

    def _schedule_image(self) -> Batch | None:
        """Make a batch of the image that the first sequence has come to, if one has."""
        for sequence in self._prefilling():
            images, slot = sequence.prompt.images, sequence.slot
            if images is None:
                continue
            self._catch_up(sequence)
            position = self.kv_cache.length(slot)
            image = images.at(position)
            if image is None:
                continue
            if image.start != position:  # a part of one is of no use
                self.kv_cache.truncate(slot, image.start)
                sequence.prompt.reuse = self.kv_cache.reuse(slot)
                return None
            tokens = sequence.prompt.tokens[image.start : image.end]
            chunk = Chunk(sequence, image.start, tokens, samples=False)
            self._model.apply_loras(sequence.lora_key)
            return Batch([chunk], image=image)
        return None

    def _schedule(self) -> Batch | None:
        """Make a batch of all that decode, and of the beginning of those that prefill."""
        key = self._rotation.next(map(_batch_key, self._active()))
        if key is not None:
            self._model.apply_loras(key[0])
        prefilling = self._prefilling()
        chunks = self._decode_chunks(may_draft=not prefilling)
        # One physical batch a step: larger ones are split inside llama_decode anyway, and this
        # way no sequence that decodes waits for more than one chunk of a prompt.
        tokens_left = self._model.max_batch_tokens - sum(len(chunk.tokens) for chunk in chunks)
        tokens_left = min(tokens_left, self._most_prompt_tokens())
        prefill = list(self._prefill_chunks(prefilling, tokens_left))
        count_passed_over(prefilling, prefill)
        chunks += prefill
        return Batch.of(chunks) if chunks else None

    def _decode_chunks(self, *, may_draft: bool) -> list[Chunk]:
        """Make a chunk of the next token, and of draft tokens, for each sequence that decodes."""
        decoding = [s for s in self._in_turn() if s.status is DECODE]
        most = self._model.max_batch_tokens - len(decoding) if may_draft else 0
        drafts = self._speculator.propose(decoding, most)
        chunks = []
        for sequence in decoding:
            slot, next_token = sequence.slot, sequence.output.next_token
            assert next_token is not None
            draft = drafts.get(slot, ())
            start = self.kv_cache.length(slot)
            tokens = [next_token, *draft]
            chunks.append(Chunk(sequence, start, tokens, samples=True, drafted=len(draft)))
        return chunks

    def _prefill_chunks(self, prefilling: list[Sequence], tokens_left: int) -> Iterator[Chunk]:
        """Yield chunks of prompts, in turns. The earlier a prompt is computed, the earlier its
        answer begins: a batch that is large enough takes no other prompt, and none of it waits for
        a piece of a long one."""
        efficient = self._model.efficient_batch_tokens
        enough = max(0, tokens_left - efficient)
        # Every running sequence may need one row of logits; the others are for scored prompts.
        spare_rows = self._model.max_outputs - len(self._running)
        ahead: list[Sequence] = []
        for sequence in prefilling:
            if tokens_left <= enough or (enough and ahead and self._left(sequence) > efficient):
                continue
            if self._catch_up(sequence) and any(self._computes(other, sequence) for other in ahead):
                continue
            ahead.append(sequence)
            prompt, start = sequence.prompt, self.kv_cache.length(sequence.slot)
            most = tokens_left
            if prompt.fixed_chunks:
                most = min(most, self.kv_cache.chunks.end(start) - start)
            elif end := self.kv_cache.chunk_end(sequence.slot, prompt.checkpoints):
                most = min(most, end - start)
            tokens = prompt.tokens[start : start + prompt.tokens_before_image(start, most)]
            if not tokens:
                continue  # an image is next
            if sequence.scores_prompt:
                tokens = tokens[: prompt.scorable(start, 1 + spare_rows)]
                spare_rows = 0
            elif start + len(tokens) == len(prompt.tokens) and self._may_repeat(sequence):
                tokens = tokens[: first_part(len(tokens), self._model.alike(len(prompt.tokens)))]
            ends = start + len(tokens) == len(prompt.tokens)
            yield Chunk(sequence, start, tokens, samples=ends and sequence.output.limit > 0)
            tokens_left -= len(tokens)

    def _may_repeat(self, sequence: Sequence) -> bool:
        """Return True when the same prompt, found in the cache but for its last token, is to give
        the same answer again: without company, in which other bits come of it anyway."""
        return self._alone and self._memory.can_rewind and not sequence.prompt.fixed_chunks

    def _catch_up(self, sequence: Sequence) -> bool:
        """Share what others have computed of a prompt. Returns False when this one cannot."""
        prompt = sequence.prompt
        if not self._memory.can_share or not prompt.shareable or prompt.fixed_chunks:
            return False
        slot = sequence.slot
        if self.kv_cache.catch_up(slot, sequence.prompt.tokens) and not sequence.output.count:
            sequence.prompt.reuse = self.kv_cache.reuse(slot)
        return True

    def _computes(self, other: Sequence, sequence: Sequence) -> bool:
        """Return True when `other` is about to compute a good part of what `sequence` has yet to.

        Clients that ask at the same time with one system prompt: it is computed one time.
        """
        if other.lora_key != sequence.lora_key:
            return False
        shared = radix_tree.common(other.prompt.tokens, sequence.prompt.tokens[:-1])
        own, computed = self.kv_cache.length(sequence.slot), self.kv_cache.length(other.slot)
        least = max(radix_tree.MIN_AWAITED_TOKENS, self._memory.min_gain)
        return computed < shared and shared - own >= least

    # --- run ---

    def _run(self, batch: Batch) -> bool:
        """Compute a batch. Returns False when that failed; then its cells are removed, and its
        requests go on with the next step or are refused."""
        if self._memory.can_rewind:  # a recurrent state cannot go back: a cancel waits for the end
            self.interruptible = frozenset(
                chunk.sequence.id for chunk in batch.chunks if chunk.sequence.status is PREFILL
            )
        started = self._clock()
        try:
            self._compute(batch)
        except Aborted:
            self._memory.abandon_batch(chunk.sequence.slot for chunk in batch.chunks)
            self._undo(batch)
        except CacheFull:
            self._free_cells(batch)
        except GenerationFailed as error:
            self._fail(batch, error)
        except RuntimeError as error:
            reason = f"llama.cpp could not compute this batch: {error}."
            self._fail(batch, GenerationFailed(reason))
        else:
            self._speculator.record_step(batch, self._clock() - started)
            if self.kv_cache.host is not None:
                self.kv_cache.host.record_step(len(batch.tokens), self._clock() - started)
            if batch.image is None:
                reads = (c for c in batch.chunks if c.sequence.status is PREFILL)
                prompt_tokens = sum(len(chunk.tokens) for chunk in reads)
                self._step_limit.record(prompt_tokens, self._clock() - started)
            for chunk in batch.chunks:
                chunk.sequence.metrics.count_batch(len(batch.chunks))
            return True
        return False

    def _compute(self, batch: Batch) -> None:
        if batch.image is None:
            self._memory.begin_batch({c.sequence.slot: len(c.tokens) for c in batch.chunks})
            self._model.decode(batch.tokens)
            return
        self._memory.begin_batch({})
        (chunk,) = batch.chunks
        assert chunk.sequence.prompt.images is not None
        chunk.sequence.prompt.images.compute(batch.image, chunk.sequence.slot)

    def _undo(self, batch: Batch) -> None:
        """Remove the cells of a batch that was not computed; the next step computes it again."""
        for chunk in batch.chunks:
            slot = chunk.sequence.slot
            tokens = self.kv_cache.tokens[slot]
            if not self.kv_cache.truncate(slot, len(tokens)):
                chunk.sequence.recompute(tokens)

    def _free_cells(self, batch: Batch) -> None:
        """Evict cells of idle slots, or draft less: the cache is full."""
        self._undo(batch)
        # An image may have taken more cells than its positions: what is missing is not certain.
        if self.kv_cache.evict(batch.cells) or self.kv_cache.evict(self._model.cells):
            return
        if not self._speculator.pause(batch):
            self._fail(batch, GenerationFailed("The KV cache has no room for this request."))

    def _fail(self, batch: Batch, error: GenerationFailed) -> None:
        """Refuse all requests of a batch."""
        for chunk in batch.chunks:
            if chunk.sequence.status is not FINISHED:
                self._refuse(chunk.sequence, error)
            self.kv_cache.clear(chunk.sequence.slot)

    # --- postprocess ---

    def _postprocess(self, batch: Batch) -> None:
        """Record what was computed, then sample and emit."""
        for chunk in batch.chunks:
            alone = len(batch.chunks) == 1 and batch.image is None
            self.kv_cache.append(chunk.sequence.slot, chunk.text_tokens, alone=alone)
            self._take_checkpoint(chunk)
        for chunk in batch.chunks:
            if chunk.sequence.status is FINISHED:  # together with another one of its request
                continue
            if chunk.drafted:
                self._verify(chunk)
            elif chunk.sequence.status is DECODE:
                self._sample(chunk.sequence, chunk.last_row)
            else:
                self._postprocess_prefill(chunk)

    def _take_checkpoint(self, chunk: Chunk) -> None:
        """Keep the state at the end of a chunk where a later turn may part from the prompt."""
        prompt, end = chunk.sequence.prompt, chunk.start + len(chunk.tokens)
        if chunk.sequence.status is not PREFILL or prompt.fixed_chunks:
            return
        if end in prompt.checkpoints:
            self.kv_cache.take_checkpoint(chunk.sequence.slot)

    def _verify(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        tokens = self.kv_cache.tokens[sequence.slot]
        if not self._speculator.verify(chunk, self._sample):
            sequence.recompute(tokens)

    def _postprocess_prefill(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        if sequence.output.count == 0:  # not after a recompute
            self._emit_progress(chunk)
        if chunk.samples:
            for each in (sequence, *self._children(sequence)):
                if each.status is not FINISHED:  # a refusal ends all of a request
                    self._sample(each, chunk.last_row)
        elif sequence.output.limit == 0 and self._is_computed(sequence):
            self._finish(sequence, FinishReason.LENGTH)

    def _is_computed(self, sequence: Sequence) -> bool:
        return self.kv_cache.length(sequence.slot) == len(sequence.prompt.tokens)

    def _emit_progress(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        if sequence.index == 0:
            self._emit(
                PromptProgress(
                    request_id=sequence.id,
                    processed=self.kv_cache.length(sequence.slot),
                    total=len(sequence.prompt.tokens),
                    cached=sequence.prompt.cached_tokens,
                    elapsed_s=self._clock() - (sequence.metrics.admitted or 0.0),
                )
            )
        if sequence.prompt.echo is not None:
            self._output.emit_prompt(sequence, chunk)

    def _children(self, parent: Sequence) -> list[Sequence]:
        """End the wait for a parent whose prompt has just been computed. Returns the children that
        share its cells: they draw their first token from the same logits."""
        if parent.request.n == 1 or parent.output.count:
            return []
        sharing = []
        for each in self._running.values():
            if each.parent is parent and each.status is AWAITING_PARENT:
                shared = self.kv_cache.copy(parent.slot, each.slot)
                each.parent_computed(shared=shared)
                if shared:
                    sharing.append(each)
        return sharing

    def _sample(self, sequence: Sequence, row: int) -> None:
        try:
            reason = self._output.emit_token(sequence, row)
        except GenerationFailed as error:
            self._refuse(sequence, error)
            return
        if reason is not None:
            self._finish(sequence, reason)

    # --- the end of a sequence ---

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.prompt.miss = self._explainer.miss(sequence)
        self._release(sequence)
        request = sequence.request
        remaining = len(self._unfinished(request)) if request.n > 1 else 0
        host = self.kv_cache.host
        self._output.emit_finished(
            sequence,
            reason,
            remaining=remaining,
            host_cache=None if host is None else host.stats(),
        )

    def _refuse(self, sequence: Sequence, error: GenerationFailed) -> None:
        """End a request, all of its sequences, with an error."""
        for each in self._unfinished(sequence.request):
            self._release(each)
        self._emit(RequestError(request_id=sequence.id, code=error.code, message=str(error)))

    def _release(self, sequence: Sequence) -> None:
        """End a sequence, wherever it is, and free its slot."""
        waiting = sequence.status is WAITING
        self._explainer.finish(sequence)
        sequence.finish()
        if waiting:
            self._queue.remove(sequence)
        else:
            self._vacate(sequence)


def _batch_key(sequence: Sequence) -> BatchKey:
    return sequence.lora_key, sequence.slot if sequence.request.deterministic else None
