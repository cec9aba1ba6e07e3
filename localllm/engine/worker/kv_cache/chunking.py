"""Where the chunks of a prompt end that is to be computed as it always is. Pure.

How many tokens a batch has decides which kernels llama.cpp takes and in which order they sum. The
prompt of a request that must give the same text again is cut at multiples of one number from its
beginning on, whatever is in the cache, and of the cache no more is used than was computed in the
same chunks, each alone in its batch. So every cell has the same bits as in a cache that was empty.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FixedChunks:
    """Chunks of `size` tokens, each beginning at a multiple of it."""

    size: int

    def end(self, start: int) -> int:
        """Return where the chunk ends that begins, or goes on after an image, at `start`."""
        return start - start % self.size + self.size

    def reusable(self, tokens: int, prompt: int) -> int:
        """Return how many of `tokens` cached ones, the beginning of a prompt of so many, are whole
        chunks. The last token of the prompt is never one of them."""
        most = min(tokens, prompt - 1)
        return most - most % self.size

    def extended(self, known: int, start: int, tokens: int) -> int:
        """Return how many tokens at the beginning of a slot were computed in whole chunks: `known`
        before, and those of a batch of its own."""
        return start + tokens if start == known and tokens == self.size else known
