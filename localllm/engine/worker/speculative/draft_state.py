"""The draft of one sequence, and the acceptance of its earlier drafts.

Apart from the speculator, which owns one for each running slot: neither a sequence nor the
scheduler knows anything of it.
"""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from localllm.engine.worker.speculative.acceptance import AcceptanceRate
from localllm.engine.worker.speculative.ngram import NgramIndex


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft tokens, and the confidence level of each (acceptance.py)."""

    tokens: tuple[int, ...]
    levels: tuple[int, ...]


NO_DRAFT = Draft((), ())


@dataclass(slots=True)
class DraftState:
    """One sequence's draft for the next step, and the rates by which it is judged.

        learn(new tokens) -> propose(draft) -> acceptance -> verified by the speculator -> learn ...

    A draft is compared with the tokens that came even when none of it was computed.
    """

    ngram_rate: AcceptanceRate
    """Of drafts from the text itself."""
    model_rate: AcceptanceRate
    """Of the draft model's drafts."""
    stability: AcceptanceRate
    """Of rows whose most likely token does not depend on the size of the batch."""
    index: NgramIndex = field(default_factory=NgramIndex)
    indexed: int = 0
    """Tokens of the answer that are in the index."""
    draft: Draft = NO_DRAFT
    rate: AcceptanceRate | None = None
    """That of the draft's source; None before the first draft."""
    skip_step: bool = False
    """The next token has to be computed in a step without draft tokens of this sequence."""
    has_draft_cells: bool = False
    """Cells behind those of the text are those of draft tokens that are not verified yet."""

    def learn(self, tokens: Tokens[int]) -> None:
        """Append the tokens that came to the index, and compare them with the draft."""
        if self.rate is not None:
            for token, proposed, level in zip(
                tokens, self.draft.tokens, self.draft.levels, strict=False
            ):
                self.rate.observe(level, token == proposed)
                if token != proposed:
                    break
        self.index.extend(tokens)
        self.stability.decay()
        if self.rate is not self.model_rate:
            self.model_rate.decay()

    def propose(self, draft: Draft, rate: AcceptanceRate) -> None:
        """Set the draft for the next step; `rate` is that of its source."""
        self.draft, self.rate = draft, rate

    def acceptance(self, *, greedy: bool) -> tuple[float, ...]:
        """Return, for each draft token, the probability that it and all before it are accepted."""
        if self.rate is None:
            return ()
        stable = self.stability.overall() if greedy else 1.0
        probabilities = self.rate.cumulative(self.draft.levels)
        return tuple(each * stable ** (i + 1) for i, each in enumerate(probabilities))
