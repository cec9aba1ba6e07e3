"""The quality that a quant costs: published measurements, and what follows between them.

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

from localllm.core.quality.published import (
    CACHE_QUALITIES,
    PUBLISHED,
    CacheQuality,
    Metric,
    PublishedQuality,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The published loss of a quant. `source` names the models and publications; `interpolated` is
    true unless this very model was measured."""

    metric: Metric
    value: float
    source: str
    interpolated: bool


_Classes = list[list[PublishedQuality]]
"""Models of about one size together, the smallest first."""

_SAME_SIZE = 0.03  # a measured model's parameters are known to this; other models differ by more
_SIZE_CLASS = math.log(1.5)  # models closer than this are averaged as one size


def of(
    quant: str, parameters: int, family: str | None = None, *, metric: Metric = Metric.PERPLEXITY
) -> Quality | None:
    """Return the published loss of a quant for a model of this size.

    `family` is the architecture ("llama", "qwen3moe"); with it, a model that was measured itself
    gives its own value. Otherwise the averages of the size classes on either side are
    interpolated in the logarithm of the parameters, and beyond the smallest and largest class
    (2B, 70B) the nearest is taken as it is. None when nobody published that quant.
    """
    loss = _loss(quant, parameters, family, metric)
    if loss is None:
        return None
    return Quality(
        metric=metric,
        value=loss.value,
        source="; ".join(f"{row.model}: {row.source}" for row in loss.rows),
        interpolated=loss.interpolated,
    )


def change_percent(quant: str, parameters: int, family: str | None = None) -> float | None:
    """The perplexity change alone, as `of` gives it."""
    loss = _loss(quant, parameters, family, Metric.PERPLEXITY)
    return None if loss is None else loss.value


@dataclass(frozen=True, slots=True)
class _Loss:
    value: float
    rows: list[PublishedQuality]
    interpolated: bool


def _loss(quant: str, parameters: int, family: str | None, metric: Metric) -> _Loss | None:
    if parameters < 1:
        raise ValueError(f"parameters must be at least 1, not {parameters}")
    rows = _measured(quant, metric)
    if not rows:
        return None
    own = _of_this_model(rows, parameters, family)
    if own is not None:
        return _Loss(own.values[quant], [own], interpolated=False)
    return _interpolated(quant, parameters, metric)


@cache
def _measured(quant: str, metric: Metric) -> list[PublishedQuality]:
    return [row for row in PUBLISHED if row.metric is metric and quant in row.values]


@cache
def _size_classes(quant: str, metric: Metric) -> tuple[_Classes, list[float], list[float]]:
    """Group those who measured a quant by size; with the sizes (logarithms of parameters) and the
    mean losses."""
    classes = _classes(_measured(quant, metric))
    sizes = [_centre(group) for group in classes]
    return classes, sizes, [_mean(group, quant) for group in classes]


def _of_this_model(
    rows: list[PublishedQuality], parameters: int, family: str | None
) -> PublishedQuality | None:
    if family is None:
        return None
    near = [
        (abs(parameters / row.parameters - 1), row)
        for row in rows
        if family.lower() in row.families
    ]
    distance, row = min(near, key=lambda item: item[0], default=(math.inf, None))
    return row if distance <= _SAME_SIZE else None


def _interpolated(quant: str, parameters: int, metric: Metric) -> _Loss:
    at = math.log(parameters)
    classes, sizes, means = _size_classes(quant, metric)
    above = next((i for i, size in enumerate(sizes) if size >= at), len(sizes) - 1)
    below = above if sizes[above] <= at else max(0, above - 1)
    gap = sizes[above] - sizes[below]
    weight = (at - sizes[below]) / gap if gap > 0 else 0.0
    change = (means[above] - means[below]) * min(1.0, max(0.0, weight))
    used = classes[below] if below == above else [*classes[below], *classes[above]]
    return _Loss(means[below] + change, used, interpolated=True)


def _classes(rows: list[PublishedQuality]) -> _Classes:
    """Group models of about one size, smallest first."""
    groups: _Classes = []
    for row in sorted(rows, key=lambda r: r.parameters):
        if groups and math.log(row.parameters / groups[-1][0].parameters) < _SIZE_CLASS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _centre(group: list[PublishedQuality]) -> float:
    return math.fsum(math.log(row.parameters) for row in group) / len(group)


def _mean(group: list[PublishedQuality], quant: str) -> float:
    return math.fsum(row.values[quant] for row in group) / len(group)


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
"""The curve is looked at only below a fifth more perplexity: beyond, no quant is of use."""


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


def cache_quality(family: str, type_k: str, type_v: str) -> tuple[CacheQuality, ...]:
    """Find the measurements of a KV cache type for a family ("gemma3" finds Gemma's).

    All of them are returned, since they disagree: a mix of long texts shows a large loss for
    Gemma 4 where perplexity on Wikipedia shows none. Empty: nobody published one; then f16 is
    the safe choice.
    """
    return tuple(
        row
        for name, row in CACHE_QUALITIES
        if family.lower().startswith(name) and (row.type_k, row.type_v) == (type_k, type_v)
    )


LOSSLESS_CACHES = frozenset({"f32", "f16", "bf16"})
"""Types of 16 bits or more: what every measurement compares with."""


def cache_loss(family: str, type_k: str, type_v: str) -> str | None:
    """Describe the published loss of a KV cache type in one sentence; None for a lossless one."""
    if {type_k, type_v} <= LOSSLESS_CACHES:
        return None
    what = f"{type_k} keys and {type_v} values" if type_k != type_v else f"A {type_k} KV cache"
    rows = cache_quality(family, type_k, type_v)
    if not rows:
        return (
            f"{what} can change answers; what it costs {family} models nobody has published. "
            "f16 is the safe choice."
        )
    return f"{what} can change answers; published: {'; '.join(map(describe_cache_quality, rows))}."


def describe_cache_quality(row: CacheQuality) -> str:
    """Describe one measurement in words, without its source."""
    kind, unit = (
        ("mean KL divergence", "") if row.metric is Metric.KLD else ("perplexity change", " %")
    )
    if row.low == row.high:
        value = f"{row.high:.3g}"
    else:
        value = f"at most {row.high:.3g}" if row.low == 0 else f"{row.low:.3g} to {row.high:.3g}"
    return f"{kind} {value}{unit} ({row.model})"
