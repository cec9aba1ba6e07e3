"""How many tokens of prompts one step may compute, from the time that steps took.

Pure: counts and seconds in, a count out. A full batch of a large model on a slow processor takes
many seconds, for which every stream stands still and a question that has just come waits.
"""

STREAMING_S = 0.5
"""The longest step while somebody's answer streams: a pause that a reader hardly notices."""

READING_S = 3.0
"""The longest step while nothing but prompts is computed: what a new question waits for."""

_NEW_WEIGHT = 0.5
"""Of the newest step in the estimate: prompts get slower as they get longer."""


class StepLimit:
    """Halves full batches as often as is needed, and no further than to an efficient size."""

    def __init__(self, most: int, least: int) -> None:
        """`most`: tokens of a full batch. `least`: tokens from which on a larger batch is computed
        hardly faster, each; smaller ones would make prompts slower."""
        self._most = most
        self._least = min(most, least)
        self._token_s: float | None = None

    def record(self, prompt_tokens: int, seconds: float) -> None:
        """Record a step that computed so many tokens of prompts, and others beside them, whose time
        is part of what the next step takes too. One with too few tokens of prompts says nothing."""
        if prompt_tokens < self._least or seconds <= 0:
            return
        token_s = seconds / prompt_tokens
        known_s = token_s if self._token_s is None else self._token_s
        self._token_s = known_s + _NEW_WEIGHT * (token_s - known_s)

    def tokens(self, *, streaming: bool) -> int:
        """Return the most tokens of prompts for the next step. `streaming`: an answer waits."""
        if self._token_s is None:
            return self._most
        longest_s, tokens = STREAMING_S if streaming else READING_S, self._most
        while tokens > self._least and tokens * self._token_s > longest_s:
            tokens = max(self._least, tokens // 2)
        return tokens
