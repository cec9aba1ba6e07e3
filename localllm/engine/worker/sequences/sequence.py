"""One answer on its way through the scheduler, and its part in a batch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localllm.engine.messages import GenerateRequest, Timings
from localllm.engine.worker.llama.lora import Space
from localllm.engine.worker.llama.model import Row
from localllm.engine.worker.parsing.answer_events import Speech
from localllm.engine.worker.parsing.detokenizer import TextStream
from localllm.engine.worker.prompt.image_prompt import PicturePrompt
from localllm.engine.worker.sampling.sampler import Sampler

if TYPE_CHECKING:
    from localllm.engine.worker.speculative.speculator import Guesses

    pass
    from localllm.engine.worker.sampling.grammar import Constraint

from localllm.engine.worker.llama.model import Model


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One answer on its way: its prompt, its slot, what it has produced, when.

    `leader` is the first answer to the same prompt: as long as it is reading, this one waits and
    then goes on from its cells. `echo`: the prompt is said before the answer.
    """

    request: GenerateRequest
    prompt: list[int]
    prompt_tokens: int
    limit: int
    text: TextStream
    arrived: float
    slot: int = -1
    space: Space = ()
    sampler: Sampler | None = None
    constraint: "Constraint | None" = None
    may_share: bool = True
    dropped: int = 0
    pictures: PicturePrompt | None = None
    guesses: "Guesses | None" = None
    has_guesses: bool = False
    """Cells after those that are accounted for hold guesses that are not checked yet."""
    next_token: int | None = None
    produced: int = 0
    cached: int = 0
    admitted: float = 0.0
    first_token: float | None = None
    last_token: float = 0.0
    index: int = 0
    leader: "Sequence | None" = None
    echo: "Echo | None" = None
    speech: Speech = field(default_factory=Speech)
    ended: bool = False

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def waiting(self) -> bool:
        """Whether it has no slot yet."""
        return self.sampler is None

    @property
    def scores(self) -> bool:
        """Whether the logits of every token of the prompt are needed."""
        return self.echo is not None and self.request.top_logprobs is not None

    def scorable(self, start: int, rows: int) -> int:
        """How many tokens from `start` on need no more than so many rows of logits."""
        assert self.echo is not None
        if self.echo.said == self.prompt_tokens:
            return len(self.prompt)
        return max(0, self.echo.said - 1 - start) + rows

    def needs_logits(self, position: int) -> bool:
        """Whether a token of a prompt that is scored follows `position` and was not said yet."""
        assert self.echo is not None
        return self.echo.said - 1 <= position < self.prompt_tokens - 1

    def text_from(self, position: int, room: int) -> int:
        """How many tokens of `room` can be computed from here on together: up to a picture."""
        return room if self.pictures is None else min(room, self.pictures.text_from(position))


@dataclass(slots=True)
class Chunk:
    """The rows of one sequence in a batch; `samples` when the last of them asks for logits. The
    last `guessed` tokens are guesses: each of them and the one before ask for logits."""

    sequence: Sequence
    start: int
    tokens: list[int]
    samples: bool
    guessed: int = 0
    last_row: int = -1

    @property
    def sure(self) -> list[int]:
        """The tokens that are certainly part of the text."""
        return self.tokens[: len(self.tokens) - self.guessed]

    def rows(self) -> list[Row]:
        last, scores = len(self.tokens) - 1 - self.guessed, self.sequence.scores
        return [
            Row(
                token,
                self.start + i,
                self.sequence.slot,
                (self.samples and i >= last)
                or (scores and self.sequence.needs_logits(self.start + i)),
            )
            for i, token in enumerate(self.tokens)
        ]


@dataclass(slots=True)
class Batch:
    """What one step computes."""

    chunks: list[Chunk]
    rows: list[Row] = field(default_factory=list)
    picture_cells: int = 0

    @classmethod
    def of(cls, chunks: list[Chunk]) -> "Batch":
        """By slot: of slots with cells of their own llama.cpp computes those together that follow
        each other (llama_batch_allocr::split_equal)."""
        batch = cls(sorted(chunks, key=lambda chunk: chunk.sequence.slot))
        for chunk in batch.chunks:
            batch.rows += chunk.rows()
            chunk.last_row = len(batch.rows) - 1
        return batch

    @property
    def cells(self) -> int:
        """Cells of the cache that it needs."""
        return len(self.rows) + self.picture_cells


def timings(sequence: Sequence, now: float) -> Timings:
    """What this sequence took up to now."""
    first, read = sequence.first_token, sequence.prompt_tokens - sequence.cached
    prefill_s = first - sequence.admitted if first is not None else 0.0
    decode_s = sequence.last_token - first if first is not None else 0.0
    guesses = sequence.guesses
    return Timings(
        queue_s=(sequence.admitted or now) - sequence.arrived,
        ttft_s=first - sequence.arrived if first is not None else None,
        total_s=now - sequence.arrived,
        prefill_tps=read / prefill_s if prefill_s > 0 else None,
        decode_tps=(sequence.produced - 1) / decode_s if decode_s > 0 else None,
        drafted=guesses.drafted if guesses is not None else 0,
        accepted=guesses.accepted if guesses is not None else 0,
    )


class Echo:
    """How far a prompt has been said.

    All texts together are the prompt's own: a BOS that the tokenizer added is none of it, nor is
    the space that SentencePiece puts before the first word.
    """

    def __init__(self, model: Model, prompt: str | None) -> None:
        """`prompt` None: only its tokens are known."""
        self._model = model
        self._prompt = None if prompt is None else prompt.encode("utf-8", "replace")
        self._text = TextStream()
        self._begun = False
        self.said = 0
        """Tokens, from the first on."""

    def say(self, token: int) -> str:
        """The text of the next token, as far as it is certain."""
        piece = self._model.piece(token) or self._model.token_text(token).encode()
        if not self._begun:
            piece = self._first(token, piece)
            self._begun = bool(piece)
        self.said += 1
        return self._text.push(piece)

    def _first(self, token: int, piece: bytes) -> bytes:
        if self._prompt is not None and self._prompt.startswith(piece):
            return piece
        if token == self._model.bos_token:
            return b""
        return piece.removeprefix(b" ") if self._prompt is not None else piece

    def finish(self) -> str:
        """What is left when the prompt ends inside a character; nothing when asked again."""
        return self._text.finish()
