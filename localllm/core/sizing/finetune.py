"""The memory of a fine-tune, from counts alone: weights, gradients, optimizer, activations.

Fine-tuning happens elsewhere (PyTorch with AdamW in mixed precision is what the formulas
describe); localllm only says beforehand what it would take. Fragmentation, the CUDA context and
the framework are not counted: leave a tenth free.
"""

from dataclasses import dataclass
from enum import StrEnum

from localllm.core.model.spec import ModelSpec
from localllm.errors import UsageError


class Method(StrEnum):
    """The weights that are trained: all, or low-rank adapters beside frozen (4-bit) weights."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingShape:
    """The counts of a decoder that training memory depends on.

    `feed_forward` 0 means that the layers have no dense feed-forward part to adapt (experts are
    left alone by adapters). `query_width` and `kv_width` are heads times head size.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int
    query_width: int
    kv_width: int
    feed_forward: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """One breakdown in bytes. `trained_parameters` is what the optimizer sees."""

    trained_parameters: int
    weights_bytes: int
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    logits_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.adapter_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.activation_bytes
            + self.logits_bytes
        )


# ZeRO (Rajbhandari et al., 2020), section 3.1: mixed-precision Adam keeps 2 bytes of weight, 2 of
# gradient, and 12 of optimizer (a 4-byte copy of the weight, momentum and variance).
_HALF = 2
_ADAM_MIXED = 12
# Adapters are trained in float32 (peft's default when the base is frozen): 4 of weight, 4 of
# gradient, 8 of momentum and variance.
_ADAPTER = 4
_ADAM_FLOAT = 8
# QLoRA (Dettmers et al., 2023), section 3: NF4 is 4 bits, double quantization of the constants
# adds 8/64 + 32/(64 x 256) = 0.127 bits; embeddings and the output matrix stay at 16 bits.
_NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Korthikanti et al., 2022 (Reducing activation recomputation), equation 2: s b h (34 + 5 a s / h)
# bytes a layer at 16 bits; FlashAttention never stores the 5 a s / h; recomputing everything
# (their section 5) stores a layer's 2 s b h input only, and one layer in full while it is redone.
_LAYER_ACTIVATIONS = 34
_ATTENTION_MATRIX = 5
_CHECKPOINT = 2
_LOGITS = 2 * 4  # the logits and their gradient, in float32


def shape_of(spec: ModelSpec) -> TrainingShape:
    """Read the counts from a GGUF header. Raises GgufError for one that lacks them."""
    last = max(spec.layers - 1, 0)  # the first layers of some mixtures of experts are dense
    return TrainingShape(
        parameters=spec.parameters,
        layers=spec.layers,
        hidden=spec.embedding,
        heads=spec.head_count(0),
        query_width=spec.head_count(0) * spec.key_length(0),
        kv_width=spec.head_count_kv(0) * spec.key_length(0),
        feed_forward=0 if spec.experts else spec.feed_forward(last),
        vocabulary=spec.vocabulary,
    )


def training_memory(
    shape: TrainingShape,
    method: Method,
    *,
    rank: int = 16,
    batch: int = 1,
    sequence: int = 2048,
    checkpointing: bool = True,
    flash_attention: bool = True,
) -> TrainingMemory:
    """Size a fine-tune on one device, with `batch` sequences of `sequence` tokens in memory at
    once (accumulated gradients cost nothing more).

    Raises UsageError for counts below 1.
    """
    for name, value in (("rank", rank), ("batch", batch), ("seq", sequence)):
        if value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    full = method is Method.FULL
    trained = shape.parameters if full else adapter_parameters(shape, rank)
    return TrainingMemory(
        trained_parameters=trained,
        weights_bytes=_weights(shape, method),
        adapter_bytes=0 if full else trained * _ADAPTER,
        gradient_bytes=trained * (_HALF if full else _ADAPTER),
        optimizer_bytes=trained * (_ADAM_MIXED if full else _ADAM_FLOAT),
        activation_bytes=_activations(
            shape, batch * sequence, sequence, checkpointing, flash_attention
        ),
        logits_bytes=batch * sequence * shape.vocabulary * _LOGITS,
    )


def adapter_parameters(shape: TrainingShape, rank: int) -> int:
    """Count the parameters of adapters on every matrix of every layer: rank x (inputs + outputs)
    each (LoRA, Hu et al., 2021; on all of them as QLoRA recommends)."""
    hidden, query, kv, inner = shape.hidden, shape.query_width, shape.kv_width, shape.feed_forward
    attention = 2 * (hidden + query) + 2 * (hidden + kv)
    feed_forward = 3 * (hidden + inner) if inner else 0
    return shape.layers * rank * (attention + feed_forward)


def _weights(shape: TrainingShape, method: Method) -> int:
    if method is not Method.QLORA:
        return shape.parameters * _HALF
    ends = min(2 * shape.vocabulary * shape.hidden, shape.parameters)
    return ends * _HALF + round((shape.parameters - ends) * _NF4_BITS / 8)


def _activations(
    shape: TrainingShape, tokens: int, sequence: int, checkpointing: bool, flash: bool
) -> int:
    layer = _LAYER_ACTIVATIONS * tokens * shape.hidden
    if not flash:
        layer += _ATTENTION_MATRIX * tokens * sequence * shape.heads
    if not checkpointing:
        return layer * shape.layers
    return _CHECKPOINT * tokens * shape.hidden * shape.layers + layer
