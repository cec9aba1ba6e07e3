"""The batch of one step: a chunk of tokens of each sequence that takes part."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from localllm.engine.worker.llama.model import BatchToken
from localllm.engine.worker.prompt.prompt import ImageChunk
from localllm.engine.worker.sequences.sequence import Sequence


@dataclass(slots=True)
class Chunk:
    """The tokens of one sequence in a batch, from position `start` on.

    `samples`: the last of them asks for a row of logits. The last `drafted` tokens are draft
    tokens: each of them and the one before ask for logits. `last_row` is the batch's row of the
    last token.
    """

    sequence: Sequence
    start: int
    tokens: list[int]
    samples: bool
    drafted: int = 0
    last_row: int = -1

    @property
    def text_tokens(self) -> list[int]:
        """The tokens that are part of the text for certain, without draft tokens."""
        return self.tokens[: len(self.tokens) - self.drafted]

    def batch_tokens(self) -> list[BatchToken]:
        sequence, start = self.sequence, self.start
        first_output = len(self.tokens) - 1 - self.drafted if self.samples else len(self.tokens)
        scores = sequence.scores_prompt
        return [
            BatchToken(
                token,
                start + i,
                sequence.slot,
                i >= first_output or (scores and sequence.prompt.needs_logits(start + i)),
            )
            for i, token in enumerate(self.tokens)
        ]


@dataclass(slots=True)
class Batch:
    """One call of `llama_decode`, or one image, whose embeddings take the place of tokens."""

    chunks: list[Chunk]
    tokens: list[BatchToken] = field(default_factory=list)
    image: ImageChunk | None = None

    @classmethod
    def of(cls, chunks: list[Chunk]) -> "Batch":
        """Join chunks by slot: of slots with cells of their own llama.cpp computes those together
        that follow each other (llama_batch_allocr::split_equal)."""
        batch = cls(sorted(chunks, key=lambda chunk: chunk.sequence.slot))
        for chunk in batch.chunks:
            batch.tokens += chunk.batch_tokens()
            chunk.last_row = len(batch.tokens) - 1
        return batch

    @property
    def cells(self) -> int:
        """Cells of the cache that it needs."""
        return len(self.tokens) if self.image is None else self.image.cells


def count_groups(slots: Iterable[int]) -> int:
    """Count the groups of slots that are computed together, a pass for each: of slots with cells of
    their own it is those that follow each other."""
    different = set(slots)
    return sum(slot - 1 not in different for slot in different)
