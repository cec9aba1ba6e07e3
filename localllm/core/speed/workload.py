"""The work of one token, before any device is known: bytes to read, operations to do."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from localllm.core.memoize import memoize
from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import recurrent_bytes
from localllm.core.sizing.footprint.weights import is_input_tensor, loaded_tensors
from localllm.core.sizing.load import KvType, LoadSettings, Speculate


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRead:
    """Weights of one element type that a token is multiplied with.

    `elements` counts what one token reads (of routed experts, those it is sent to);
    `elements_loaded` all of them, which a long prompt reads. `last_only`: the output matrix,
    which of a prompt only the last token is multiplied with.
    """

    type: GgmlType
    elements: int
    elements_loaded: int
    last_only: bool = False

    @property
    def size_bytes(self) -> float:
        """The bytes that one token reads."""
        return self.elements * bytes_per_element(self.type)

    @property
    def loaded_bytes(self) -> float:
        """The bytes that a batch reads which touches every expert."""
        return self.elements_loaded * bytes_per_element(self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionReads:
    """The cost of each cell of the cache for one token, over all layers of the same window.

    `macs_per_cell` counts multiply-adds over all query heads; `window` is how many cells back
    they look (None: all of them).
    """

    bytes_per_cell: float
    elements_per_cell: int
    macs_per_cell: int
    window: int | None = None

    def cells(self, depth: int) -> int:
        """Count the cells that a token at this depth attends to."""
        return depth if self.window is None else min(depth, self.window)

    def cells_of_prompt(self, tokens: int) -> int:
        """Count the cells that all tokens of a prompt attend to together."""
        reach = tokens if self.window is None else min(tokens, self.window)
        return reach * (reach + 1) // 2 + (tokens - reach) * reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of one device for one token.

    `layers` counts those that have work here, whole or in part; `state_bytes` what recurrent
    layers read and write.
    """

    layers: int
    weights: tuple[WeightRead, ...]
    attention: tuple[AttentionReads, ...] = ()
    state_bytes: int = 0

    @property
    def weight_bytes(self) -> float:
        """The bytes of weights that one token reads."""
        return sum(read.size_bytes for read in self.weights)

    @property
    def is_routed(self) -> bool:
        """True when a token reads only some of the experts."""
        return any(read.elements < read.elements_loaded for read in self.weights)

    def kv_bytes(self, depth: int) -> float:
        """Sum the keys and values that a token reads with `depth` tokens before it, in bytes."""
        return sum(part.bytes_per_cell * part.cells(depth) for part in self.attention)


def bytes_per_element(kind: GgmlType) -> float:
    block = BLOCKS[kind]
    return block.size_bytes / block.elements


def _everything(layer: int | None, expert: bool) -> bool:
    return True


def workload_of(
    spec: ModelSpec,
    settings: LoadSettings | None = None,
    *,
    holds: Callable[[int | None, bool], bool] = _everything,
    cache_layers: Callable[[int], bool] | None = None,
) -> Workload:
    """Sum the work of one token on the device that holds the tensors for which `holds` is true.

    `holds` is called for each layer (None: the tensors of none), and for its routed experts apart.

    Input embeddings are looked up, not multiplied, and count as nothing, except a tied one, which
    is the output matrix too. The keys and values of a layer are read where `cache_layers` says
    (default: where any tensor of the layer is that is not a routed expert). An architecture whose
    cache is unknown counts no cache. Raises GgufError for a header that lacks what every model
    has.
    """
    settings = settings or LoadSettings()
    parts = {part: reads for part, reads in _reads(spec).items() if holds(*part)}
    attending = {layer for layer, expert in parts if layer is not None and not expert}
    here = cache_layers or attending.__contains__
    return Workload(
        layers=len({layer for layer, _ in parts if layer is not None}),
        weights=_summed(parts.values()),
        attention=_attention(spec, settings, [i for i in range(spec.layers) if here(i)]),
        state_bytes=_state_bytes(spec, settings, here),
    )


def cache_workload(spec: ModelSpec) -> Workload:
    """Return the work of one token in cache and states alone. The header's keys are enough: it may
    hold no tensors."""
    settings = LoadSettings()
    return Workload(
        layers=0,
        weights=(),
        attention=_attention(spec, settings, range(spec.layers)),
        state_bytes=_state_bytes(spec, settings, lambda layer: True),
    )


_Reads = Mapping[tuple[GgmlType, bool], tuple[int, int]]
"""By (type, is the output matrix): elements that one token reads, and all elements."""


@memoize
def _reads(spec: ModelSpec) -> Mapping[tuple[int | None, bool], _Reads]:
    """Sum the reads by (layer, is a routed expert)."""
    parts: dict[tuple[int | None, bool], dict[tuple[GgmlType, bool], tuple[int, int]]] = {}
    is_tied, experts = spec.tied, spec.experts
    chosen = min(spec.active_experts, experts)
    for tensor in loaded_tensors(spec):
        expert, elements = tensor.expert, tensor.elements
        reads = parts.setdefault((tensor.layer, expert), {})
        tied = is_tied and tensor.name == "token_embd.weight"
        if is_input_tensor(tensor) and not tied:
            continue
        key = tensor.type, tied or tensor.name.startswith("output.")
        active, every = reads.get(key, (0, 0))
        used = elements * chosen // experts if experts and expert else elements
        reads[key] = active + used, every + elements
    return parts


def _summed(parts: Iterable[_Reads]) -> tuple[WeightRead, ...]:
    sums: dict[tuple[GgmlType, bool], list[int]] = defaultdict(lambda: [0, 0])
    for reads in parts:
        for key, (active, every) in reads.items():
            total = sums[key]
            total[0] += active
            total[1] += every
    return tuple(
        WeightRead(type=kind, elements=active, elements_loaded=every, last_only=last)
        for (kind, last), (active, every) in sorted(sums.items())
    )


def _attention(
    spec: ModelSpec, settings: LoadSettings, layers: Iterable[int]
) -> tuple[AttentionReads, ...]:
    sums: dict[int | None, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for layer in layers:
        if not spec.attends(layer):
            continue
        window = spec.window if spec.slides(layer) else None
        for i, cost in enumerate(_cell(spec, settings, layer)):
            sums[window][i] += cost
    return tuple(
        AttentionReads(
            bytes_per_cell=size, elements_per_cell=int(elements), macs_per_cell=int(macs), window=w
        )
        for w, (size, elements, macs) in sorted(sums.items(), key=lambda item: item[0] or 0)
    )


def _cell(spec: ModelSpec, settings: LoadSettings, layer: int) -> tuple[float, int, int]:
    """Return bytes, elements and multiply-adds of one cell of one layer. MLA stores one latent
    vector as key and value, so its values are read again but not stored."""
    heads, kv_heads = spec.head_count(layer), spec.head_count_kv(layer)
    key, value = spec.key_length(layer), spec.value_length(layer)
    stored_k, stored_v = key * kv_heads, 0 if spec.mla else value * kv_heads
    size = stored_k * _cache_bytes(settings.kv_type_k) + stored_v * _cache_bytes(settings.kv_type_v)
    return size, stored_k + stored_v, heads * (key + value)


@cache
def _cache_bytes(kind: KvType) -> float:
    return bytes_per_element(GgmlType[kind.name])


def _state_bytes(spec: ModelSpec, settings: LoadSettings, here: Callable[[int], bool]) -> int:
    """Sum the states, read and written once a token, of the one sequence that decodes."""
    one = recurrent_bytes(spec, replace(settings, parallel=1, speculate=Speculate.OFF))
    return 2 * sum(size for layer, size in enumerate(one) if here(layer))
