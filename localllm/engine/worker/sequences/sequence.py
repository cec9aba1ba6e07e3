"""One sequence: a prompt and one answer to it, on its way through the scheduler.

              admit              add_token              finish
    WAITING ---------> PREFILL ------------> DECODE ------------> FINISHED
       |                ^   ^                 |
       | admit          |   +--- recompute ---+
       v                | parent_computed
    AWAITING_PARENT ----+

    WAITING          in the request queue, without a slot
    AWAITING_PARENT  has a slot; the first sequence of its request computes the prompt for both
    PREFILL          its prompt is being computed, chunk by chunk
    DECODE           `output.next_token` is drawn and not computed yet; stays so with each token
    FINISHED         its slot is free; `finish` ends a sequence in any state

DECODE goes back to PREFILL when its cells are lost or given up: the text so far is computed again,
as in vLLM's preemption by recomputation, and nobody outside notices. `preempt` takes a sequence
that runs back to WAITING in the same way.

Several modules work on a sequence. Each part is written by one:

    status, slot  the methods of `Sequence`, which the scheduler calls (`add_token` the
                  OutputProcessor); all others read the status
    prompt        the scheduler (its `echo` the OutputProcessor)
    output        the OutputProcessor
    metrics       whoever measures; nobody decides by them
    the rest      nobody: it is set when the sequence is made
"""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from localllm.engine.messages import (
    CacheMiss,
    CacheReuse,
    CacheUsage,
    FinishReason,
    GenerateRequest,
    Timings,
)
from localllm.engine.worker.llama.lora import LoraKey
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.parsing.answer_check import AnswerCheck
from localllm.engine.worker.parsing.answer_events import AnswerEvents
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.prompt.boundaries import (
    Boundary,
    checkpoint_positions,
    preamble_tokens,
)
from localllm.engine.worker.prompt.outline import PromptOutline
from localllm.engine.worker.prompt.prompt import PromptImages
from localllm.engine.worker.sampling.sampler import Sampler

if TYPE_CHECKING:  # and numpy with it
    from localllm.engine.worker.sampling.grammar import Constraint


class SequenceStatus(Enum):
    """The states of a sequence; the module's docstring has the transitions."""

    WAITING = auto()
    AWAITING_PARENT = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


# Names of their own: in Python 3.11 a member takes six times as long when it is looked up in its
# class, and the scheduler compares the status of every sequence several times a step.
WAITING, AWAITING_PARENT, PREFILL, DECODE, FINISHED = SequenceStatus


@dataclass(slots=True, kw_only=True)
class PromptState:
    """The prompt of a sequence. Written by the scheduler.

    `tokens` is what prefill computes: the prompt, and after `recompute` the answer so far too.
    `cells` are those that the prompt takes in the cache, images included: it is counted as so many
    tokens. `reuse`: those that the cache had; `miss`: why not more. `shareable` False: no cells of
    others may be used.
    `fixed_chunks`: computed in the chunks of `kv_cache/chunking.py`.
    `passed_over`: tokens of other prompts that were computed since it was this one's turn.
    `overtaken`: sequences that came later and got a slot before it for what the cache had of them.
    """

    tokens: list[int]
    cells: int
    images: PromptImages | None = None
    outline: PromptOutline | None = None
    dropped_messages: int = 0
    warnings: tuple[str, ...] = ()
    reuse: CacheReuse = field(default_factory=CacheReuse)
    miss: CacheMiss | None = None
    shareable: bool = True
    boundaries: tuple[Boundary, ...] = ()
    passed_over: int = 0
    overtaken: int = 0
    fixed_chunks: bool = False
    echo: "PromptEcho | None" = None

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Positions at which the state had better be kept."""
        return checkpoint_positions(self.boundaries, len(self.tokens))

    @property
    def preamble(self) -> int:
        """Tokens that other conversations begin with too: the system prompt."""
        return preamble_tokens(self.boundaries)

    @property
    def cached_tokens(self) -> int:
        return self.reuse.total

    def tokens_before_image(self, position: int, most: int) -> int:
        """The number of tokens, `most` at most, from `position` up to the next image."""
        return most if self.images is None else min(most, self.images.text_from(position))

    def scorable(self, start: int, rows: int) -> int:
        """The number of tokens from `start` on that need no more than so many rows of logits."""
        assert self.echo is not None
        if self.echo.count == self.cells:
            return len(self.tokens)
        return max(0, self.echo.count - 1 - start) + rows

    def needs_logits(self, position: int) -> bool:
        """True when the token after `position` is scored and was not emitted yet."""
        assert self.echo is not None
        return self.echo.count - 1 <= position < self.cells - 1


@dataclass(slots=True, kw_only=True)
class OutputState:
    """The answer of a sequence. Written by the OutputProcessor.

    `constraint` is followed by the next token; `grammar` is that of the answer or of its calls.
    `next_token` was drawn and is not in the cache yet; `count` tokens were drawn, of `limit`.
    `sampler` is there from `admit` on. `check` is there for an answer with schemas.
    """

    limit: int
    detokenizer: IncrementalDetokenizer
    events: AnswerEvents = field(default_factory=AnswerEvents)
    constraint: "Constraint | None" = None
    grammar: "Constraint | None" = None
    check: AnswerCheck | None = None
    sampler: Sampler | None = None
    next_token: int | None = None
    count: int = 0

    def schema_warnings(self, reason: FinishReason) -> tuple[str, ...]:
        """Return what was not enforced of the schemas of this answer, which has ended."""
        if self.check is None or self.grammar is None:
            return ()
        return self.check.warnings(
            self.grammar.unenforced,
            bound=self.events.calls_are_bound,
            whole=reason is not FinishReason.LENGTH,
        )


@dataclass(slots=True, kw_only=True)
class SequenceMetrics:
    """Moments in seconds of the scheduler's clock, the draft tokens that were computed, and the
    batches that it was in (`Finished` says what a share is)."""

    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    drafted: int = 0
    accepted: int = 0
    batches: int = 0
    batch_share: float = 0.0

    def count_batch(self, sequences: int) -> None:
        """Count a batch that was computed for this sequence, and others, `sequences` in all."""
        self.batches += 1
        self.batch_share += 1 / sequences


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One of the `n` answers to a request.

    `index` says which. The first is the `parent` of the others where they can share its cells
    (vLLM and llama.cpp: parallel sampling); None otherwise, and for the first itself.
    """

    request: GenerateRequest
    prompt: PromptState
    output: OutputState
    metrics: SequenceMetrics
    index: int = 0
    parent: "Sequence | None" = None
    lora_key: LoraKey = ()
    status: SequenceStatus = WAITING
    slot: int = -1

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def scores_prompt(self) -> bool:
        """True when the logits of every token of the prompt are needed."""
        return self.prompt.echo is not None and self.request.top_logprobs is not None

    @property
    def repeatable(self) -> bool:
        """True when the same request must give the same text: it has a seed, or asks for it."""
        return self.request.deterministic or self.request.sampling.seed is not None

    # --- transitions ---

    def admit(self, slot: int, sampler: Sampler, *, reuse: CacheReuse, now: float) -> None:
        """Give a sequence that waits its slot."""
        self.slot = slot
        if self.metrics.admitted is None:  # not after it was preempted
            self.prompt.reuse = reuse
            self.metrics.admitted = now
        self.output.sampler = sampler
        parent = self.parent
        if parent is not None and parent.status is PREFILL and parent.output.count == 0:
            self.status = AWAITING_PARENT
        else:
            self.status = PREFILL

    def parent_computed(self, *, shared: bool) -> None:
        """Go on by itself: the parent has computed the prompt. `shared`: its cells are those of
        this sequence too; otherwise they could not be copied."""
        if shared and self.parent is not None:
            self.prompt.reuse = self.parent.prompt.reuse
        self.status = PREFILL

    def add_token(self, token: int, now: float) -> None:
        """Record a token that was drawn; it is computed with the next batch."""
        output, metrics = self.output, self.metrics
        output.next_token = token
        output.count += 1
        metrics.last_token = now
        if metrics.first_token is None:
            metrics.first_token = now
        self.status = DECODE

    def recompute(self, tokens: Tokens[int]) -> None:
        """Compute everything again: its cells, those of `tokens`, are lost or given up."""
        answer = [*tokens[len(self.prompt.tokens) :]]
        if self.output.next_token is not None:
            answer.append(self.output.next_token)
            self.output.next_token = None
        self.prompt.tokens = [*self.prompt.tokens, *answer]
        self.status = PREFILL

    @property
    def preemptible(self) -> bool:
        """True when another sequence may have its slot: it has no siblings and no echo, whose
        books cannot be kept through it, and its answer may be read again in other chunks."""
        return self.request.n == 1 and self.prompt.echo is None and not self.request.deterministic

    def preempt(self, tokens: Tokens[int]) -> None:
        """Give up the slot, whose cells are those of `tokens`, and wait for another one."""
        self.recompute(tokens)
        self.status = WAITING
        self.slot = -1

    def finish(self) -> None:
        """End it, in whatever state it is."""
        if self.output.sampler is not None:
            self.output.sampler.close()
        self.status = FINISHED

    # --- metrics ---

    def timings(self, now: float) -> Timings:
        """Return what this sequence took up to now."""
        metrics = self.metrics
        arrived, first = metrics.arrived, metrics.first_token
        admitted = now if metrics.admitted is None else metrics.admitted
        prefill_s = decode_s = 0.0
        if first is not None and metrics.last_token is not None:
            prefill_s, decode_s = first - admitted, metrics.last_token - first
        reuse = self.prompt.reuse
        prefilled = self.prompt.cells - reuse.total
        return Timings(
            queue_s=admitted - arrived,
            ttft_s=first - arrived if first is not None else None,
            total_s=now - arrived,
            prefill_tps=prefilled / prefill_s if prefill_s > 0 else None,
            decode_tps=(self.output.count - 1) / decode_s if decode_s > 0 else None,
            drafted=metrics.drafted,
            accepted=metrics.accepted,
            cache=CacheUsage(
                own=reuse.own,
                shared=reuse.shared,
                host=reuse.host,
                checkpoint=reuse.checkpoint,
                computed=prefilled,
                miss=self.prompt.miss,
            ),
        )


class PromptEcho:
    """The text of a prompt, token by token, for requests that want it before the answer.

    All texts together are the prompt's own: a BOS that the tokenizer added is none of it, nor is
    the space that SentencePiece puts before the first word.
    """

    def __init__(self, vocab: Vocabulary, prompt: str | None) -> None:
        """`prompt` None: only its tokens are known."""
        self._vocab = vocab
        self._prompt = None if prompt is None else prompt.encode("utf-8", "replace")
        self._detokenizer = IncrementalDetokenizer()
        self._begun = False
        self.count = 0
        """Tokens that were pushed, from the first on."""

    def push(self, token: int) -> str:
        """Return the text of the next token, as far as it is certain."""
        piece = self._vocab.piece(token) or self._vocab.token_text(token).encode()
        if not self._begun:
            piece = self._first_piece(token, piece)
            self._begun = bool(piece)
        self.count += 1
        return self._detokenizer.push(piece)

    def _first_piece(self, token: int, piece: bytes) -> bytes:
        if self._prompt is not None and self._prompt.startswith(piece):
            return piece
        if token == self._vocab.bos_token:
            return b""
        return piece.removeprefix(b" ") if self._prompt is not None else piece

    def finish(self) -> str:
        """Return the rest when the prompt ends inside a character; "" when called again."""
        return self._detokenizer.finish()
