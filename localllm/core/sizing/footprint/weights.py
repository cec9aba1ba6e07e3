"""The weights: which tensors are loaded, where they lie, and the overhead on top of them.

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
def loaded(spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """The tensors that a load brings into memory."""
    count = spec.layers
    return tuple(t for t in spec.tensors if t.layer is None or t.layer < count)


def on_input(tensor: TensorInfo) -> bool:
    """Whether it belongs to the input layer, which always stays on the host."""
    return is_input(tensor.name)


def is_input(name: str) -> bool:
    """As `on_input`, by a tensor's name."""
    return name.startswith(_INPUT)


def home(tensor: TensorInfo) -> int | None:
    """The layer whose device it lies on; None for the input's and the output's."""
    return 0 if tensor.name.startswith(_FIRST_LAYER) else tensor.layer


def embedding_bytes(spec: ModelSpec) -> int:
    """Bytes of the token embedding."""
    return sum(t.size_bytes for t in spec.tensors if t.name == "token_embd.weight")


INTERPRETER_BYTES = 38 * 2**20
"""A worker with its libraries, before a model: 24.8 MiB of its own and 22.3 MiB of files, of which
13.8 MiB are its part when only the program that started it shares them (2026-11-21). Where several
workers run they share more; benchmarks/memory.py measures whole loads."""

BYTES_PER_TOKEN_BPE = 338
BYTES_PER_TOKEN_SPM = 164
"""The vocabulary's tables (`llama_vocab`), per token."""

REPACKED_X86_AVX2 = frozenset({GgmlType.Q4_0, GgmlType.Q4_K, GgmlType.IQ4_NL, GgmlType.MXFP4})
"""Types that the CPU rearranges at load (`ggml_repack_get_optimal_repack_type` in
`ggml/src/ggml-cpu/repack.cpp`) on x86-64 with AVX2; AVX-512 adds Q2_K, ARM differs."""

_REPACK_ROWS = 8  # ne[1] must be a multiple


def vocabulary_bytes(spec: ModelSpec) -> int:
    kind = spec.metadata.get("tokenizer.ggml.model")
    per_token = BYTES_PER_TOKEN_SPM if kind == "llama" else BYTES_PER_TOKEN_BPE
    return spec.vocabulary * per_token


def repacked(tensor: TensorInfo, types: frozenset[GgmlType]) -> bool:
    """Whether the CPU keeps this tensor rearranged."""
    return (
        tensor.type in types
        and len(tensor.shape) >= 2
        and tensor.shape[1] % _REPACK_ROWS == 0
        and not on_input(tensor)
    )


def repacked_bytes(
    spec: ModelSpec, settings: LoadSettings, types: frozenset[GgmlType] = REPACKED_X86_AVX2
) -> int:
    """Bytes of the private, rearranged copy beside the mapped file.

    Without mmap the rearranged tensors are the only copy. A tied embedding is copied too: it is
    the output matrix as well, whatever the load mode.
    """
    copies = sum(t.size_bytes for t in loaded(spec) if repacked(t, types)) if settings.mmap else 0
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
    """Interpreter, vocabulary and repacked copy of a load whose weights lie on the host."""
    return INTERPRETER_BYTES + vocabulary_bytes(spec) + repacked_bytes(spec, settings)


@dataclass(frozen=True, slots=True)
class Slot:
    """What one slot holds: bytes together, of the largest tensor, and of those that the CPU
    rearranges; routed experts apart."""

    plain_bytes: int = 0
    largest_plain: int = 0
    rearranged_plain: int = 0
    expert_bytes: int = 0
    largest_expert: int = 0
    rearranged_expert: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The slots of the layers that every token passes, and of the output. `input_bytes` are the
    embeddings, which lie on no slot."""

    input_bytes: int
    layers: tuple[Slot, ...]
    output: Slot


@memoize
def held(spec: ModelSpec) -> Held:
    """Sum the tensors of a model by where they lie."""
    layers, output = [[0] * 6 for _ in range(spec.layers)], [0] * 6
    input_bytes = 0
    for tensor in loaded(spec):
        layer, size = home(tensor), tensor.size_bytes
        if layer is None and on_input(tensor):
            input_bytes += size
            continue
        sums = output if layer is None else layers[layer]
        part = 3 if layer is not None and tensor.expert else 0  # of Slot's fields
        sums[part] += size
        sums[part + 1] = max(sums[part + 1], size)
        if repacked(tensor, REPACKED_X86_AVX2):
            sums[part + 2] += size
    return Held(
        input_bytes=input_bytes,
        layers=tuple(Slot(*sums) for sums in layers),
        output=Slot(*output),
    )
