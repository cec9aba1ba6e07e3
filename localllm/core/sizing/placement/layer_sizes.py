"""A model as layers that llama.cpp assigns to devices: the blocks of the file, and the output.

Sums over ranges of layers come from running totals, so that a hundred arrangements cost little.
"""

from collections.abc import Iterable
from itertools import accumulate

from localllm.core.model.quants import GgmlType, row_bytes
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint import Footprint, LayerKind
from localllm.core.sizing.footprint.cache import cells, flash, ubatch
from localllm.core.sizing.footprint.weights import LayerWeights, vocabulary_bytes, weights_by_layer
from localllm.core.sizing.load import LoadSettings

_FLOAT, _HALF = 4, 2


class LayerSizes:
    """The bytes of each layer under one set of settings.

    `count` layers: every block of the file (draft blocks are empty and count) and the output, as
    `n_gpu_layers` counts them. In methods, `first` is the first layer on a GPU and `cpu_moe` the
    number of layers whose routed experts stay on the host.
    """

    def __init__(self, spec: ModelSpec, settings: LoadSettings) -> None:
        self.settings = settings
        self.needed: Footprint = footprint.of(spec, settings)
        layers = footprint.layers(spec, settings)
        blocks = [layer for layer in layers if layer.kind is LayerKind.REPEATING]
        self.blocks = spec.blocks
        self.count = spec.blocks + 1
        self.input_bytes = sum(p.weights_bytes for p in layers if p.kind is LayerKind.INPUT)
        self.tied_bytes = layers[-1].tied_bytes
        self.vocabulary_bytes = vocabulary_bytes(spec)
        self.inputs_bytes = _inputs_bytes(spec, settings)
        empty = [0] * (spec.blocks - len(blocks))
        weights = [p.weights_bytes for p in blocks] + empty + [layers[-1].weights_bytes]
        self.weights = _running(weights)
        self.experts = _running([p.expert_bytes for p in blocks] + empty + [0])
        cache = [p.kv_bytes + p.recurrent_bytes for p in blocks] + empty + [0]
        self.cache = _running(cache)
        self.has_experts = self.experts[-1] > 0
        self._read_weights(spec)
        self.largest_cache = [
            _largest_cache(spec, settings, p.kv_bytes, p.recurrent_bytes, i)
            for i, p in enumerate(blocks)
        ] + [*empty, 0]
        self.largest_node = min(_largest_node(spec, settings), self.needed.compute_bytes)

    def _read_weights(self, spec: ModelSpec) -> None:
        """Read each layer's largest tensors and the bytes that the CPU would repack of it."""
        weights = weights_by_layer(spec)
        drafts = [LayerWeights()] * (spec.blocks - len(weights.layers))
        layers = [*weights.layers, *drafts, weights.output]
        self.largest = [layer.largest_dense for layer in layers]
        self.largest_expert = [layer.largest_expert for layer in layers]
        # Without mmap the repacked tensors are the only copy.
        mapped = self.settings.mmap
        self.repacked = _running(layer.repacked_dense if mapped else 0 for layer in layers)
        self.repacked_experts = _running(layer.repacked_expert if mapped else 0 for layer in layers)

    def gpu_weights(self, start: int, end: int, cpu_moe: int) -> int:
        """Sum the weights of a GPU's layers, without the experts that stay on the host."""
        experts = self.experts[max(end, cpu_moe)] - self.experts[max(start, cpu_moe)]
        return self.weights[end] - self.weights[start] + experts

    def gpu_cache(self, start: int, end: int) -> int:
        """Sum the cache of a GPU's layers."""
        return self.cache[end] - self.cache[start] if self.settings.kv_offload else 0

    def host_weights(self, first: int, cpu_moe: int) -> int:
        """Sum the weights that stay on the host."""
        return self.input_bytes + self.weights[first] + self.experts[max(first, cpu_moe)]

    def host_cache(self, first: int) -> int:
        """Sum the cache that stays on the host."""
        return self.cache[first] if self.settings.kv_offload else self.cache[-1]

    def host_repacked(self, first: int, cpu_moe: int) -> int:
        """Sum the repacked copies of the weights that stay on the host."""
        return self.repacked[first] + self.repacked_experts[max(first, cpu_moe)]

    def largest_gpu_tensor(self, start: int, end: int, cpu_moe: int) -> int:
        """Size the largest tensor that a GPU with these layers holds in one piece."""
        if start == end:
            return 0
        tied = self.tied_bytes if end == self.count else 0
        cache = max(self.largest_cache[start:end]) if self.settings.kv_offload else 0
        experts = max(self.largest_expert[max(start, cpu_moe) : end], default=0)
        return max(*self.largest[start:end], experts, cache, tied, self.largest_node)

    def largest_host_tensor(self, first: int, cpu_moe: int) -> int:
        """Size the largest layer tensor on the host: a GPU copies it for each long prompt."""
        experts = self.largest_expert[: max(first, cpu_moe)]
        return max([*self.largest[:first], *experts], default=0)


def _running(values: Iterable[int]) -> list[int]:
    return list(accumulate(values, initial=0))


def _inputs_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Size the graph's inputs: embeddings of a micro-batch and the mask."""
    tokens = ubatch(settings)
    return tokens * (spec.embedding * _FLOAT + cells(spec, settings).full * _HALF)


def _largest_cache(
    spec: ModelSpec, settings: LoadSettings, kv: int, recurrent: int, layer: int
) -> int:
    """Size the larger of a layer's keys and values, which are tensors of their own."""
    if spec.mla or not kv:
        return max(kv, recurrent)
    heads = spec.head_count_kv(layer)
    key = row_bytes(GgmlType[settings.kv_type_k.name], spec.key_length(layer) * heads)
    value = row_bytes(GgmlType[settings.kv_type_v.name], spec.value_length(layer) * heads)
    return max(-(-kv * max(key, value) // max(1, key + value)), recurrent)


def _largest_node(spec: ModelSpec, settings: LoadSettings) -> int:
    """Size the largest temporary: the attention matrix without flash attention, else the mask or
    the widest of the feed-forward part (`ggml_gallocr` splits a buffer only between tensors)."""
    tokens, span = ubatch(settings), cells(spec, settings).full
    layers = range(spec.layers)
    if flash(spec, settings):
        attention = tokens * span * _HALF
    else:
        heads = max((spec.head_count(i) for i in layers), default=0)
        attention = tokens * span * heads * _FLOAT
    inner = max((spec.feed_forward(i) for i in layers), default=0)
    return max(attention, tokens * inner * _FLOAT)
