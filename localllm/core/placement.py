"""Where a load's bytes lie: layers on GPUs, experts on the host, and whether each device has room.

`arrange` says what given settings put where, as llama.cpp places them (`load_tensors` in
`src/llama-model.cpp`, b11434): the last `gpu_layers` of the layers and the output go to the
GPUs, split in proportion to their free memory; the input embedding stays on the host. `place`
searches for the settings that are fastest and fit.
"""

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from localllm.core import footprint
from localllm.core.footprint import Footprint, LayerBytes, Part
from localllm.core.footprint.cache import cells, ubatch
from localllm.core.footprint.overhead import (
    INTERPRETER_BYTES,
    REPACKED_X86_AVX2,
    repacked,
    vocabulary_bytes,
)
from localllm.core.footprint.weights import loaded
from localllm.core.hardware import Backend, HardwareInfo
from localllm.core.load import LoadSettings
from localllm.core.model import ModelSpec, TensorInfo

HOST = "CPU"

DEVICE_OVERHEAD_BYTES = {Backend.CUDA: 456 * 2**20, Backend.ROCM: 456 * 2**20}
"""Device memory that no log line shows: the context and its libraries. The largest of the values
that CUDA users logged (150 to 456 MiB, llama.cpp pull request 15860, 2025)."""

_OTHER_OVERHEAD_BYTES = 150 * 2**20
_COPIES = 4  # of the graph's inputs on each device of a layer split (GGML_SCHED_MAX_COPIES)
_FLOAT, _HALF = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBudget:
    """What may be used of one accelerator. `unified`: the bytes are the host's own."""

    name: str
    backend: Backend
    free_bytes: int
    unified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Free bytes now, the reserve already taken off. `gpus` only holds devices that the
    installed engine can use."""

    host_bytes: int
    gpus: tuple[GpuBudget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one device holds. `kv_bytes` includes recurrent state, `compute_bytes` the output."""

    name: str
    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    overhead_bytes: int = 0
    free_bytes: int
    fits: bool = True

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The shares of a load; the host's comes last. `gpu_layers` counts the output as one.

    `layout[i]` is the device (an index into `devices`) of layer i, the last one the output's.
    """

    gpu_layers: int
    cpu_moe: int
    devices: tuple[Share, ...]
    layout: tuple[int, ...]

    @property
    def fits(self) -> bool:
        return all(share.fits for share in self.devices)

    @property
    def host(self) -> Share:
        return self.devices[-1]

    def device_of(self, tensor: TensorInfo) -> int:
        """The index of the device that multiplies with this tensor (a tied embedding: the
        output's)."""
        if tensor.layer is None:
            return self.layout[-1]
        if tensor.expert and tensor.layer < self.cpu_moe:
            return len(self.devices) - 1
        return self.layout[tensor.layer]


def budget(hardware: HardwareInfo, *, reserve_bytes: int = 0, returned_bytes: int = 0) -> Budget:
    """What this machine has free for the installed engine.

    `reserve_bytes` are kept free on every device; `returned_bytes` of system memory come back
    when the model that is to be replaced is unloaded.
    """
    usable = hardware.engine is not None and hardware.engine.gpu_offload
    gpus = (
        GpuBudget(
            name=device.name,
            backend=device.backend,
            free_bytes=max(0, device.free_bytes - reserve_bytes),
            unified=device.unified,
        )
        for device in hardware.devices
        if usable and device.free_bytes is not None
    )
    return Budget(
        host_bytes=hardware.ram.available_bytes - reserve_bytes + returned_bytes,
        gpus=tuple(gpus),
    )


def place(spec: ModelSpec, settings: LoadSettings, budget: Budget) -> Placement:
    """The fastest placement that fits, or the nearest to fitting.

    With `settings.gpu_layers` set, that many layers and no others are tried. Otherwise: every
    layer on the GPUs; experts of as few layers as possible on the host; as many layers as
    possible; none.
    """
    load = _Load(spec, settings)
    if not budget.gpus or settings.gpu_layers is not None:
        wanted = settings.gpu_layers or 0
        return load.arrange(budget, wanted if budget.gpus else 0, 0)
    for gpu_layers, cpu_moe in load.candidates():
        placement = load.arrange(budget, gpu_layers, cpu_moe)
        if placement.fits:
            return placement
    return load.arrange(budget, 0, 0)


class _Load:
    """One model under one set of settings, with the sums that every arrangement needs."""

    def __init__(self, spec: ModelSpec, settings: LoadSettings) -> None:
        self.needed: Footprint = footprint.of(spec, settings)
        self.layers: Sequence[LayerBytes] = footprint.layers(spec, settings)
        self.blocks = [part for part in self.layers if part.part is Part.LAYER]
        tokens, size = ubatch(settings), cells(spec, settings)
        self.inputs_bytes = tokens * (spec.embedding * _FLOAT + size.full * _HALF)
        self.vocabulary_bytes = vocabulary_bytes(spec)
        self.repacked = [0] * (len(self.blocks) + 1)
        if settings.mmap:
            for tensor in loaded(spec):
                if repacked(tensor, REPACKED_X86_AVX2):
                    at = len(self.blocks) if tensor.layer is None else tensor.layer
                    self.repacked[at] += tensor.size_bytes
        self.mmap = settings.mmap

    def candidates(self) -> Iterator[tuple[int, int]]:
        """(gpu_layers, cpu_moe) from the fastest arrangement to the slowest."""
        every = len(self.blocks) + 1
        yield every, 0
        if any(block.expert_bytes for block in self.blocks):
            yield from ((every, moe) for moe in range(1, len(self.blocks) + 1))
        yield from ((count, 0) for count in range(every - 1, -1, -1))

    def arrange(self, budget: Budget, gpu_layers: int, cpu_moe: int) -> Placement:
        every = len(self.blocks) + 1
        gpu_layers = min(gpu_layers, every)
        if gpu_layers == 0:
            host_only = (self._host_only(budget),)
            return Placement(gpu_layers=0, cpu_moe=0, devices=host_only, layout=(0,) * every)
        split = _split(budget.gpus, gpu_layers)
        shares = [self._gpu(gpu, len(budget.gpus) > 1) for gpu in budget.gpus]
        host_weights, host_kv, host_repacked = self._input_bytes(), 0, 0
        first = every - gpu_layers
        for i, part in enumerate([*self.blocks, self.layers[-1]]):
            experts_on_host = part.expert_bytes if i < cpu_moe else 0
            cache = part.kv_bytes + part.recurrent_bytes
            if i < first:
                host_weights += part.weights_bytes + part.expert_bytes
                host_kv += cache
                host_repacked += self.repacked[i]
                continue
            on = split[i - first]
            host_weights += experts_on_host
            shares[on] = dataclasses.replace(
                shares[on],
                weights_bytes=shares[on].weights_bytes
                + part.weights_bytes
                + part.expert_bytes
                - experts_on_host
                + part.tied_bytes,
                kv_bytes=shares[on].kv_bytes + cache,
            )
        host = Share(
            name=HOST,
            weights_bytes=host_weights,
            kv_bytes=host_kv,
            compute_bytes=self.inputs_bytes
            + self.needed.output_bytes
            + (self.needed.compute_bytes if gpu_layers < every or cpu_moe else 0),
            overhead_bytes=INTERPRETER_BYTES + self.vocabulary_bytes + host_repacked,
            free_bytes=budget.host_bytes,
        )
        return Placement(
            gpu_layers=gpu_layers,
            cpu_moe=cpu_moe,
            devices=self._judged(budget, shares, host),
            layout=(*(len(budget.gpus) for _ in range(first)), *split),
        )

    def _input_bytes(self) -> int:
        return sum(part.weights_bytes for part in self.layers if part.part is Part.INPUT)

    def _gpu(self, gpu: GpuBudget, several: bool) -> Share:
        copies = self.inputs_bytes * (_COPIES - 1) if several else 0
        return Share(
            name=gpu.name,
            compute_bytes=self.needed.compute_bytes + copies,
            overhead_bytes=DEVICE_OVERHEAD_BYTES.get(gpu.backend, _OTHER_OVERHEAD_BYTES),
            free_bytes=gpu.free_bytes,
        )

    def _host_only(self, budget: Budget) -> Share:
        needed = self.needed
        share = Share(
            name=HOST,
            weights_bytes=needed.weights_bytes,
            kv_bytes=needed.kv_bytes + needed.recurrent_bytes,
            compute_bytes=needed.compute_bytes + needed.output_bytes,
            overhead_bytes=needed.overhead_bytes,
            free_bytes=budget.host_bytes,
        )
        return dataclasses.replace(share, fits=share.total_bytes <= share.free_bytes)

    def _judged(self, budget: Budget, shares: list[Share], host: Share) -> tuple[Share, ...]:
        """Say for each device whether its share fits; unified devices draw on the host's bytes.

        Without mmap the weights pass through system memory, so it must hold them all once.
        """
        unified = sum(
            share.total_bytes for gpu, share in zip(budget.gpus, shares, strict=True) if gpu.unified
        )
        through = 0 if self.mmap else self.needed.weights_bytes - host.weights_bytes
        host_fits = host.total_bytes + max(unified, through) <= host.free_bytes
        judged = (
            dataclasses.replace(
                share,
                fits=share.total_bytes <= share.free_bytes and (host_fits or not gpu.unified),
            )
            for gpu, share in zip(budget.gpus, shares, strict=True)
        )
        return (*judged, dataclasses.replace(host, fits=host_fits))


def _split(gpus: Sequence[GpuBudget], count: int) -> list[int]:
    """Which GPU takes each of `count` layers: in proportion to free memory, as llama.cpp splits
    (`std::upper_bound` over the cumulated shares)."""
    cumulated = list(accumulate(max(gpu.free_bytes, 1) for gpu in gpus))
    bounds = [value / cumulated[-1] for value in cumulated]
    last = len(gpus) - 1
    return [min(bisect_right(bounds, i / count), last) for i in range(count)]
