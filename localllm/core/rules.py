"""Rules of thumb that people bring along, computed as they are told.

They are shown beside the exact numbers so that a reader can see how far a rule carries; nothing
in the product decides by them. Sources: the notes and articles quoted in the project's mission.
"""

from dataclasses import dataclass

OVERHEAD = 1.2
"""Enterprise notes: about 20 % on top of the weights."""

TOKENS_PER_WORD = 1.3
"""Numbers every LLM developer should know: English prose, one word is about 1.3 tokens."""

EMBEDDING_MODEL_BYTES = 1_000_000_000
"""Numbers every LLM developer should know: an embedding model takes about 1 GB."""

_HOURS_A_YEAR = 24 * 365


def memory_bytes(parameters: int, bytes_per_weight: float) -> int:
    """Parameters x bytes per weight, plus about 20 %."""
    return round(parameters * bytes_per_weight * OVERHEAD)


def serving_bytes(parameters: int) -> int:
    """2 x parameters: the weights at 16 bits each."""
    return 2 * parameters


def kv_bytes_per_token(
    *, layers: int, hidden: int, heads: int, kv_heads: int, bytes_per_value: int = 2
) -> int:
    """Keys and values of one token: about 1 MB for a 13B model with full multi-head attention
    (0.8 MB exactly); grouped queries divide it by heads / kv_heads."""
    return 2 * layers * hidden * kv_heads // heads * bytes_per_value


def tokens_of(words: int) -> int:
    """Tokens of so many English words."""
    return round(words * TOKENS_PER_WORD)


def words_of(tokens: int) -> int:
    """English words in so many tokens."""
    return round(tokens / TOKENS_PER_WORD)


def attention_seconds(*, parameters: int, tokens: int, flops: float) -> float:
    """The article's time of a text: parameters x tokens^2 operations at the peak rate.

    2,048 tokens of OPT-350M on an A100 (19.5 TFLOP/s): 76.7 s. Far above what a cache of keys and
    values makes of it, which is why `core/speed` exists.
    """
    return parameters * tokens * tokens / flops


def yearly_cost(per_hour: float) -> float:
    """What a machine costs that is rented all year: $0.47 an hour is about $4.1K."""
    return per_hour * _HOURS_A_YEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class OptShape:
    """The sizes of an OPT model from which its parameters are counted by hand.

    `embedding` is the width of the vocabulary's vectors, narrower than `hidden` in OPT-350M, where
    two matrices project between them.
    """

    vocabulary: int
    embedding: int
    positions: int
    hidden: int
    blocks: int


OPT_350M = OptShape(vocabulary=50_272, embedding=512, positions=2_050, hidden=1_024, blocks=24)


def count_parameters(shape: OptShape) -> int:
    """Count as the article does: the vocabulary twice, positions, two projections, and per block
    12 hidden^2 for its matrices and 4 hidden for its two norms (biases of matrices left out)."""
    ends = 2 * shape.vocabulary * shape.embedding + shape.positions * shape.hidden
    narrow = shape.embedding != shape.hidden
    projections = 2 * shape.embedding * shape.hidden if narrow else 0
    block = 12 * shape.hidden**2 + 4 * shape.hidden
    return ends + projections + shape.blocks * block


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFit:
    """Whether bare weights fit, by the rule: on the device, and on the way there."""

    weights_bytes: int
    fits_device: bool
    fits_host: bool

    @property
    def loads(self) -> bool:
        """A model passes through system memory before it reaches the device."""
        return self.fits_device and self.fits_host


def fit(parameters: int, bytes_per_weight: float, *, device_bytes: int, host_bytes: int) -> RuleFit:
    """FLAN-T5-XL (3 G parameters x 4 bytes = 12 GB) fits a 16 GB T4, but an 8 GB host cannot
    load it."""
    weights = round(parameters * bytes_per_weight)
    return RuleFit(
        weights_bytes=weights,
        fits_device=weights <= device_bytes,
        fits_host=weights <= host_bytes,
    )
