from localllm.core.sizing.load import Allocation, BufferKind
from localllm.engine.worker.llama.allocations import allocations

CPU_LOG = """\
load_tensors:   CPU_Mapped model buffer size =   235.16 MiB
load_tensors:   CPU_REPACK model buffer size =    12.66 MiB
llama_context:        CPU  output buffer size =     4.00 MiB
llama_kv_cache_iswa: creating non-SWA KV cache, size = 16384 cells
llama_kv_cache:        CPU KV buffer size =    48.00 MiB
llama_kv_cache: size =   48.00 MiB ( 16384 cells,   3 layers,  4/1 seqs), K (f16):   24.00 MiB
llama_kv_cache:        CPU KV buffer size =    37.50 MiB
sched_reserve:        CPU compute buffer size =    36.27 MiB
sched_reserve: graph: nodes = 727, splits = 1, input objects = 4, input tensors = 9
"""
"""Recorded: gemma-3-270m Q4_K_M, 16384 cells, llama-cpp-python 0.3.36."""


def mib(device: str, kind: BufferKind, size: float) -> Allocation:
    return Allocation(device=device, kind=kind, size_bytes=round(size * 2**20))


def test_a_recorded_log_is_read_back() -> None:
    assert allocations(CPU_LOG.splitlines()) == (
        mib("CPU_Mapped", BufferKind.WEIGHTS, 235.16),
        mib("CPU_REPACK", BufferKind.WEIGHTS, 12.66),
        mib("CPU", BufferKind.OUTPUT, 4.0),
        mib("CPU", BufferKind.KV, 85.5),
        mib("CPU", BufferKind.COMPUTE, 36.27),
    )


def test_a_buffer_that_is_allocated_again_counts_once() -> None:
    lines = ["sched_reserve: CUDA0 compute buffer size = 514.00 MiB"] * 2
    assert allocations(lines) == (mib("CUDA0", BufferKind.COMPUTE, 514.0),)


def test_other_lines_say_nothing() -> None:
    assert (
        allocations(["llama_model_loader: - kv 2: general.name str = x buffer size = 3 MiB"]) == ()
    )
