"""How a model is loaded: the settings that the estimate sizes and the engine uses, unchanged.

llama.cpp's own defaults waste gigabytes (design notes: `swa_full`, a full logits buffer, no flash
attention in the bindings), so each one is chosen here, once, and both sides read it from here.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

CONTEXT_PADDING = 256
"""llama.cpp pads a cache to this many cells (`llama-context.cpp`, GGML_PAD(n_ctx, 256))."""


class KvType(StrEnum):
    """Element types that llama.cpp accepts for the KV cache."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    IQ4_NL = "iq4_nl"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"


class FlashAttention(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Speculate(StrEnum):
    """Whether the engine guesses tokens ahead and checks them all in one step."""

    AUTO = "auto"  # where it was measured to pay
    OFF = "off"
    NGRAM = "ngram"  # whenever the text repeats itself, whatever that costs


class Pooling(StrEnum):
    """How the rows of a text's tokens become its embedding."""

    NONE = "none"  # not at all: a row for each token
    MEAN = "mean"
    CLS = "cls"  # the first token's
    LAST = "last"
    RANK = "rank"  # a score, by the classifier of a reranker


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter that is loaded with a model.

    `scale` is how much it counts for when a request says nothing else. The rest is what the
    gatekeeper found in the file (`core/sizing/lora.py`): bytes beside each layer, the input and the
    output, and `pairs`, the different (rank, outputs) of what it adds to weights.
    """

    path: str
    scale: float = 1.0
    layer_bytes: tuple[int, ...] = ()
    input_bytes: int = 0
    output_bytes: int = 0
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(self.layer_bytes) + self.input_bytes + self.output_bytes

    def beside(self, layer: int) -> int:
        """Bytes that lie with this layer."""
        return self.layer_bytes[layer] if layer < len(self.layer_bytes) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmproj:
    """An image encoder (mmproj) that is loaded with a model, which then sees.

    What it needs is what the gatekeeper found in the file (`core/sizing/mmproj.py`);
    `device` is the engine's name of the device that it computes on, None: the processor.
    """

    path: str
    weights_bytes: int = 0
    compute_bytes: int = 0
    device: str | None = None

    @property
    def size_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """One load.

    `context` is tokens of one conversation, of which the cache has room for `parallel`: in parts
    of its own for each, or `kv_unified` in one. In one, nothing is copied for who begins as another
    does; but each token is compared with the cells of all.
    `gpu_layers` None means as many as fit; the routed experts of the first `cpu_moe` layers stay
    in system memory. `devices` are those the engine may use, by its names for them ("CUDA0"):
    None is all it has, () none; `tensor_split` gives each of them so many layers, () in
    proportion to their free memory. Not `kv_offload`: the KV cache stays in system memory, and
    attention is computed there. `threads` None means the physical cores this process may use.
    `draft_max` is how many guessed tokens one step can check, of all conversations together;
    `draft` the file of a smaller model that guesses, too.
    `loras` are loaded with the model. `embeddings`: it turns texts into numbers and answers
    nothing, `parallel` texts at the same time; `pooling` is then what a request gets that names
    none (None: the model's own), and `RANK` makes it score pairs of texts. `mmproj` is what it
    sees with.
    """

    context: int = 4096
    parallel: int = 1
    kv_type_k: KvType = KvType.F16
    kv_type_v: KvType = KvType.F16
    batch: int = 2048
    ubatch: int = 512
    gpu_layers: int | None = None
    cpu_moe: int = 0
    flash_attention: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    mmap: bool = True
    threads: int | None = None
    kv_unified: bool = False
    kv_offload: bool = True
    devices: tuple[str, ...] | None = None
    tensor_split: tuple[int, ...] = ()
    speculate: Speculate = Speculate.OFF
    draft_max: int = 7
    draft: str | None = None
    loras: tuple[Lora, ...] = ()
    embeddings: bool = False
    pooling: Pooling | None = None
    mmproj: Mmproj | None = None

    @property
    def active_draft(self) -> str | None:
        """The draft model's file; None where nothing is guessed."""
        return None if self.speculate == Speculate.OFF else self.draft

    def for_draft(self) -> "LoadSettings":
        """How a draft model is loaded beside a model that is loaded like this: for as many and as
        long conversations."""
        return replace(
            self,
            draft=None,
            loras=(),
            mmproj=None,
            tensor_split=(),
            cpu_moe=0,
            speculate=Speculate.OFF,
        )

    @property
    def outputs(self) -> int:
        """Rows that one step can ask for: one for each conversation and guess; for embeddings
        those of every token."""
        if self.embeddings:
            return min(self.batch, self.ubatch, self.cells)
        guesses = 0 if self.speculate == Speculate.OFF else self.draft_max
        return self.parallel + max(0, min(guesses, min(self.batch, self.ubatch) - self.parallel))

    @property
    def cells(self) -> int:
        """Cells that are asked for: context x parallel, padded as llama.cpp pads."""
        wanted = self.context * self.parallel
        return -(-wanted // CONTEXT_PADDING) * CONTEXT_PADDING


class BufferKind(StrEnum):
    """What llama.cpp allocates a buffer for."""

    WEIGHTS = "weights"
    KV = "kv"
    RECURRENT = "recurrent"
    COMPUTE = "compute"
    OUTPUT = "output"
    ADAPTERS = "adapters"
    ENCODER = "encoder"  # what an image encoder computes in


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One buffer that llama.cpp said it allocated: `device` as it names it ("CPU", "CUDA0")."""

    device: str
    kind: BufferKind
    size_bytes: int
