"""What a process holds besides llama.cpp's buffers. Every constant was measured.

Measured with llama-cpp-python 0.3.36 (llama.cpp b11434, CPU build, x86-64 Linux, Python 3.11);
docs/accuracy.md says how.
"""

from localllm.core.footprint.weights import loaded, on_input
from localllm.core.load import LoadSettings
from localllm.core.model import ModelSpec, TensorInfo
from localllm.core.quants import GgmlType

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
