"""The weights: the tensors that are loaded, the layer they lie with, and the overhead on top.

`llama_model_base::load_tensors` (`src/llama-model.cpp`) puts input tensors on the host, a layer's
with the layer and the rest with the output; LLM_TENSOR_INFOS in `src/llama-arch.cpp` says which is
which. Draft blocks are skipped (`load_mtp` is off). The constants of the overhead were measured
with llama-cpp-python 0.3.36 (llama.cpp b11434, CPU build, x86-64 Linux, Python 3.11);
docs/accuracy.md says how.
"""

from dataclasses import dataclass

from localllm.core.memoize import memoize
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec, TensorInfo
from localllm.core.sizing.load import LoadSettings

_FIRST_LAYER = ("rope_freqs.", "rope_factors_", "per_layer_model_proj.", "per_layer_proj_norm.")
"""Tensors without a layer's name that llama.cpp puts with its first layer."""
_INPUT = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")


@memoize
def loaded_tensors(spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """Return the tensors that a load brings into memory."""
    count = spec.layers
    return tuple(t for t in spec.tensors if t.layer is None or t.layer < count)


def is_input_tensor(tensor: TensorInfo) -> bool:
    """Return True for a tensor of the input layer, which always stays on the host."""
    return is_input_name(tensor.name)


def is_input_name(name: str) -> bool:
    """Return True as `is_input_tensor`, by a tensor's name."""
    return name.startswith(_INPUT)


def layer_of(tensor: TensorInfo) -> int | None:
    """Return the layer whose device a tensor lies on; None for the input's and the output's."""
    return 0 if tensor.name.startswith(_FIRST_LAYER) else tensor.layer


def embedding_bytes(spec: ModelSpec) -> int:
    """Sum the bytes of the token embedding."""
    return sum(t.size_bytes for t in spec.tensors if t.name == "token_embd.weight")


INTERPRETER_BYTES = 38 * 2**20
"""A worker with its libraries, before a model: 24.8 MiB of its own and 22.3 MiB of files, of which
13.8 MiB are its part when only the program that started it shares them (2026-11-21). Where several
workers run they share more; benchmarks/memory.py measures whole loads."""

BYTES_PER_TOKEN_BPE = 338
BYTES_PER_TOKEN_SPM = 164
"""The vocabulary's tables (`llama_vocab`), per token."""

REPACKED_X86_AVX2 = frozenset({GgmlType.Q4_0, GgmlType.Q4_K, GgmlType.IQ4_NL, GgmlType.MXFP4})
"""Types that the CPU repacks at load (`ggml_repack_get_optimal_repack_type` in
`ggml/src/ggml-cpu/repack.cpp`) on x86-64 with AVX2; AVX-512 adds Q2_K, ARM differs."""

_REPACK_ROWS = 8  # ne[1] must be a multiple


def vocabulary_bytes(spec: ModelSpec) -> int:
    """Estimate the bytes of the vocabulary's tables, by the kind of tokenizer."""
    kind = spec.metadata.get("tokenizer.ggml.model")
    per_token = BYTES_PER_TOKEN_SPM if kind == "llama" else BYTES_PER_TOKEN_BPE
    return spec.vocabulary * per_token


def is_repacked(tensor: TensorInfo, types: frozenset[GgmlType]) -> bool:
    """Return True when the CPU computes with a repacked copy of this tensor."""
    return (
        tensor.type in types
        and len(tensor.shape) >= 2
        and tensor.shape[1] % _REPACK_ROWS == 0
        and not is_input_tensor(tensor)
    )


def repacked_bytes(
    spec: ModelSpec, settings: LoadSettings, types: frozenset[GgmlType] = REPACKED_X86_AVX2
) -> int:
    """Sum the bytes of the private, repacked copies beside the mapped file.

    Without mmap the repacked tensors are the only copy. A tied embedding is copied too: it is the
    output matrix as well, whatever the load mode.
    """
    copies = (
        sum(t.size_bytes for t in loaded_tensors(spec) if is_repacked(t, types))
        if settings.mmap
        else 0
    )
    return copies + _tied_copy_bytes(spec, types)


def _tied_copy_bytes(spec: ModelSpec, types: frozenset[GgmlType]) -> int:
    if not spec.tied:
        return 0
    return sum(
        t.size_bytes
        for t in spec.tensors
        if t.name == "token_embd.weight" and t.type in types and t.shape[1] % _REPACK_ROWS == 0
    )


def overhead_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Sum interpreter, vocabulary and repacked copies of a load whose weights lie on the host."""
    return INTERPRETER_BYTES + vocabulary_bytes(spec) + repacked_bytes(spec, settings)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The bytes of one layer's weights: of all tensors, of the largest, and of those that the CPU
    repacks; routed experts apart."""

    dense_bytes: int = 0
    largest_dense: int = 0
    repacked_dense: int = 0
    expert_bytes: int = 0
    largest_expert: int = 0
    repacked_expert: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsByLayer:
    """The weights of the layers that every token passes, of the output, and of the input."""

    input_bytes: int
    layers: tuple[LayerWeights, ...]
    output: LayerWeights


@memoize
def weights_by_layer(spec: ModelSpec) -> WeightsByLayer:
    """Sum the tensors of a model by the layer they lie with."""
    layers, output = [[0] * 6 for _ in range(spec.layers)], [0] * 6
    input_bytes = 0
    for tensor in loaded_tensors(spec):
        layer, size = layer_of(tensor), tensor.size_bytes
        if layer is None and is_input_tensor(tensor):
            input_bytes += size
            continue
        sums = output if layer is None else layers[layer]
        first = 3 if layer is not None and tensor.expert else 0  # of the fields of LayerWeights
        sums[first] += size
        sums[first + 1] = max(sums[first + 1], size)
        if is_repacked(tensor, REPACKED_X86_AVX2):
            sums[first + 2] += size
    return WeightsByLayer(
        input_bytes=input_bytes,
        layers=tuple(LayerWeights(*sums) for sums in layers),
        output=LayerWeights(*output),
    )
