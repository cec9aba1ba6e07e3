"""The published measurements of what quants cost: perplexities and KL divergences, by model."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from localllm.core.model.file_types import ALIASES


class Metric(StrEnum):
    """PERPLEXITY: change against the unquantized model, in percent. KLD: mean Kullback-Leibler
    divergence of the next-token distribution from the unquantized model's, in nats."""

    PERPLEXITY = "perplexity_change_percent"
    KLD = "mean_kl_divergence"


@dataclass(frozen=True, slots=True)
class PublishedQuality:
    """One model's published values by quant label."""

    metric: Metric
    model: str
    families: tuple[str, ...]  # the architecture names such a file may carry
    parameters: float
    source: str
    values: Mapping[str, float]


_LLAMA_CPP = (
    "llama.cpp b11434 tools/perplexity/README.md, wikitext-2, importance matrix where published"
)


def _published(
    metric: Metric, model: str, families: str, billions: float, source: str, values: str
) -> PublishedQuality:
    pairs = (pair.split("=") for pair in values.split())
    return PublishedQuality(
        metric,
        model,
        tuple(families.split()),
        billions * 1e9,
        source,
        MappingProxyType({ALIASES.get(quant, quant): float(value) for quant, value in pairs}),
    )


PUBLISHED = (
    _published(
        Metric.PERPLEXITY,
        "Salamandra-2B-instruct",
        "salamandra llama",
        2.25,
        "robbiemu/salamandra-2b-instruct quanization_results.md, importance matrix",
        """
            BF16=0.00 Q8_0=0.02 Q6_K=0.11 Q5_K_M=0.62 Q5_K_S=0.72 Q4_K_M=3.15 Q4_K_S=3.61
            IQ4_XS=3.77 IQ4_NL=3.77 Q3_K_L=7.33 IQ3_M=9.06 Q3_K_M=9.60 IQ2_M=40.89 IQ2_S=65.08
        """,
    ),
    _published(
        Metric.PERPLEXITY,
        "Llama-2-7B",
        "llama",
        6.74,
        "llama.cpp b11434 tools/perplexity/README.md, wikitext-2, 512 tokens",
        """
            Q8_0=0.07 Q6_K=0.24 Q4_K_M=1.42 Q2_K=10.80
        """,
    ),
    _published(
        Metric.PERPLEXITY,
        "Mistral-7B",
        "mistral llama",
        7.24,
        "Artefact2, GGUF quantizations overview (2024-02-26), importance matrix",
        """
            Q6_K=-0.08 Q5_K_M=0.05 Q4_K_M=0.60 IQ4_NL=0.74 IQ4_XS=0.79 Q4_K_S=0.81 Q3_K_M=2.61
            IQ3_M=2.72 IQ3_S=3.11 Q3_K_XS=4.69 Q3_K_S=5.24 IQ3_XXS=6.07 Q2_K=11.66 IQ2_M=13.01
            Q2_K_S=17.35 IQ2_S=18.79 IQ2_XS=22.70 IQ2_XXS=34.82 IQ1_S=151.81
        """,
    ),
    _published(
        Metric.PERPLEXITY,
        "Llama-3-8B",
        "llama",
        8.03,
        _LLAMA_CPP,
        """
            F16=0.02 Q8_0=0.04 Q6_K=0.35 Q5_K_M=0.91 Q5_K_S=1.68 Q5_1=1.70 Q5_0=2.11 Q4_K_M=2.43
            Q4_K_S=2.86 IQ4_NL=3.59 IQ4_XS=3.66 Q3_K_L=7.05 Q4_1=7.24 Q4_0=7.52 Q3_K_M=8.07
            IQ3_M=10.70 IQ3_S=11.78 IQ3_XS=14.95 IQ3_XXS=19.69 Q3_K_S=22.00 IQ2_M=38.02
            Q2_K=38.77 Q2_K_S=49.62 IQ2_S=54.87 IQ2_XS=72.69 IQ2_XXS=126.13 IQ1_M=309.10
            IQ1_S=873.98
        """,
    ),
    _published(
        Metric.PERPLEXITY,
        "Llama-2-70B",
        "llama",
        68.98,
        "llama.cpp b11434 tools/perplexity/README.md (2023)",
        """
            F16=0.00 Q6_K=0.16 Q5_K_M=0.40 Q5_K_S=0.50 Q4_K_M=1.20 Q5_0=1.26 Q4_K_S=1.57
            Q4_1=2.37 Q4_0=3.61 Q3_K_L=3.80 Q3_K_M=4.72 Q3_K_S=7.89 Q2_K=8.82
        """,
    ),
    _published(
        Metric.PERPLEXITY,
        "Llama-3-70B",
        "llama",
        70.55,
        "dranger003, llama.cpp pull request 6745 (2024), importance matrix",
        """
            F16=0.00 Q8_0=0.03 Q6_K=0.47 Q5_K_M=1.23 Q5_K_S=1.89 Q4_K_M=4.83 Q4_K_S=6.15
            IQ4_NL=6.90 IQ4_XS=7.07 Q3_K_L=16.63 Q3_K_M=18.75 IQ3_M=21.53 IQ3_S=22.57
            Q3_K_S=28.95 IQ3_XS=31.45 IQ3_XXS=40.14 Q2_K=68.73 IQ2_M=72.35 Q2_K_S=91.94
            IQ2_S=95.05 IQ2_XS=103.07 IQ2_XXS=135.64 IQ1_M=201.94 IQ1_S=248.51
        """,
    ),
    _published(
        Metric.KLD,
        "Llama-2-7B",
        "llama",
        6.74,
        "llama.cpp b11434 tools/perplexity/README.md, wikitext-2, 512 tokens",
        """
            Q8_0=0.000369 Q6_K=0.002098 Q4_K_M=0.01269 Q2_K=0.1089
        """,
    ),
    _published(
        Metric.KLD,
        "Llama-3-8B",
        "llama",
        8.03,
        _LLAMA_CPP,
        """
            F16=0.000551 Q8_0=0.001355 Q6_K=0.005452 Q5_K_M=0.01076 Q5_K_S=0.01659 Q5_1=0.01804
            Q5_0=0.02224 Q4_K_M=0.02815 Q4_K_S=0.03195 IQ4_NL=0.03574 IQ4_XS=0.03633
            Q4_1=0.07168 Q4_0=0.07194 Q3_K_L=0.07308 Q3_K_M=0.08436 IQ3_M=0.1025 IQ3_S=0.1113
            IQ3_XS=0.1387 IQ3_XXS=0.1836 Q3_K_S=0.1998 IQ2_M=0.326 Q2_K=0.3322 Q2_K_S=0.4034
            IQ2_S=0.4392 IQ2_XS=0.5463 IQ2_XXS=0.812 IQ1_M=1.393 IQ1_S=2.255
        """,
    ),
    _published(
        Metric.KLD,
        "Qwen3.5-35B-A3B",
        "qwen35moe qwen",
        34.7,
        "unsloth.ai gguf-benchmarks for Qwen3.5, median of four uploaders",
        """
            UD-Q8_K_XL=0.0026 UD-Q6_K_XL=0.0041 UD-Q6_K_S=0.0065 UD-Q5_K_XL=0.0069 Q5_K_M=0.0082
            UD-Q4_K_XL=0.0137 Q4_K_M=0.0139 Q4_0=0.0142 UD-Q4_K_L=0.015 UD-Q4_K_M=0.0192
            IQ4_XS=0.02345 MXFP4_MOE_F16=0.0247 MXFP4_MOE_BF16=0.0248 MXFP4_MOE=0.0272
            UD-Q3_K_XL=0.0308 UD-Q3_K_M=0.0324 UD-IQ3_S=0.0457 UD-IQ3_XXS=0.0501 Q3_K_M=0.0585
            IQ3_S=0.0613 Q3_K_XL=0.0627 IQ3_XXS=0.0851 UD-Q2_K_XL=0.097 Q2_K_L=0.1559
            UD-IQ2_XXS=0.1846 IQ2_XXS=0.3457
        """,
    ),
)
"""Every table, as published (perplexities as their change in percent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheQuality:
    """One published measurement of a quantized KV cache. `low` and `high` differ where the source
    gives a range; `low` 0 where it gives only an upper bound."""

    model: str
    type_k: str
    type_v: str
    low: float
    high: float
    metric: Metric
    source: str


def _cache(
    family: str, model: str, types: str, low: float, high: float, metric: Metric, source: str
) -> tuple[str, CacheQuality]:
    key, value = types.split("/")
    row = CacheQuality(
        model=model, type_k=key, type_v=value, low=low, high=high, metric=metric, source=source
    )
    return family, row


_GAESSLER = "llama.cpp pull request 7412 (2024-05-20), F16 weights, wikitext-2, 512 tokens"
_LOCALBENCH = "localbench as reported by theagenttimes.com (2026), BF16 weights, 250k tokens mixed"
_HADAMARD = "ik_llama.cpp pull request 1599 (2026-04-08), Q8_0 weights"
_CLAW = "openclawradar.com (2026-04-29), Q8_0 weights, wikitext-2, 4096 tokens"
_FEED = "theneuralfeed.com, Q5_K_M weights, RTX 3090"
_KLD, _PPL = Metric.KLD, Metric.PERPLEXITY
CACHE_QUALITIES = (
    _cache("llama", "Llama-3-8B", "f16/f16", 0.000189, 0.000189, _KLD, _GAESSLER),
    _cache("llama", "Llama-3-8B", "f16/q8_0", 0.000743, 0.000743, _KLD, _GAESSLER),
    _cache("llama", "Llama-3-8B", "q8_0/f16", 0.000944, 0.000944, _KLD, _GAESSLER),
    _cache("llama", "Llama-3-8B", "q8_0/q8_0", 0.00098, 0.00098, _KLD, _GAESSLER),
    _cache("llama", "Llama-3-8B", "f16/q5_1", 0.001759, 0.001759, _KLD, _GAESSLER),
    _cache("gemma", "Gemma-4-31B", "q8_0/q8_0", 0.108, 0.108, _KLD, _LOCALBENCH),
    _cache("gemma", "Gemma-4-26B-A4B", "q8_0/q8_0", 0.377, 0.377, _KLD, _LOCALBENCH),
    _cache("gemma", "Gemma-4-26B-A4B", "q4_0/q4_0", 1.088, 1.088, _KLD, _LOCALBENCH),
    _cache("gemma", "Gemma-4-31B base", "q8_0/q8_0", 0.01, 0.01, _PPL, _HADAMARD),
    _cache("qwen", "Qwen3.6-27B / 35B-A3B", "q8_0/q8_0", 0.0, 0.04, _KLD, _LOCALBENCH),
    _cache("qwen", "Qwen3.6-27B / 35B-A3B", "q4_0/q4_0", 0.087, 0.117, _KLD, _LOCALBENCH),
    _cache("qwen", "Qwen3.6-35B-A3B", "q8_0/q8_0", 0.0016, 0.0016, _KLD, _CLAW),
    _cache("qwen", "Qwen3.6-27B", "q8_0/q8_0", -0.06, -0.06, _PPL, _FEED),
    _cache("qwen", "Qwen3.6-27B", "q4_0/q4_0", 0.21, 0.21, _PPL, _FEED),
)
"""Every measurement of a quantized cache, by the start of the architecture's name."""
