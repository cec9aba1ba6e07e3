"""The architectures of llama.cpp, one row each: the only module that knows them by name.

The rows are read from llama.cpp b11434: `src/models/*.cpp` (`load_arch_hparams`,
`load_arch_tensors` and the graphs), `llama_model::create_memory` in `src/llama-model.cpp`,
`llm_arch_is_recurrent` and `llm_arch_is_hybrid` in `src/llama-arch.cpp`. Nodes of a graph were
counted from the dry run of Phi-4 and of models like it with 36 to 43 layers (2026-11-21).
"""

from collections.abc import Mapping
from types import MappingProxyType

from localllm.core.model.architecture import (
    UNKNOWN,
    Architecture,
    ExpertLayers,
    ExpertWeights,
    GraphNodes,
    LayerGraph,
    Memory,
    Norm,
    Purpose,
    Recurrence,
    ResidualFirst,
    Rope,
    TensorLayout,
    Type70B,
    Window,
)

_COMMON_CASE = """
    apertus arcee arctic baichuan bailingmoe bailingmoe2 bitnet chatglm cogvlm deci deepseek
    deepseek2-ocr dots1 ernie4_5 exaone gptj granitemoe grovemoe hunyuan-dense hunyuan-moe
    hy_v3 internlm2 llama-embed maincoder minicpm minicpm3 minimax-m2 mistral4 olmoe paddleocr
    pangu-embedded phimoe plamo plm qwen qwen2moe refact talkie xverse
"""
_OTHER_MEMORY = """
    deepseek32 deepseek4 dots3note glm-dsa glm5-next graniteswitch hrm_text hy_v4 minimax-m3
    nanbeige qwen4exp
"""

_ROWS = {
    "afmoe": Architecture(window=Window(period=4)),
    "arwkv7": Architecture(memory=Memory.RECURRENT, recurrence=Recurrence.EVERY),
    "bailingmoe3": Architecture(memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS),
    "bert": Architecture(
        purpose=Purpose.EMBEDDING,
        confirmed=True,
        memory=Memory.NONE,
        norm=Norm.LAYER,
        layout=TensorLayout.BERT,
    ),
    "bloom": Architecture(norm=Norm.LAYER),
    "chameleon": Architecture(norm=Norm.LAYER),
    "clip": Architecture(purpose=Purpose.MMPROJ, memory=Memory.OTHER),
    "codeshell": Architecture(norm=Norm.LAYER),
    "cohere2": Architecture(
        confirmed=True,
        window=Window(period=4),
        norm=Norm.LAYER,
        rope=Rope.SLIDING_LAYERS,
        layout=TensorLayout.COHERE,
    ),
    "cohere2moe": Architecture(window=Window(period=4, dense_first=True)),
    "command-r": Architecture(confirmed=True, norm=Norm.LAYER, layout=TensorLayout.COHERE),
    "dbrx": Architecture(norm=Norm.LAYER),
    "deepseek2": Architecture(confirmed=True, layout=TensorLayout.DEEPSEEK2),
    "dflash": Architecture(purpose=Purpose.DRAFT, memory=Memory.OTHER),
    "dream": Architecture(purpose=Purpose.DIFFUSION, memory=Memory.NONE),
    "eagle3": Architecture(purpose=Purpose.DRAFT, memory=Memory.OTHER),
    "ernie4_5-moe": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "eurobert": Architecture(purpose=Purpose.EMBEDDING, memory=Memory.NONE),
    "exaone-moe": Architecture(window=Window(period=4, size=128)),
    "exaone4": Architecture(
        confirmed=True,
        window=Window(period=4, size=4096, only_layers=64),
        rope=Rope.SLIDING_LAYERS,
        layout=TensorLayout.EXAONE4,
    ),
    "falcon": Architecture(norm=Norm.LAYER, output_q8_0=True),
    "falcon-h1": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.EVERY,
        layer_graph=LayerGraph.PARALLEL_HYBRID,
        gathers_state_late=True,
        layout=TensorLayout.FALCON_H1,
    ),
    "gemma": Architecture(scales_embedding=True),
    "gemma-embedding": Architecture(
        purpose=Purpose.EMBEDDING,
        memory=Memory.NONE,
        scales_embedding=True,
        layout=TensorLayout.GEMMA,
    ),
    "gemma2": Architecture(
        confirmed=True,
        window=Window(period=2, size=4096),
        softcaps_attention=True,
        scales_embedding=True,
        layout=TensorLayout.GEMMA,
    ),
    "gemma3": Architecture(
        confirmed=True, window=Window(period=6), scales_embedding=True, layout=TensorLayout.GEMMA
    ),
    "gemma3n": Architecture(
        window=Window(period=5), kv_layers=20, scales_embedding=True, layout=TensorLayout.GEMMA3N
    ),
    "gemma4": Architecture(
        window=Window(period=None),
        shares_kv=True,
        scales_embedding=True,
        layout=TensorLayout.GEMMA4,
    ),
    "gemma4-assistant": Architecture(
        purpose=Purpose.DRAFT, memory=Memory.OTHER, scales_embedding=True
    ),
    "glm4": Architecture(confirmed=True, layout=TensorLayout.GLM4),
    "glm4moe": Architecture(confirmed=True),
    "gpt-oss": Architecture(
        confirmed=True,
        window=Window(period=2),
        expert_weights=ExpertWeights.AFTER_SOFTMAX_OF_CHOSEN,
        layout=TensorLayout.GPT_OSS,
    ),
    "gpt2": Architecture(norm=Norm.LAYER),
    "gptneox": Architecture(norm=Norm.LAYER),
    "granite": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "granite_swa": Architecture(window=Window(period=None)),
    "granitehybrid": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.NO_KV_HEADS,
        layer_graph=LayerGraph.HYBRID,
        layout=TensorLayout.GRANITE_HYBRID,
    ),
    "grok": Architecture(flash_attention=False),
    "hunyuan_vl": Architecture(mrope=True),
    "jais": Architecture(norm=Norm.LAYER),
    "jais2": Architecture(norm=Norm.LAYER),
    "jamba": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.NO_KV_HEADS,
        layer_graph=LayerGraph.HYBRID,
        rope=Rope.NO_LAYER,
        residual_first=ResidualFirst.BOTH,
    ),
    "jina-bert-v2": Architecture(purpose=Purpose.EMBEDDING, memory=Memory.NONE, norm=Norm.LAYER),
    "jina-bert-v3": Architecture(purpose=Purpose.EMBEDDING, memory=Memory.NONE, norm=Norm.LAYER),
    "kimi-k3": Architecture(memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS),
    "kimi-linear": Architecture(memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS),
    "laguna": Architecture(window=Window(period=4, dense_first=True)),
    "lfm2": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        window=Window(period=0),
        recurrence=Recurrence.NO_KV_HEADS,
        rolls_back=True,
        layer_graph=LayerGraph.HYBRID,
        residual_first=ResidualFirst.BOTH,
        logits_beside_embeddings=False,
        layout=TensorLayout.LFM2,
    ),
    "lfm2moe": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.NO_KV_HEADS,
        rolls_back=True,
        layer_graph=LayerGraph.HYBRID,
        residual_first=ResidualFirst.BOTH,
        logits_beside_embeddings=False,
        layout=TensorLayout.LFM2,
    ),
    "llada": Architecture(purpose=Purpose.DIFFUSION, memory=Memory.NONE),
    "llada-moe": Architecture(purpose=Purpose.DIFFUSION, memory=Memory.NONE),
    "llama": Architecture(
        confirmed=True, layout=TensorLayout.LLAMA, type_70b=Type70B.EIGHTY_LAYERS_GROUPED
    ),
    "llama4": Architecture(
        confirmed=True,
        window=Window(period=4, forced_size=8192, unless_zero=True),
        rope=Rope.SLIDING_LAYERS,
        norms_after_rope=True,
        expert_weights=ExpertWeights.BEFORE,
        layout=TensorLayout.LLAMA,
        expert_layers=ExpertLayers.INTERLEAVED,
        shared_experts=1,
    ),
    "mamba": Architecture(
        confirmed=True,
        memory=Memory.RECURRENT,
        recurrence=Recurrence.EVERY,
        layer_graph=LayerGraph.ONE_MIXER,
    ),
    "mamba2": Architecture(
        confirmed=True,
        memory=Memory.RECURRENT,
        recurrence=Recurrence.EVERY,
        layer_graph=LayerGraph.ONE_MIXER,
    ),
    "maple": Architecture(window=Window(period=None)),
    "mellum": Architecture(window=Window(period=4)),
    "mimo2": Architecture(window=Window(period=None)),
    "minimax-01": Architecture(
        memory=Memory.HYBRID, recurrence=Recurrence.INTERVAL, interval=8, square_state=True
    ),
    "mistral3": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "modern-bert": Architecture(purpose=Purpose.EMBEDDING, memory=Memory.NONE, norm=Norm.LAYER),
    "mpt": Architecture(norm=Norm.LAYER),
    "muse-glimmer": Architecture(window=Window(period=4)),
    "nemotron": Architecture(norm=Norm.LAYER),
    "nemotron_h": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.NO_KV_HEADS_NO_FFN,
        layer_graph=LayerGraph.ONE_MIXER,
        rope=Rope.NO_LAYER,
        layout=TensorLayout.NEMOTRON_H,
    ),
    "nemotron_h_moe": Architecture(
        memory=Memory.HYBRID,
        recurrence=Recurrence.NO_KV_HEADS_NO_FFN,
        layer_graph=LayerGraph.ONE_MIXER,
        rope=Rope.NO_LAYER,
        layout=TensorLayout.NEMOTRON_H,
    ),
    "neo-bert": Architecture(purpose=Purpose.EMBEDDING, memory=Memory.NONE),
    "nomic-bert": Architecture(
        purpose=Purpose.EMBEDDING,
        memory=Memory.NONE,
        norm=Norm.LAYER,
        layout=TensorLayout.NOMIC_BERT,
    ),
    "nomic-bert-moe": Architecture(
        purpose=Purpose.EMBEDDING,
        memory=Memory.NONE,
        norm=Norm.LAYER,
        layout=TensorLayout.NOMIC_BERT,
        expert_layers=ExpertLayers.ALTERNATE,
    ),
    "olmo": Architecture(norm=Norm.LAYER),
    "olmo2": Architecture(confirmed=True, window=Window(period=4), layout=TensorLayout.OLMO2),
    "openelm": Architecture(confirmed=True, residual_first=ResidualFirst.ATTENTION),
    "orion": Architecture(norm=Norm.LAYER),
    "phi2": Architecture(norm=Norm.LAYER),
    "phi3": Architecture(
        confirmed=True,
        residual_first=ResidualFirst.FEED_FORWARD,
        graph_nodes=GraphNodes(layer=29, layer_without_flash=33, outside=6),
        layout=TensorLayout.PHI3,
    ),
    "plamo2": Architecture(
        memory=Memory.HYBRID, recurrence=Recurrence.NO_KV_HEADS, head_lengths_required=True
    ),
    "plamo3": Architecture(window=Window(period=8)),
    "pockettts": Architecture(purpose=Purpose.AUDIO, memory=Memory.OTHER),
    "qwen2": Architecture(
        confirmed=True, layout=TensorLayout.LLAMA, type_70b=Type70B.EIGHTY_LAYERS
    ),
    "qwen2vl": Architecture(confirmed=True, mrope=True, layout=TensorLayout.LLAMA),
    "qwen3": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "qwen35": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.INTERVAL,
        layer_graph=LayerGraph.HYBRID,
        mrope=True,
        gathers_state_late=True,
        layout=TensorLayout.QWEN35,
    ),
    "qwen35moe": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.INTERVAL,
        layer_graph=LayerGraph.HYBRID,
        mrope=True,
        gathers_state_late=True,
        layout=TensorLayout.QWEN35,
    ),
    "qwen3moe": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "qwen3next": Architecture(
        confirmed=True,
        memory=Memory.HYBRID,
        recurrence=Recurrence.INTERVAL,
        layer_graph=LayerGraph.HYBRID,
        gathers_state_late=True,
        layout=TensorLayout.QWEN3NEXT,
    ),
    "qwen3tts": Architecture(purpose=Purpose.AUDIO, memory=Memory.OTHER),
    "qwen3vl": Architecture(confirmed=True, mrope=True, layout=TensorLayout.LLAMA),
    "qwen3vlmoe": Architecture(confirmed=True, mrope=True, layout=TensorLayout.LLAMA),
    "rnd1": Architecture(purpose=Purpose.DIFFUSION, memory=Memory.NONE),
    "rwkv6": Architecture(
        confirmed=True,
        memory=Memory.RECURRENT,
        recurrence=Recurrence.EVERY,
        layer_graph=LayerGraph.RWKV6,
        norm=Norm.LAYER,
    ),
    "rwkv6qwen2": Architecture(memory=Memory.RECURRENT, recurrence=Recurrence.EVERY),
    "rwkv7": Architecture(
        confirmed=True,
        memory=Memory.RECURRENT,
        recurrence=Recurrence.EVERY,
        layer_graph=LayerGraph.RWKV7,
        norm=Norm.LAYER,
    ),
    "seed_oss": Architecture(confirmed=True, layout=TensorLayout.POST_NORM_FFN),
    "smallthinker": Architecture(window=Window(period=4, dense_first=True, forced_size=4096)),
    "smollm3": Architecture(confirmed=True, layout=TensorLayout.LLAMA),
    "spark2_5": Architecture(window=Window(period=None)),
    "stablelm": Architecture(norm=Norm.LAYER),
    "starcoder": Architecture(norm=Norm.LAYER),
    "starcoder2": Architecture(confirmed=True, norm=Norm.LAYER, layout=TensorLayout.STARCODER2),
    "step35": Architecture(window=Window(period=None)),
    "t5": Architecture(purpose=Purpose.ENCODER_DECODER, memory=Memory.OTHER),
    "t5encoder": Architecture(purpose=Purpose.ENCODER_DECODER, memory=Memory.NONE),
    "wavtokenizer-dec": Architecture(purpose=Purpose.AUDIO, memory=Memory.NONE),
}

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        **dict.fromkeys(_COMMON_CASE.split(), Architecture()),
        **dict.fromkeys(_OTHER_MEMORY.split(), Architecture(memory=Memory.OTHER)),
        **_ROWS,
    }
)
"""By the header's `general.architecture`."""


def architecture_of(name: str) -> Architecture:
    """Look an architecture up by its name in a header; UNKNOWN when it has no row."""
    return ARCHITECTURES.get(name, UNKNOWN)
