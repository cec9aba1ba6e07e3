"""The row that says everything about one architecture: what a GGUF header leaves out.

A header gives the sizes. Which layers slide, which are recurrent, how a layer is normed and routed
and what a model is for is code in llama.cpp, one file an architecture (`src/models/*.cpp`). Here
each such fact is a field with a closed set of values; `architectures.py` holds the rows, and no
other module compares an architecture's name with anything. Facts are those of llama.cpp b11434.
"""

from dataclasses import dataclass
from enum import Flag, StrEnum, auto


class Memory(StrEnum):
    """The state that an architecture carries from token to token (`llama_model::create_memory`)."""

    NONE = "none"  # encoders and diffusion models: every pass reads the whole text, both ways
    ATTENTION = "attention"
    RECURRENT = "recurrent"
    HYBRID = "hybrid"
    OTHER = "other"  # known to llama.cpp, of a kind that is not summed here


class Purpose(StrEnum):
    """The task that an architecture is made for (`src/llama-arch.cpp`)."""

    TEXT = "text"
    EMBEDDING = "embedding"
    DIFFUSION = "diffusion"
    MMPROJ = "mmproj"  # the encoder and projector of images or sound, beside a model
    AUDIO = "audio"
    DRAFT = "draft"  # guesses for one other model, whose states it reads
    ENCODER_DECODER = "encoder_decoder"


class Recurrence(StrEnum):
    """The rule that tells the recurrent layers of a model from the others
    (`hparams.recurrent_layer_arr` in `load_arch_hparams`)."""

    NO_KV_HEADS = "no_kv_heads"  # head_count_kv is 0 there
    NO_KV_HEADS_NO_FFN = "no_kv_heads_no_ffn"  # Nemotron-H: attention-free and FFN-free
    INTERVAL = "interval"  # every n-th layer attends (`full_attention_interval`)
    EVERY = "every"  # all of them; Falcon-H1's attend besides

    def applies(self, layer: int, *, kv_heads: int, feed_forward: int, interval: int) -> bool:
        """Return True when `layer` is recurrent. Raises ZeroDivisionError for an interval of 0."""
        match self:
            case Recurrence.NO_KV_HEADS:
                return kv_heads == 0
            case Recurrence.NO_KV_HEADS_NO_FFN:
                return kv_heads == 0 and feed_forward == 0
            case Recurrence.INTERVAL:
                return (layer + 1) % interval != 0
            case Recurrence.EVERY:
                return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window: `period` layers of which one is dense, unless the header has a pattern
    (`hparams.swa_type`, `set_swa_pattern`).

    `size` is used when the header has no `attention.sliding_window`; None means the layers do
    not slide without that key. `forced_size` overrides the header. `dense_first` puts the dense
    layer at the start of each period. `period` None: the header must hold the pattern itself.
    `only_layers`: the window exists only in a model of that many layers (EXAONE 4 32B).
    `unless_zero`: the layers slide unless the header says that the window is 0 (Llama 4).
    """

    period: int | None
    dense_first: bool = False
    size: int | None = None
    forced_size: int | None = None
    only_layers: int | None = None
    unless_zero: bool = False


class Norm(StrEnum):
    """The normalization of a layer (`llm_norm_type` given to `build_norm`)."""

    RMS = "rms"  # LLM_NORM_RMS; ggml can do it in place
    LAYER = "layer"  # LLM_NORM: mean and variance


class Rope(StrEnum):
    """The layers whose queries and keys are rotated by position (`ggml_rope_ext`)."""

    EVERY_LAYER = "every_layer"
    SLIDING_LAYERS = "sliding_layers"  # of models with a window; NoPE where a layer is dense
    NO_LAYER = "no_layer"


class ResidualFirst(Flag):
    """The additions whose first operand is the residual stream: ggml computes in place over its
    first operand, so the order decides which temporary is freed."""

    NEITHER = 0
    ATTENTION = auto()
    FEED_FORWARD = auto()
    BOTH = ATTENTION | FEED_FORWARD


class ExpertWeights(StrEnum):
    """The step of `build_moe_ffn` (`src/llama-graph.cpp`) at which the chosen experts are
    weighted."""

    AFTER = "after"  # the products, by probabilities over all experts
    AFTER_SOFTMAX_OF_CHOSEN = "softmax_of_chosen"  # LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX_WEIGHT
    BEFORE = "before"  # the experts' input (`weight_before_ffn`, Llama 4)


class ExpertLayers(StrEnum):
    """The header's key that says which layers of a mixture have experts."""

    AFTER_DENSE = "leading_dense_block_count"  # all but so many at the start
    INTERLEAVED = "interleave_moe_layer_step"  # the last of each so many
    ALTERNATE = "moe_every_n_layers"  # the second of each so many


class LayerGraph(StrEnum):
    """The order of a layer's operations (the graphs in `src/models/`), for the compute buffer."""

    ATTENTION = "attention"  # attention and feed-forward part, one after the other or in parallel
    ONE_MIXER = "one_mixer"  # Mamba, Nemotron-H: one mixer or one feed-forward part a layer
    HYBRID = "hybrid"  # a recurrent or an attention mixer, then the feed-forward part
    PARALLEL_HYBRID = "parallel_hybrid"  # Falcon-H1: both mixers side by side
    RWKV6 = "rwkv6"
    RWKV7 = "rwkv7"

    @property
    def is_rwkv(self) -> bool:
        """True for the graphs that norm the embedding and copy their state out of the cache."""
        return self in (LayerGraph.RWKV6, LayerGraph.RWKV7)


class TensorLayout(StrEnum):
    """The tensors of a layer (`load_arch_tensors` in `src/models/`), for models of the catalogue,
    which have no file to read them from."""

    LLAMA = "llama"  # also Qwen, Mistral, Granite, SmolLM3 and others
    BERT = "bert"
    COHERE = "cohere"
    DEEPSEEK2 = "deepseek2"
    EXAONE4 = "exaone4"
    FALCON_H1 = "falcon_h1"
    GEMMA = "gemma"
    GEMMA3N = "gemma3n"
    GEMMA4 = "gemma4"
    GLM4 = "glm4"
    GPT_OSS = "gpt_oss"
    GRANITE_HYBRID = "granite_hybrid"
    LFM2 = "lfm2"
    NEMOTRON_H = "nemotron_h"
    NOMIC_BERT = "nomic_bert"
    OLMO2 = "olmo2"
    PHI3 = "phi3"
    POST_NORM_FFN = "post_norm_ffn"
    QWEN3NEXT = "qwen3next"
    QWEN35 = "qwen35"
    STARCODER2 = "starcoder2"

    @property
    def is_encoder(self) -> bool:
        """True for the layouts of encoders, which have no output matrix."""
        return self in (TensorLayout.BERT, TensorLayout.NOMIC_BERT)


class Type70B(StrEnum):
    """The models that llama.cpp calls LLM_TYPE_70B, by their layer count (`load_arch_hparams`).
    Quantization raises the types of their value matrices."""

    NEVER = "never"
    EIGHTY_LAYERS = "eighty_layers"
    EIGHTY_LAYERS_GROUPED = "eighty_layers_grouped"  # with fewer key heads than query heads

    def applies(self, *, layers: int, heads: int, kv_heads: int) -> bool:
        """Return True for a model of these counts."""
        if self is Type70B.NEVER or layers != 80:
            return False
        return self is Type70B.EIGHTY_LAYERS or heads != kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNodes:
    """Nodes of a graph, as llama.cpp logs them ("graph: nodes = ..."): each layer's with flash
    attention and without, and those outside the layers."""

    layer: int
    layer_without_flash: int
    outside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture of llama.cpp.

    `confirmed`: its compute buffer was compared with llama.cpp's dry run over a grid of loads and
    lies within 5 % (tests/core/test_footprint_dry_run.py, docs/accuracy.md). Where it is not, the
    fields that shape the graph are those of the common case unless they are set.

    `interval` is the period of `Recurrence.INTERVAL` when the header states none. `kv_layers`: only
    so many layers own a cache and the later ones read theirs (`n_layer_kv_from_start`);
    `shares_kv`: the header says how many at the end do (`attention.shared_kv_layers`).
    `head_lengths_required`: head lengths are read although the first layer has no heads.
    `rolls_back`: the states of the last few tokens are kept too, so that draft tokens can be taken
    back. llama.cpp can do that for more architectures (`llm_arch_supports_rs_rollback`), whose
    states are matrices: for Qwen3.5 0.8B every token took 12 % longer (2026-12-01).
    `square_state`: linear attention, whose state is one matrix of key length squared a head.
    `gathers_state_late`: a layer's state is read where it is used, not before the norm.
    `shared_experts` counts them when the header does not. `mrope`: rotations have sections
    (`rope.dimension_sections`), which llama.cpp requires. `output_q8_0`: quantizing never makes the
    output matrix smaller than Q8_0 (`llama_tensor_get_type_impl`).
    """

    known: bool = True
    purpose: Purpose = Purpose.TEXT
    confirmed: bool = False

    # memory
    memory: Memory = Memory.ATTENTION
    window: Window | None = None
    recurrence: Recurrence | None = None
    interval: int = 4
    rolls_back: bool = False
    kv_layers: int | None = None
    shares_kv: bool = False
    head_lengths_required: bool = False
    square_state: bool = False

    # graph
    layer_graph: LayerGraph = LayerGraph.ATTENTION
    norm: Norm = Norm.RMS
    rope: Rope = Rope.EVERY_LAYER
    mrope: bool = False
    norms_after_rope: bool = False  # the query-key norm (`use_kq_norm`, Llama 4)
    softcaps_attention: bool = False  # also without `attn_logit_softcapping` in the header
    flash_attention: bool = True  # `llama_init_from_model` turns it off where it is not supported
    scales_embedding: bool = False
    residual_first: ResidualFirst = ResidualFirst.NEITHER
    expert_weights: ExpertWeights = ExpertWeights.AFTER
    gathers_state_late: bool = False
    logits_beside_embeddings: bool = True  # computed even when only embeddings are wanted
    graph_nodes: GraphNodes | None = None  # counted where the graph may outgrow its hash table

    # tensors
    layout: TensorLayout | None = None  # None: not in the catalogue
    expert_layers: ExpertLayers = ExpertLayers.AFTER_DENSE
    shared_experts: int = 0
    type_70b: Type70B = Type70B.NEVER
    output_q8_0: bool = False


UNKNOWN = Architecture(known=False)
"""An architecture without a row: sized like plain attention, and said to be unknown."""
