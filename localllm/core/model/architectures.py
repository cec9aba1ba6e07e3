"""What each architecture of llama.cpp keeps in memory: the facts that a GGUF header leaves out.

A header gives the sizes; which layers slide, which are recurrent and which have a cache at all is
partly written into llama.cpp per architecture. This table is those lines, read from llama.cpp
b11434: `src/models/*.cpp` (`load_arch_hparams`), `llama_model::create_memory` in
`src/llama-model.cpp`, `llm_arch_is_recurrent` and `llm_arch_is_hybrid` in `src/llama-arch.cpp`.
An architecture that is not in it is unknown: the sums are then marked as needing the probe.
"""

from dataclasses import dataclass
from enum import StrEnum


class Memory(StrEnum):
    """What an architecture remembers between tokens."""

    NONE = "none"  # encoders and diffusion models: every pass reads the whole text
    ATTENTION = "attention"
    RECURRENT = "recurrent"
    HYBRID = "hybrid"
    OTHER = "other"  # known to llama.cpp, of a kind that is not summed here


class Recurrence(StrEnum):
    """How the recurrent layers of a hybrid are told from the others."""

    NO_KV_HEADS = "no_kv_heads"  # head_count_kv is 0 there
    NO_KV_HEADS_NO_FFN = "no_kv_heads_no_ffn"  # Nemotron-H: attention-free and FFN-free
    INTERVAL = "interval"  # every n-th layer attends (`full_attention_interval`)
    EVERY = "every"  # Falcon-H1: each layer has both


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window: `period` layers of which one is dense, unless the header has a pattern.

    `size` is used when the header has no `attention.sliding_window`; None means the layers do
    not slide without that key. `forced_size` overrides the header. `dense_first` puts the dense
    layer at the start of each period. `period` None: the header must hold the pattern itself.
    `only_layers`: the window exists only in a model of that many layers (EXAONE 4 32B).
    """

    period: int | None
    dense_first: bool = False
    size: int | None = None
    forced_size: int | None = None
    only_layers: int | None = None
    after_zero_only: bool = False  # Llama 4: slides unless the header says that the window is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture's memory: its kind, its window, and how its recurrent layers are found."""

    memory: Memory = Memory.ATTENTION
    window: Window | None = None
    recurrence: Recurrence | None = None
    interval: int = 4
    dense_kv_layers: int | None = None  # only the first n layers own a cache (Gemma 3n: 20)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PLAIN = _names("""
    llama deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bloom stablelm qwen
    qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo codeshell
    orion internlm2 minicpm minicpm3 gemma starcoder2 xverse command-r dbrx olmo olmoe openelm
    arctic deepseek deepseek2 deepseek2-ocr chatglm glm4 glm4moe bitnet jais jais2 nemotron exaone
    granite granitemoe chameleon plm bailingmoe bailingmoe2 dots1 arcee ernie4_5 ernie4_5-moe
    hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus minimax-m2 cogvlm
    pangu-embedded mistral3 mistral4 paddleocr llama-embed maincoder talkie
""")
_ENCODERS = _names("""
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert
    gemma-embedding t5encoder wavtokenizer-dec dream llada llada-moe rnd1
""")
_OTHER = _names("""
    clip t5 minimax-m3 glm-dsa deepseek32 glm5-next hy_v4 dots3note deepseek4 dflash eagle3
    gemma4-assistant qwen4exp graniteswitch nanbeige hrm_text qwen3tts pockettts
""")
_PATTERN_IN_HEADER = _names("granite_swa maple mimo2 spark2_5 step35")

_SLIDING = {
    "afmoe": Window(period=4),
    "cohere2": Window(period=4),
    "cohere2moe": Window(period=4, dense_first=True),
    "exaone-moe": Window(period=4, size=128),
    "exaone4": Window(period=4, size=4096, only_layers=64),
    "gemma2": Window(period=2, size=4096),
    "gemma3": Window(period=6),
    "gpt-oss": Window(period=2),
    "laguna": Window(period=4, dense_first=True),
    "llama4": Window(period=4, forced_size=8192, after_zero_only=True),
    "mellum": Window(period=4),
    "muse-glimmer": Window(period=4),
    "olmo2": Window(period=4),
    "plamo3": Window(period=8),
    "smallthinker": Window(period=4, dense_first=True, forced_size=4096),
}
_BY_KV_HEADS = _names("jamba granitehybrid plamo2 lfm2moe kimi-linear kimi-k3 bailingmoe3")

ARCHITECTURES: dict[str, Architecture] = {
    **{name: Architecture() for name in _PLAIN},
    **{name: Architecture(memory=Memory.NONE) for name in _ENCODERS},
    **{name: Architecture(memory=Memory.OTHER) for name in _OTHER},
    **{name: Architecture(window=Window(period=None)) for name in _PATTERN_IN_HEADER},
    **{name: Architecture(window=window) for name, window in _SLIDING.items()},
    "gemma3n": Architecture(window=Window(period=5), dense_kv_layers=20),
    "gemma4": Architecture(window=Window(period=None)),
    **{
        name: Architecture(memory=Memory.RECURRENT)
        for name in ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")
    },
    **{
        name: Architecture(memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS)
        for name in _BY_KV_HEADS
    },
    **{
        name: Architecture(memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS_NO_FFN)
        for name in ("nemotron_h", "nemotron_h_moe")
    },
    **{
        name: Architecture(memory=Memory.HYBRID, recurrence=Recurrence.INTERVAL)
        for name in ("qwen3next", "qwen35", "qwen35moe")
    },
    "minimax-01": Architecture(memory=Memory.HYBRID, recurrence=Recurrence.INTERVAL, interval=8),
    "lfm2": Architecture(
        memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS, window=Window(period=0)
    ),
    "falcon-h1": Architecture(memory=Memory.HYBRID, recurrence=Recurrence.EVERY),
}
"""By the header's `general.architecture`."""
