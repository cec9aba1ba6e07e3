"""The check that llama.cpp's graph fits its hash table: where it does not, the process aborts.

`graph_max_nodes` (`src/llama-context.cpp`, b11434) reserves 8 nodes for each tensor of the model,
and the scheduler keeps nodes, weights, caches and inputs together in a hash table of that size
(`ggml_backend_sched_new` says itself that it "needs to be size*2 to account for leafs"). A model
whose weights are fused into few tensors has more than 8 of them for each: Phi-3 and Phi-4, once a
quantized cache adds the rotations of queries, keys and values (`attn_rot_k`, `attn_rot_v`).
"""

from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import LoadSettings
from localllm.errors import UsageError

_NODES_A_TENSOR, _LEAST_NODES = 8, 1024
_TABLE_SIZES = (1031, 2053, 4099, 8209, 16411)  # `ggml_hash_size`: primes after powers of two
_ROTATED_HEAD = 64  # heads of a multiple of this are rotated
_ROTATION_NODES = 6  # queries and keys; values and the result
_STREAM_NODES = 2  # keys and values of all sequences as one tensor
_INPUTS = 8


def check_graph(spec: ModelSpec, settings: LoadSettings, *, flash: bool) -> None:
    """Raise UsageError for a load whose graph is larger than llama.cpp's table for it.

    `flash`: attention is computed without its matrix.
    """
    if not fits_graph(spec, settings, flash=flash):
        raise UsageError(
            f"llama.cpp would abort: it has room for {_capacity(len(spec.tensors))} nodes and "
            f"tensors of a {spec.architecture} model of {spec.layers} layers, and a cache of "
            f"{settings.kv_type_k} keys and {settings.kv_type_v} values makes about "
            f"{_entries(spec, settings, flash=flash)}. Use f16 for the cache"
        )


def fits_graph(spec: ModelSpec, settings: LoadSettings, *, flash: bool) -> bool:
    """Return True when this load's graph fits its table; as `check_graph`."""
    return _entries(spec, settings, flash=flash) <= _capacity(len(spec.tensors))


def _entries(spec: ModelSpec, settings: LoadSettings, *, flash: bool) -> int:
    """Nodes and tensors; 0 for an architecture whose nodes were not counted. Of those compared
    (tests/core/forge_*.py) all but Phi-3 stay below 7.6 nodes a tensor, so that no table overflows.
    """
    nodes = spec.arch.graph_nodes
    if nodes is None:
        return 0
    layer = nodes.layer if flash else nodes.layer_without_flash
    layer += _added_nodes(spec, settings)
    return nodes.outside + layer * spec.layers + len(spec.tensors) + 2 * spec.layers + _INPUTS


def _added_nodes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Count the nodes that the cache's types and streams add to each layer."""
    keys, values = settings.kv_type_k.name, settings.kv_type_v.name
    rotations = (
        _quantized(keys) and spec.key_length(0) % _ROTATED_HEAD == 0,
        _quantized(values) and spec.value_length(0) % _ROTATED_HEAD == 0,
    )
    split = not settings.kv_unified and settings.parallel > 1
    return sum(rotations) * _ROTATION_NODES + split * _STREAM_NODES


def _quantized(name: str) -> bool:
    return BLOCKS[GgmlType[name]].elements > 1


def _capacity(tensors: int) -> int:
    needed = max(_LEAST_NODES, _NODES_A_TENSOR * tensors)
    return next((size for size in _TABLE_SIZES if size >= needed), needed)
