"""The constants of the speed model, each with its meaning, origin and date.

Decode constants of GPUs are fitted by `benchmarks/speed_accuracy.py` to the rates of one 7B model
that llama.cpp's users published (discussions 4167, 10879, 15013 and 15021, read August to October
2026; 94 rows, 70 devices); the script fails when a fresh fit gives anything else. Four shares of
bandwidth and eleven layer times are all there is; how wide the interval is comes from devices that
the fit had not seen, and from what others published of other models. CPU constants were measured
with llama-cpp-python 0.3.36 (AVX2, repacking on) on two cores of an AMD EPYC (Zen 4) in November
2026: benchmarks/data/cpu_reference.csv.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.speed.gpus import Generation

_T = GgmlType


@dataclass(frozen=True, slots=True)
class Bounds:
    """A time and its bounds, in seconds."""

    fast: float
    likely: float
    slow: float


HOP_S = Bounds(0.0001, 0.00025, 0.0005)
"""A token's state from one device to the next: what each further card cost llama-bench when
Llama 3 8B was split over 2, 4 and 8 RTX 4090 or 2 and 4 RTX 3090 (0.12 to 0.36 ms a hop; published
by XiongjieDai/GPU-Benchmarks-on-LLM-Inference, May 2024)."""

ROUTED_SLOWEST = 1.5
"""Mixture of experts: nothing in the fitted table is one. gpt-oss-20b was published with 88
tokens/s on a GB10 (estimate 85) and 86 on an M1 Ultra (estimate 126); those of 1 to 4 G active
parameters took 1.3 to 1.8 times the estimate on an RX 7900 XT (speed_elsewhere.csv), in part for
their many small kernels. So only the bound moves."""

GPU_CACHE_SLOWEST = 3.0
"""Reading the cache deep in a context, over its bytes: 2.3 on an RTX 4090 and 5.5 on an RTX 3090 in
tables of May 2024 without flash attention; with it no table was found, so only the bound moves."""

RECURRENT_SLOWEST = 1.3
"""Layers with a recurrent state take longer than their bytes: Qwen3.5 and 3.6 were 1.2 to 1.5 times
slower on a GB10 and an RX 7900 XT than dense models of their size (benchmarks/data,
speed_elsewhere.csv). Only the bound moves."""

LAYER_FASTEST = 0.5
"""The least part of a layer's time that stays when layers are narrower than the 4096 of the fitted
model: its kernels start sooner than they end. Read off an M4 Pro and an RTX 2080 with models of 1
to 4 G parameters (speed_elsewhere.csv)."""

_LAYER_EXTRA_S: Mapping[Backend, float] = MappingProxyType({Backend.CUDA: 25e-6})
_LAYER_EXTRA_ANY_S = 50e-6


def layer_extra_s(backend: Backend) -> float:
    """Return the most that a layer of another architecture costs on top: norms after each half,
    gates, routing, up to ten more kernels of 2.5 us (replayed from a CUDA graph) or 5 us (started
    one by one)."""
    return _LAYER_EXTRA_S.get(backend, _LAYER_EXTRA_ANY_S)


# GPUs, one token

EFFICIENCY: Mapping[Backend, float] = MappingProxyType(
    {Backend.CUDA: 0.855, Backend.METAL: 0.90, Backend.ROCM: 0.60, Backend.VULKAN: 0.85}
)
"""The share of the nominal bandwidth at which a backend's kernels stream weights."""

LAYER_US: Mapping[str, float] = MappingProxyType(
    {
        "cuda_modern": 30.6,
        "cuda_ampere": 45.3,
        "cuda_turing": 98.3,
        "cuda_pascal": 214.3,
        "cuda_maxwell": 341.3,
        "rocm_rdna": 0.7,
        "rocm_hbm": 130.7,
        "vulkan": 39.8,
        "metal_m2": 182.2,
        "metal_m4": 135.6,
        "metal_m5": 46.6,
    }
)
"""Microseconds a layer costs whatever its size: starting its kernels and letting them drain."""

LEAST_SPREAD = 0.08  # no interval is narrower: repeated runs of one card differ by as much


@dataclass(frozen=True, slots=True)
class Spread:
    """The error of a time: ln of likely over measured where the estimate was too slow (`fast`), ln
    of measured over the slow bound where it was too fast (`slow`)."""

    fast: float
    slow: float


DECODE_SPREAD: Mapping[str, Spread] = MappingProxyType(
    {
        "cuda": Spread(0.08, 0.08),
        "cuda_hbm": Spread(0.08, 0.39),
        "cuda_old": Spread(0.48, 0.86),
        "metal": Spread(0.08, 0.50),
        "rocm": Spread(0.20, 0.08),
        "vulkan": Spread(0.08, 0.12),
    }
)
"""The 95th percentile of what devices did that the fit had not seen, each device counting once:
those of the table, one left out at a time, and those of speed_elsewhere.csv that are marked
`spread`. `benchmarks/speed_accuracy.py` fails when the data gives anything else."""

_UNKNOWN_SPREAD = Spread(0.35, 0.35)  # a generation that nothing was fitted to: ln(1.4) or more

_GROUPS: Mapping[tuple[Backend, Generation], str] = MappingProxyType(
    {
        (Backend.CUDA, Generation.NVIDIA_BLACKWELL): "cuda_modern",
        (Backend.CUDA, Generation.NVIDIA_ADA): "cuda_modern",
        (Backend.CUDA, Generation.NVIDIA_AMPERE): "cuda_ampere",
        # stacked memory is faster than these parts' cores can ask for it; Turing happens to agree
        (Backend.CUDA, Generation.NVIDIA_HBM): "cuda_turing",
        (Backend.CUDA, Generation.NVIDIA_TURING): "cuda_turing",
        (Backend.CUDA, Generation.NVIDIA_PASCAL): "cuda_pascal",
        (Backend.CUDA, Generation.NVIDIA_MAXWELL): "cuda_maxwell",
        (Backend.ROCM, Generation.AMD_RDNA): "rocm_rdna",
        (Backend.ROCM, Generation.AMD_HBM): "rocm_hbm",
        (Backend.METAL, Generation.APPLE_M1_M2): "metal_m2",
        (Backend.METAL, Generation.APPLE_M3_M4): "metal_m4",
        (Backend.METAL, Generation.APPLE_M5): "metal_m5",
    }
)
_FALLBACK = MappingProxyType(
    {Backend.CUDA: "cuda_ampere", Backend.ROCM: "rocm_rdna", Backend.METAL: "metal_m4"}
)


@dataclass(frozen=True, slots=True)
class GpuFit:
    """The decode constants of one kind of GPU: share of bandwidth, seconds a layer, interval."""

    efficiency: float
    layer_s: float
    spread: Spread


def group(backend: Backend, generation: Generation | None) -> str:
    """Name the devices that share a layer time with this one."""
    if generation is not None and (backend, generation) in _GROUPS:
        return _GROUPS[backend, generation]
    return _FALLBACK.get(backend, "vulkan")


def spread_class(backend: Backend, generation: Generation | None) -> str:
    """Name the devices whose errors are pooled: a generation alone has too few for a 95th
    percentile."""
    if backend is not Backend.CUDA:
        return backend.value
    if generation is Generation.NVIDIA_HBM:
        return "cuda_hbm"
    old = (Generation.NVIDIA_PASCAL, Generation.NVIDIA_MAXWELL)
    return "cuda_old" if generation in old else "cuda"


def _wider(a: Spread, b: Spread) -> Spread:
    return Spread(max(a.fast, b.fast), max(a.slow, b.slow))


def gpu_fit(backend: Backend, generation: Generation | None) -> GpuFit:
    """Look up a GPU's decode constants. One that nothing was fitted to gets its backend's middle,
    or Vulkan's, with a wide interval."""
    name = group(backend, generation)
    spread = DECODE_SPREAD.get(spread_class(backend, generation), _UNKNOWN_SPREAD)
    fitted = backend in EFFICIENCY and (
        backend is Backend.VULKAN or (backend, generation) in _GROUPS
    )
    return GpuFit(
        efficiency=EFFICIENCY.get(backend, EFFICIENCY[Backend.VULKAN]),
        layer_s=LAYER_US[name] * 1e-6,
        spread=spread if fitted else _wider(_UNKNOWN_SPREAD, spread),
    )


SLOWDOWN_FROM: Mapping[GgmlType, str] = MappingProxyType(
    {
        _T.IQ1_S: "IQ1_S",
        _T.IQ1_M: "IQ1_M",
        _T.IQ2_XXS: "IQ2_XXS",
        _T.IQ2_XS: "IQ2_XS",
        _T.IQ2_S: "IQ2_M",
        _T.Q2_K: "Q2_K_S",
        _T.IQ3_XXS: "IQ3_XXS",
        _T.Q3_K: "Q3_K_S",
        _T.IQ3_S: "IQ3_S",
        _T.IQ4_XS: "IQ4_XS",
        _T.Q4_K: "Q4_K_S",
        _T.IQ4_NL: "IQ4_NL",
        _T.Q5_K: "Q5_K_S",
        _T.Q6_K: "Q6_K",
    }
)
"""The mix of llama.cpp's quantize table that stands for each type below."""

_SLOWDOWN: Mapping[GgmlType, float] = MappingProxyType(
    {
        _T.IQ1_S: 2.43,
        _T.IQ1_M: 2.55,
        _T.IQ2_XXS: 2.04,
        _T.IQ2_XS: 1.94,
        _T.IQ2_S: 1.82,
        _T.Q2_K: 1.39,
        _T.IQ3_XXS: 1.65,
        _T.Q3_K: 1.59,
        _T.IQ3_S: 1.59,
        _T.IQ4_XS: 1.13,
        _T.Q4_K: 1.10,
        _T.IQ4_NL: 1.10,
        _T.Q5_K: 1.04,
        _T.Q6_K: 1.09,
    }
)


def gpu_slowdown(kind: GgmlType) -> float:
    """Return how many times its bytes' time a type takes to unpack; 1 where it was not measured.

    From llama.cpp's table of Llama 3.1 8B in every quant on one machine, which it does not name
    (tools/quantize/README.md, b11434), over the line through F16 and Q8_0.
    """
    return _SLOWDOWN.get(kind, 1.0)


# GPUs, a prompt

PROMPT_FLOP_PER_BYTE: Mapping[tuple[Backend, Generation], float] = MappingProxyType(
    {
        (Backend.CUDA, Generation.NVIDIA_BLACKWELL): 104.2,
        (Backend.CUDA, Generation.NVIDIA_ADA): 136.6,
        (Backend.CUDA, Generation.NVIDIA_AMPERE): 81.5,
        (Backend.CUDA, Generation.NVIDIA_HBM): 42.3,
        (Backend.CUDA, Generation.NVIDIA_TURING): 54.1,
        (Backend.CUDA, Generation.NVIDIA_PASCAL): 38.6,
        (Backend.CUDA, Generation.NVIDIA_MAXWELL): 10.1,
        (Backend.ROCM, Generation.AMD_RDNA): 48.7,
        (Backend.ROCM, Generation.AMD_HBM): 18.5,
        (Backend.METAL, Generation.APPLE_M1_M2): 20.1,
        (Backend.METAL, Generation.APPLE_M3_M4): 23.3,
        (Backend.VULKAN, Generation.NVIDIA_ADA): 121.1,
        (Backend.VULKAN, Generation.INTEL_ARC): 17.8,
    }
)
"""Operations a second in matrix products over bytes/s of nominal bandwidth: within a generation the
two are sold in step. The median of the pp512 rows; a rougher guide than the decode times."""

LEAST_PROMPT_SPREAD = 0.25
PROMPT_SPREAD: Mapping[str, Spread] = MappingProxyType(
    {
        "cuda": Spread(0.36, 0.49),
        "cuda_hbm": Spread(0.53, 0.25),
        "cuda_old": Spread(0.57, 0.57),
        "metal": Spread(0.34, 0.59),
        "rocm": Spread(0.75, 0.39),
        "vulkan": Spread(0.25, 1.00),
    }
)
"""As `DECODE_SPREAD`, for prompts."""

UNKNOWN_PROMPT = 48.7  # the middle of the table: one that nothing was seen of
_UNKNOWN_PROMPT_SPREAD = Spread(math.log(3), math.log(3))
MEASURED_PROMPT_SPREAD = Spread(0.25, 0.25)
"""When the rate of matrix products was seen on this very device."""


@dataclass(frozen=True, slots=True)
class PromptFit:
    """Operations a second over bytes/s of bandwidth, and the interval."""

    flop_per_byte: float
    spread: Spread


def prompt_fit(backend: Backend, generation: Generation | None) -> PromptFit:
    """Look up a GPU's prompt constants, which multiply its nominal bandwidth."""
    spread = PROMPT_SPREAD.get(spread_class(backend, generation), _UNKNOWN_PROMPT_SPREAD)
    if generation is None or (backend, generation) not in PROMPT_FLOP_PER_BYTE:
        return PromptFit(UNKNOWN_PROMPT, _wider(_UNKNOWN_PROMPT_SPREAD, spread))
    return PromptFit(PROMPT_FLOP_PER_BYTE[backend, generation], spread)


# the CPU

CPU_REFERENCE_BANDWIDTH = 35e9
"""Bytes/s that the F16 and F32 models stream on the reference machine with two threads."""

CPU_REFERENCE_CORE_FLOPS = 85e9
"""Float32 matrix products of one core of the reference machine: `machine/bandwidth.py`, one
thread, the best of twelve runs."""

CPU_LAYER_S = 39.1e-6
"""Threads meeting at the barriers of one layer."""

CPU_ATTENTION_S = 280e-12
CPU_CACHE_S = 560e-12
"""One multiply-add of a query head, and one element of the cache unpacked, on one core: decode
1,900 tokens deep less decode at 0, for a model with and one without grouped queries."""

CPU_SPREAD = Spread(math.log(1.6), math.log(1.6))
CPU_PROMPT_SPREAD = Spread(math.log(2), math.log(2))
"""Before a calibration: the arithmetic was measured on one processor only, and others have wider
or narrower vectors. One `bench` replaces this assumption."""

_CPU_PS: Mapping[GgmlType, tuple[float, float]] = MappingProxyType(
    {
        _T.F32: (19.1, 36.4),
        _T.F16: (11.0, 27.4),
        _T.BF16: (18.7, 78.4),
        _T.Q8_0: (28.1, 36.1),
        _T.Q6_K: (23.4, 27.9),
        _T.Q5_K: (35.0, 28.0),
        _T.Q5_1: (61.5, 74.7),
        _T.Q5_0: (59.5, 57.6),
        _T.Q4_K: (14.4, 28.9),
        _T.Q4_1: (49.0, 59.0),
        _T.Q4_0: (19.8, 30.7),
        _T.IQ4_NL: (19.4, 31.8),
        _T.IQ4_XS: (39.3, 28.5),
        _T.MXFP4: (21.3, 28.4),
        _T.NVFP4: (60.4, 146.5),
        _T.Q3_K: (39.7, 26.3),
        _T.IQ3_S: (129.6, 25.3),
        _T.IQ3_XXS: (110.0, 25.6),
        _T.Q2_K: (24.6, 24.4),
        _T.IQ2_S: (79.8, 30.9),
        _T.IQ2_XS: (83.0, 26.2),
        _T.IQ2_XXS: (82.1, 25.7),
        _T.IQ1_M: (83.2, 27.8),
        _T.IQ1_S: (84.0, 30.7),
        _T.TQ2_0: (15.1, 23.8),
        _T.TQ1_0: (47.8, 48.4),
        _T.Q1_0: (40.2, 143.7),
    }
)
"""Picoseconds of one core for one weight: of one token, and of each token of a prompt."""

_UNMEASURED_PS = (60.4, 146.5)  # as slow as NVFP4, the slowest kernel without hand-written vectors


def cpu_decode_s(kind: GgmlType) -> float:
    """Return the seconds of one core for one weight of one token, beyond streaming it."""
    return _CPU_PS.get(kind, _UNMEASURED_PS)[0] * 1e-12


def cpu_prompt_s(kind: GgmlType) -> float:
    """Return the seconds of one core for one weight and each token of a prompt."""
    return _CPU_PS.get(kind, _UNMEASURED_PS)[1] * 1e-12
