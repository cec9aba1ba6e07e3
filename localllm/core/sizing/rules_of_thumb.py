"""Rules of thumb that people know, computed as they are published.

They are shown beside the exact numbers so that a reader can see how far a rule holds; nothing in
the product decides by them.
"""

OVERHEAD = 1.2
"""Enterprise notes: about 20 % on top of the weights."""

TOKENS_PER_WORD = 1.3
"""Numbers every LLM developer should know: English prose, one word is about 1.3 tokens."""


def memory_bytes(parameters: int, bytes_per_weight: float) -> int:
    """Return parameters x bytes per weight, plus about 20 %."""
    return round(parameters * bytes_per_weight * OVERHEAD)


def serving_bytes(parameters: int) -> int:
    """Return 2 x parameters: the weights at 16 bits each."""
    return 2 * parameters


def kv_bytes_per_token(
    *, layers: int, hidden: int, heads: int, kv_heads: int, bytes_per_value: int = 2
) -> int:
    """Size the keys and values of one token: about 1 MB for a 13B model with full multi-head
    attention (0.8 MB exactly); grouped queries divide it by heads / kv_heads."""
    return 2 * layers * hidden * kv_heads // heads * bytes_per_value


def words_of(tokens: int) -> int:
    """Estimate the English words in so many tokens."""
    return round(tokens / TOKENS_PER_WORD)
