"""The roofline model: the time that one token, and one prompt, keep each device busy.

Decoding reads every active weight and the cache once a token; a prompt multiplies. On top come
times that do not shrink with the model: a fixed time a layer (launching its kernels, meeting at
barriers) and a hop between devices. The constants and where they come from are in
`core/speed/constants.py`; how far they are off, in docs/speed.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.speed import constants as fitted
from localllm.core.speed.estimate import Estimate
from localllm.core.speed.gpus import Generation
from localllm.core.speed.kernels import REFERENCE_KERNELS, CpuKernels
from localllm.core.speed.workload import WeightRead, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """A device as the roofline sees it.

    `backend` None is the CPU. `bandwidth_bytes_per_s`: a GPU's nominal one (data sheet, driver or
    `core/speed/gpus.py`), a CPU's measured one. `compute_flops`: for a CPU, float32 matrix products
    of all its cores as `machine/bandwidth.py` measures them; for a GPU, what a prompt was seen to
    reach; None uses what the generation usually has. `cores` are the CPU's threads at work,
    `kernels` what its engine makes of each quant type.
    Raises ValueError for numbers that no device has.
    """

    bandwidth_bytes_per_s: float
    backend: Backend | None = None
    generation: Generation | None = None
    compute_flops: float | None = None
    cores: int = 1
    kernels: CpuKernels = REFERENCE_KERNELS

    def __post_init__(self) -> None:
        for name in ("bandwidth_bytes_per_s", "compute_flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value}")
        if self.cores < 1:
            raise ValueError(f"cores must be at least 1, not {self.cores}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWork:
    """One device and its part of the work."""

    device: DeviceSpeed
    work: Workload


@dataclass(frozen=True, slots=True)
class _Seconds:
    """A time and its bounds; sums of them are bounded by the sums of the bounds."""

    fast: float
    likely: float
    slow: float

    def plus(self, other: "_Seconds") -> "_Seconds":
        return _Seconds(self.fast + other.fast, self.likely + other.likely, self.slow + other.slow)


def decode_tps(
    shares: Sequence[DeviceWork], *, depth: int = 0, hops: int | None = None
) -> Estimate:
    """Estimate tokens/s of one conversation with `depth` tokens before the one that is decoded.

    `hops` counts how often a token's state moves between devices (default: once from each device
    to the next; experts on the CPU cost two a layer). Raises ValueError for no work at all or a
    negative count.
    """
    return _rates(_total(shares, hops, [_token(share, depth) for share in shares]), 1)


def prefill_tps(
    shares: Sequence[DeviceWork], *, tokens: int = 512, ubatch: int = 512, hops: int | None = None
) -> Estimate:
    """Estimate tokens/s at which a prompt of `tokens` is read, `ubatch` tokens at a time.

    Raises ValueError for no work at all or counts below 1.
    """
    return _rates(_prompt(shares, tokens, ubatch, hops), tokens)


def ttft_s(
    shares: Sequence[DeviceWork], *, tokens: int, ubatch: int = 512, hops: int | None = None
) -> Estimate:
    """Estimate seconds from the request to the first token of the answer, which falls out of the
    last batch of the prompt. The queue and the tokenizer are not counted. Raises ValueError for
    no work at all or counts below 1."""
    time = _prompt(shares, tokens, ubatch, hops)
    return Estimate(low=time.fast, likely=time.likely, high=time.slow)


def _rates(time: _Seconds, tokens: int) -> Estimate:
    if time.fast <= 0:
        raise ValueError("no device has any work: there is nothing to estimate")
    return Estimate(low=tokens / time.slow, likely=tokens / time.likely, high=tokens / time.fast)


def _total(shares: Sequence[DeviceWork], hops: int | None, times: Sequence[_Seconds]) -> _Seconds:
    count = max(0, len(shares) - 1) if hops is None else hops
    if count < 0:
        raise ValueError(f"hops must not be negative, not {count}")
    hop = fitted.HOP_S
    total = _Seconds(count * hop.fast, count * hop.likely, count * hop.slow)
    for time in times:
        total = total.plus(time)
    return total


# one token


def _token(share: DeviceWork, depth: int) -> _Seconds:
    if depth < 0:
        raise ValueError(f"depth must not be negative, not {depth}")
    backend = share.device.backend
    if backend is None:
        return _cpu_token(share, depth)
    return _gpu_token(share, backend, depth)


def _cpu_token(share: DeviceWork, depth: int) -> _Seconds:
    """Time a token on the CPU: streaming the weights and multiplying them. Measured, the two times
    add up."""
    device, work = share.device, share.work
    cores = _reference_cores(device)
    arithmetic = sum(read.elements * device.kernels.decode_s(read.type) for read in work.weights)
    for part in work.attention:
        each = (
            part.macs_per_cell * fitted.CPU_ATTENTION_S
            + part.elements_per_cell * fitted.CPU_CACHE_S
        )
        arithmetic += part.cells(depth) * each
    moved = work.weight_bytes + work.kv_bytes(depth) + work.state_bytes
    likely = (
        arithmetic / cores + moved / device.bandwidth_bytes_per_s + work.layers * fitted.CPU_LAYER_S
    )
    return _around(likely, likely, fitted.CPU_SPREAD)


def _gpu_token(share: DeviceWork, backend: Backend, depth: int) -> _Seconds:
    fit = fitted.gpu_fit(backend, share.device.generation)
    found = gpu_token(share.work, backend, share.device.bandwidth_bytes_per_s, fit, depth=depth)
    return _Seconds(
        found.fast * math.exp(-fit.spread.fast),
        found.likely,
        found.slow * math.exp(fit.spread.slow),
    )


def gpu_token(
    work: Workload, backend: Backend, bandwidth: float, fit: fitted.GpuFit, *, depth: int
) -> fitted.Bounds:
    """Time a token on a GPU: the weights at the share of the nominal bandwidth that the backend's
    kernels reach, and a time for each layer. The bounds are those of architectures and element
    types; the fit's own errors (`fit.spread`) are not in them."""
    streamed = bandwidth * fit.efficiency
    cache, state = work.kv_bytes(depth), work.state_bytes
    plain = work.weight_bytes + cache + state
    slowed = sum(read.size_bytes * fitted.gpu_slowdown(read.type) for read in work.weights)
    at_worst = slowed * (fitted.ROUTED_SLOWEST if work.is_routed else 1.0)
    at_worst *= fitted.RECURRENT_SLOWEST if state else 1.0
    at_worst += cache * fitted.GPU_CACHE_SLOWEST + state
    # the slowdown of unpacking low-bit types was measured on Metal only; elsewhere it is a bound
    likely = slowed + cache + state if backend is Backend.METAL else plain
    layer = fit.layer_s
    return fitted.Bounds(
        fast=plain / streamed + work.layers * layer * fitted.LAYER_FASTEST,
        likely=likely / streamed + work.layers * layer,
        slow=at_worst / streamed + work.layers * (layer + fitted.layer_extra_s(backend)),
    )


def _around(likely: float, at_worst: float, spread: fitted.Spread) -> _Seconds:
    return _Seconds(likely * math.exp(-spread.fast), likely, at_worst * math.exp(spread.slow))


# a prompt


def _prompt(shares: Sequence[DeviceWork], tokens: int, ubatch: int, hops: int | None) -> _Seconds:
    if tokens < 1 or ubatch < 1:
        raise ValueError(f"a prompt of {tokens} tokens in batches of {ubatch} cannot be read")
    batches = -(-tokens // ubatch)
    moves = max(0, len(shares) - 1) if hops is None else hops
    times = [_share_of_prompt(share, tokens, ubatch, batches) for share in shares]
    if not any(time.likely > 0 for time in times):
        raise ValueError("no device has any work: there is nothing to estimate")
    return _total(shares, moves * batches, times)


def _share_of_prompt(share: DeviceWork, tokens: int, ubatch: int, batches: int) -> _Seconds:
    """Time a prompt: each batch takes as long as its arithmetic or its reading, whichever is
    longer."""
    device, work = share.device, share.work
    arithmetic, spread = _prompt_arithmetic(share, tokens)
    read_bytes = sum(_batch_bytes(read, min(tokens, ubatch)) for read in work.weights) * batches
    fit = None if device.backend is None else fitted.gpu_fit(device.backend, device.generation)
    streamed = device.bandwidth_bytes_per_s * (fit.efficiency if fit else 1.0)
    layer = fit.layer_s if fit else fitted.CPU_LAYER_S
    likely = max(arithmetic, read_bytes / streamed) + work.layers * layer * batches
    return _around(likely, likely * (fitted.ROUTED_SLOWEST if work.is_routed else 1.0), spread)


def _batch_bytes(read: WeightRead, tokens: int) -> float:
    """Return the bytes that a batch reads: each weight once, and of the routed experts at most
    those that its tokens are sent to."""
    return min(read.size_bytes * tokens, read.loaded_bytes)


def _prompt_arithmetic(share: DeviceWork, tokens: int) -> tuple[float, fitted.Spread]:
    """Return the seconds of multiplying, and their spread."""
    device, work = share.device, share.work
    looked_back = sum(p.macs_per_cell * p.cells_of_prompt(tokens) for p in work.attention)
    if device.backend is None:
        cost = sum(
            read.elements * _times(read, tokens) * fitted.cpu_prompt_s(read.type)
            for read in work.weights
        )
        cost += looked_back * fitted.cpu_prompt_s(GgmlType.F16)
        return cost / _reference_cores(device), fitted.CPU_PROMPT_SPREAD
    macs = sum(read.elements * _times(read, tokens) for read in work.weights) + looked_back
    if device.compute_flops is not None:
        return 2 * macs / device.compute_flops, fitted.MEASURED_PROMPT_SPREAD
    prompt = fitted.prompt_fit(device.backend, device.generation)
    return 2 * macs / (prompt.flop_per_byte * device.bandwidth_bytes_per_s), prompt.spread


def _times(read: WeightRead, tokens: int) -> int:
    return 1 if read.last_only else tokens


def _reference_cores(device: DeviceSpeed) -> float:
    """Count the device's cores in cores of the machine that the CPU constants come from."""
    if device.compute_flops is None:
        return float(device.cores)
    return device.compute_flops / fitted.CPU_REFERENCE_CORE_FLOPS
