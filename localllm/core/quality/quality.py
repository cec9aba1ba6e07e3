"""What a quant costs in quality: published measurements, and what they say between them.

Nothing here is a score of ours. Each number is a perplexity change or a KL divergence that
somebody published, with its model and source; for a model that nobody measured, the values of the
nearest measured sizes are averaged and interpolated, and the answer says so. Models of one size
differ by more than neighbouring quants do (Q4_K_M: 0.6 % for Mistral 7B, 2.4 % for Llama 3 8B), so
an interpolated value is a guide to the shape of the curve, not a promise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType

from localllm.core.quality.published import Metric as Metric
from localllm.core.quality.published import Published
from localllm.core.quality.published import published as published


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What is lost. `source` names the models and publications; `interpolated` is true unless
    this very model was measured."""

    metric: Metric
    value: float
    source: str
    interpolated: bool


_Classes = list[list[Published]]
"""Models of about one size together, the smallest first."""

_SAME_SIZE = 0.03  # a measured model's parameters are known to this; other models differ by more
_SIZE_CLASS = math.log(1.5)  # models closer than this are averaged as one size


def quality(
    quant: str, parameters: int, family: str | None = None, *, metric: Metric = Metric.PERPLEXITY
) -> Quality | None:
    """Say what a quant is published to cost a model of this size.

    `family` is the architecture ("llama", "qwen3moe"); with it, a model that was measured itself
    gives its own value. Otherwise the averages of the size classes on either side are
    interpolated in the logarithm of the parameters, and beyond the smallest and largest class
    (2B, 70B) the nearest is taken as it is. None when nobody published that quant.
    """
    found = _found(quant, parameters, family, metric)
    if found is None:
        return None
    return Quality(
        metric=metric,
        value=found.value,
        source="; ".join(f"{row.model}: {row.source}" for row in found.rows),
        interpolated=found.interpolated,
    )


def change_percent(quant: str, parameters: int, family: str | None = None) -> float | None:
    """The perplexity change alone, as `quality` gives it."""
    found = _found(quant, parameters, family, Metric.PERPLEXITY)
    return None if found is None else found.value


@dataclass(frozen=True, slots=True)
class _Found:
    value: float
    rows: list[Published]
    interpolated: bool


def _found(quant: str, parameters: int, family: str | None, metric: Metric) -> _Found | None:
    if parameters < 1:
        raise ValueError(f"parameters must be at least 1, not {parameters}")
    rows = _measured(quant, metric)
    if not rows:
        return None
    own = _own(rows, parameters, family)
    if own is not None:
        return _Found(own.values[quant], [own], interpolated=False)
    return _between(quant, parameters, metric)


@cache
def _measured(quant: str, metric: Metric) -> list[Published]:
    return [row for row in published() if row.metric is metric and quant in row.values]


@cache
def _size_classes(quant: str, metric: Metric) -> tuple[_Classes, list[float], list[float]]:
    """Who measured a quant, by size; the sizes (logarithms of parameters) and the mean losses."""
    classes = _classes(_measured(quant, metric))
    sizes = [_centre(group) for group in classes]
    return classes, sizes, [_mean(group, quant) for group in classes]


def _own(rows: list[Published], parameters: int, family: str | None) -> Published | None:
    if family is None:
        return None
    near = [
        (abs(parameters / row.parameters - 1), row)
        for row in rows
        if family.lower() in row.families
    ]
    distance, row = min(near, key=lambda item: item[0], default=(math.inf, None))
    return row if distance <= _SAME_SIZE else None


def _between(quant: str, parameters: int, metric: Metric) -> _Found:
    at = math.log(parameters)
    classes, sizes, means = _size_classes(quant, metric)
    above = next((i for i, size in enumerate(sizes) if size >= at), len(sizes) - 1)
    below = above if sizes[above] <= at else max(0, above - 1)
    gap = sizes[above] - sizes[below]
    weight = (at - sizes[below]) / gap if gap > 0 else 0.0
    change = (means[above] - means[below]) * min(1.0, max(0.0, weight))
    used = classes[below] if below == above else [*classes[below], *classes[above]]
    return _Found(means[below] + change, used, interpolated=True)


def _classes(rows: list[Published]) -> _Classes:
    """Group models of about one size, smallest first."""
    groups: _Classes = []
    for row in sorted(rows, key=lambda r: r.parameters):
        if groups and math.log(row.parameters / groups[-1][0].parameters) < _SIZE_CLASS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _centre(group: list[Published]) -> float:
    return math.fsum(math.log(row.parameters) for row in group) / len(group)


def _mean(group: list[Published], quant: str) -> float:
    return math.fsum(row.values[quant] for row in group) / len(group)


# the knee

# Bits per weight of Llama 3.1 8B in each mix: llama.cpp b11434, tools/quantize/README.md.
BITS_PER_WEIGHT: Mapping[str, float] = MappingProxyType(
    {
        "Q8_0": 8.5008, "Q6_K": 6.5633, "Q5_K_M": 5.7036, "Q5_K_S": 5.5704, "Q4_K_M": 4.8944,
        "IQ4_NL": 4.6818, "Q4_K_S": 4.6672, "IQ4_XS": 4.4597, "Q3_K_L": 4.2979, "Q3_K_M": 3.996,
        "IQ3_M": 3.7628, "IQ3_S": 3.6606, "Q3_K_S": 3.6429, "IQ3_XS": 3.4977, "IQ3_XXS": 3.2548,
        "Q2_K": 3.1593, "Q2_K_S": 2.9697, "IQ2_M": 2.9294, "IQ2_S": 2.7403, "IQ2_XS": 2.5882,
        "IQ2_XXS": 2.3824, "IQ1_M": 2.146, "IQ1_S": 2.0042,
    }
)  # fmt: skip
USABLE_PERCENT = 20.0
"""The curve is looked at only where it is of use: below a fifth more perplexity."""


@lru_cache(maxsize=1024)
def knee(parameters: int, family: str | None = None) -> str | None:
    """Name the quant after which more bits buy little: the point of the published curve
    (perplexity change over bits per weight) farthest from the straight line between its ends
    (Kneedle, Satopaa et al., 2011), over the quants that change perplexity by less than 20 %."""
    curve = _curve(parameters, family)
    if len(curve) < 3:
        return curve[-1][2] if curve else None
    (x0, y0, _), (x1, y1, _) = curve[0], curve[-1]
    distances = [((y0 - y) / (y0 - y1) - (x - x0) / (x1 - x0), quant) for x, y, quant in curve]
    return max(distances, key=lambda item: item[0])[1]


def _curve(parameters: int, family: str | None) -> list[tuple[float, float, str]]:
    """Bits and loss of the quants that no smaller one beats, fewest bits first."""
    points = []
    for quant, bits in BITS_PER_WEIGHT.items():
        change = change_percent(quant, parameters, family)
        if change is not None and change < USABLE_PERCENT:
            points.append((bits, change, quant))
    best: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


# the cache


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


def cache_quality(family: str, type_k: str, type_v: str) -> tuple[CacheQuality, ...]:
    """Find what a KV cache type was published to cost a family ("gemma3" finds Gemma's).

    All measurements are given, since they disagree: a mix of long texts shows a large loss for
    Gemma 4 where perplexity on Wikipedia shows none. Empty: nobody published one; then f16 is
    the safe choice.
    """
    return tuple(
        row
        for name, row in _CACHE
        if family.lower().startswith(name) and (row.type_k, row.type_v) == (type_k, type_v)
    )


LOSSLESS_CACHES = frozenset({"f32", "f16", "bf16"})
"""Types of 16 bits or more: what every measurement compares with."""


def cache_loss(family: str, type_k: str, type_v: str) -> str | None:
    """Say in one sentence what a KV cache type is published to cost; None when it costs nothing."""
    if {type_k, type_v} <= LOSSLESS_CACHES:
        return None
    what = f"{type_k} keys and {type_v} values" if type_k != type_v else f"A {type_k} KV cache"
    rows = cache_quality(family, type_k, type_v)
    if not rows:
        return (
            f"{what} can change answers; what it costs {family} models nobody has published. "
            "f16 is the safe choice."
        )
    return f"{what} can change answers; published: {'; '.join(map(cache_words, rows))}."


def cache_words(row: CacheQuality) -> str:
    """One measurement in words, without its source."""
    kind, unit = (
        ("mean KL divergence", "") if row.metric is Metric.KLD else ("perplexity change", " %")
    )
    if row.low == row.high:
        value = f"{row.high:.3g}"
    else:
        value = f"at most {row.high:.3g}" if row.low == 0 else f"{row.low:.3g} to {row.high:.3g}"
    return f"{kind} {value}{unit} ({row.model})"


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
_CACHE = (
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
