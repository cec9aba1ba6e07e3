"""Memory that llama.cpp has allocated, read from its log: it has no function that returns it.

Formats of llama.cpp b11434: `load_tensors: CPU_Mapped model buffer size = 92.10 MiB`,
`llama_kv_cache: CPU KV buffer size = ...`, `llama_memory_recurrent: CPU RS buffer size = ...`,
`llama_context: CPU output buffer size = ...`, `sched_reserve: CPU compute buffer size = ...`,
`llama_adapter_lora_init_impl: CPU LoRA buffer size = ...`.
They print two decimals of a MiB, so a size is exact to about 5 KiB.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from localllm.core.sizing.load import Allocation, BufferKind, LoadSettings

_LINE = re.compile(r":\s+(\S+)\s+(model|KV|RS|output|compute|LoRA) buffer size\s*=\s*([0-9.]+) MiB")
_KINDS = {
    "model": BufferKind.WEIGHTS,
    "KV": BufferKind.KV,
    "RS": BufferKind.RECURRENT,
    "output": BufferKind.OUTPUT,
    "compute": BufferKind.COMPUTE,
    "LoRA": BufferKind.ADAPTERS,
}
_REALLOCATED = {BufferKind.COMPUTE, BufferKind.OUTPUT}
"""Kinds that llama.cpp allocates again during start-up: the last line counts, not the sum."""


def allocations(lines: Iterable[str]) -> tuple[Allocation, ...]:
    """Sum the buffers of one load by device and kind, in the order they were first named."""
    sizes: dict[tuple[str, BufferKind], int] = {}
    for line in lines:
        match = _LINE.search(line)
        if match is None:
            continue
        kind = _KINDS[match[2]]
        key = (match[1], kind)
        size_bytes = round(float(match[3]) * 2**20)
        sizes[key] = size_bytes if kind in _REALLOCATED else sizes.get(key, 0) + size_bytes
    return tuple(
        Allocation(device=device, kind=kind, size_bytes=size)
        for (device, kind), size in sizes.items()
    )


def with_all_outputs(parts: Iterable[Allocation], settings: LoadSettings) -> tuple[Allocation, ...]:
    """Count the output buffer as large as it will be. It is made with a row for each sequence and
    grows with the first step that asks for more (`llama_context::output_reserve`)."""
    return tuple(
        replace(part, size_bytes=part.size_bytes * settings.outputs // settings.parallel)
        if part.kind is BufferKind.OUTPUT
        else part
        for part in parts
    )
