"""The search for the fastest placement that fits.

`load_tensors` in `src/llama-model.cpp` (llama.cpp b11434) gives the last `n_gpu_layers` layers to
the GPUs, each a run of them, and keeps the input embedding on the host. The number for each GPU is
set (`tensor_split`), so that what is planned is what is loaded. docs/placement.md says what is
charged to which device and why.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from localllm.core.hardware import Backend
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.footprint.cache import ubatch
from localllm.core.sizing.footprint.weights import INTERPRETER_BYTES
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement.budget import Budget, GpuBudget
from localllm.core.sizing.placement.layer_sizes import LayerSizes
from localllm.core.sizing.placement.shares import HOST, DeviceShare, Placement

DEVICE_OVERHEAD_BYTES = {Backend.CUDA: 456 * 2**20, Backend.ROCM: 456 * 2**20}
"""Device memory that no log line shows: the context and its libraries. The largest of the values
that CUDA users logged (150 to 456 MiB, llama.cpp pull request 15860, 2025)."""

_OTHER_OVERHEAD_BYTES = 150 * 2**20
_COPIES = 4  # of the graph's inputs on each device of a pipeline (GGML_SCHED_MAX_COPIES)
_OFFLOAD_TOKENS = 32
"""From this micro-batch on a GPU computes with weights that lie on the host, one tensor at a time
(`min_batch_size` of `offload_op` in the CUDA, Vulkan and Metal backends)."""

_Bounds = tuple[int, ...]
"""The layer at which each GPU's run starts, and the end: one number more than there are GPUs."""


def place(
    spec: ModelSpec, settings: LoadSettings, budget: Budget, draft: ModelSpec | None = None
) -> Placement:
    """Find the fastest placement that fits, or the nearest to fitting.

    From fast to slow: every layer on the GPUs; the routed experts of as few layers as possible on
    the host; as many layers as possible; none. With `settings.gpu_layers` set, that many layers
    and no others are tried; the experts of the first `settings.cpu_moe` layers stay on the host
    any case. When nothing fits it is the fastest that the GPUs have room for. An image encoder
    goes beside the layers where there is room left. What a draft model needs beside it stays free
    on each device: llama.cpp chooses where it goes. Raises UsageError and GgufError as
    `footprint.of` does.
    """
    if draft is not None and settings.active_draft is not None:
        budget = budget.minus(footprint.of_draft(draft, settings).total_bytes)
    search = _Search(LayerSizes(spec, settings), budget)
    return search.with_encoder(_fastest(search, settings))


def _fastest(search: "_Search", settings: LoadSettings) -> Placement:
    if not search.gpus or settings.gpu_layers == 0:
        return search.host_only()
    if settings.gpu_layers is not None:
        return search.arrange(settings.gpu_layers, settings.cpu_moe)
    nearest: Placement | None = None
    for gpu_layers, cpu_moe in search.candidates():
        if search.is_surely_too_large(gpu_layers, cpu_moe):
            continue
        found = search.arrange(gpu_layers, cpu_moe)
        if found.fits:
            return found
        if nearest is None and all(share.fits for share in found.devices[:-1]):
            nearest = found
    host_only = search.host_only()
    return host_only if host_only.fits or nearest is None else nearest


class _Search:
    """The placements of one model in one budget."""

    def __init__(self, sizes: LayerSizes, budget: Budget) -> None:
        self.sizes, self.budget, self.gpus = sizes, budget, budget.gpus

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yield (gpu_layers, cpu_moe) from the fastest placement to the slowest. Attention and
        cache gain more from a GPU's memory than experts, of which a token reads a few."""
        sizes, moe = self.sizes, min(self.sizes.settings.cpu_moe, self.sizes.blocks)
        yield sizes.count, moe
        if sizes.has_experts:
            yield from ((sizes.count, n) for n in range(moe + 1, sizes.blocks + 1))
            moe = sizes.blocks
        yield from ((count, moe) for count in range(sizes.count - 1, 0, -1))

    def is_surely_too_large(self, gpu_layers: int, cpu_moe: int) -> bool:
        """Return True when the layers need more than all GPUs have together, however they are
        split: weights and cache, and on at least one GPU the compute buffer and the overhead."""
        sizes = self.sizes
        first, end = sizes.count - gpu_layers, sizes.count
        split = sizes.gpu_weights(first, end, cpu_moe) + sizes.gpu_cache(first, end)
        on_one = sizes.needed.compute_bytes + min(_overhead(gpu) for gpu in self.gpus)
        return split + on_one > sum(max(0, gpu.free_bytes) for gpu in self.gpus)

    def host_only(self) -> Placement:
        """Put everything on the host, with no device in use."""
        sizes = self.sizes
        return host_placement(
            sizes.needed,
            repacked_bytes=sizes.host_repacked(sizes.count, 0),
            free_bytes=self.budget.host_bytes,
            layers=sizes.count,
        )

    def arrange(self, gpu_layers: int, cpu_moe: int) -> Placement:
        """Put the last `gpu_layers` layers on the GPUs: in proportion to free memory if each then
        has room, else filled in turn, else all on one."""
        sizes = self.sizes
        gpu_layers, cpu_moe = min(gpu_layers, sizes.count), min(cpu_moe, sizes.blocks)
        if not sizes.has_experts:
            cpu_moe = 0
        first = sizes.count - gpu_layers
        shares: tuple[DeviceShare, ...] = ()
        for bounds in self._splits(first, cpu_moe):
            tried = self._gpu_shares(bounds, cpu_moe)
            shares = shares or tried
            if all(share.fits for share in tried):
                shares = tried
                break
        return Placement(
            gpu_layers=gpu_layers,
            cpu_moe=cpu_moe,
            devices=self._with_host(shares, first, cpu_moe),
            layout=(
                *[len(self.gpus)] * first,
                *(i for i, share in enumerate(shares) for _ in range(share.layers)),
            ),
        )

    def _splits(self, first: int, cpu_moe: int) -> Iterator[_Bounds]:
        yield _proportional(self.gpus, first, self.sizes.count)
        if len(self.gpus) > 1:
            if (filled := self._filled(first, cpu_moe)) is not None:
                yield filled
            for alone in range(len(self.gpus)):
                before = [first] * (alone + 1)
                yield (*before, *[self.sizes.count] * (len(self.gpus) - alone))

    def _filled(self, first: int, cpu_moe: int) -> _Bounds | None:
        """Give each GPU in turn as many layers as it has room for; None when some are left."""
        bounds, end = [first], self.sizes.count
        for gpu in self.gpus:
            start = bounds[-1]

            def too_large(at: int, gpu: GpuBudget = gpu, start: int = start) -> bool:
                return not self._gpu(gpu, start, at, first, cpu_moe, several=True).fits

            # a run of layers never needs less when one more is added to it
            run = range(start + 1, end + 1)
            bounds.append(start + bisect_left(run, True, key=too_large))
        return tuple(bounds) if bounds[-1] == end else None

    def _gpu_shares(self, bounds: _Bounds, cpu_moe: int) -> tuple[DeviceShare, ...]:
        several = sum(start < end for start, end in pairwise(bounds)) > 1
        return tuple(
            self._gpu(gpu, start, end, bounds[0], cpu_moe, several=several)
            for gpu, (start, end) in zip(self.gpus, pairwise(bounds), strict=True)
        )

    def _gpu(
        self, gpu: GpuBudget, start: int, end: int, first: int, cpu_moe: int, *, several: bool
    ) -> DeviceShare:
        if start == end:  # the engine does not use it
            return DeviceShare(
                name=gpu.name,
                engine_name=gpu.engine_name,
                free_bytes=gpu.free_bytes,
                max_buffer_bytes=gpu.max_buffer_bytes,
            )
        sizes = self.sizes
        compute = sizes.needed.compute_bytes
        if several and first == 0 and not cpu_moe and sizes.settings.kv_offload:
            compute += sizes.inputs_bytes * (_COPIES - 1)
        if start == first and ubatch(sizes.settings) >= _OFFLOAD_TOKENS:
            compute += sizes.largest_host_tensor(first, cpu_moe)
        weights = sizes.gpu_weights(start, end, cpu_moe)
        mapped = gpu.backend is Backend.METAL and sizes.settings.mmap
        if end == sizes.count and not mapped:
            weights += sizes.tied_bytes
        kv, overhead = sizes.gpu_cache(start, end), _overhead(gpu)
        largest, cap = sizes.largest_gpu_tensor(start, end, cpu_moe), gpu.max_buffer_bytes
        return DeviceShare(
            name=gpu.name,
            engine_name=gpu.engine_name,
            layers=end - start,
            weights_bytes=weights,
            kv_bytes=kv,
            compute_bytes=compute,
            overhead_bytes=overhead,
            free_bytes=gpu.free_bytes,
            largest_buffer_bytes=largest,
            max_buffer_bytes=cap,
            fits=weights + kv + compute + overhead <= gpu.free_bytes
            and (cap is None or largest <= cap),
        )

    def _with_host(
        self, shares: tuple[DeviceShare, ...], first: int, cpu_moe: int
    ) -> tuple[DeviceShare, ...]:
        """Add the host's share; unified devices draw on the host's bytes, once those that are set
        aside for them are used.

        Without mmap the largest tensor passes through the host: llama.cpp copies one after the
        other (`llama_model_loader::load_all_data`).
        """
        sizes = self.sizes
        host = DeviceShare(
            name=HOST,
            weights_bytes=sizes.host_weights(first, cpu_moe),
            kv_bytes=sizes.host_cache(first),
            compute_bytes=self._host_compute(first, cpu_moe),
            overhead_bytes=INTERPRETER_BYTES
            + sizes.vocabulary_bytes
            + (0 if self._pinned(shares) else sizes.host_repacked(first, cpu_moe)),
            free_bytes=self.budget.host_bytes,
        )
        fits = self._host_bytes(shares, host) <= host.free_bytes
        gpus = (
            replace(share, fits=share.fits and (fits or not gpu.host_bytes_of(share.total_bytes)))
            for gpu, share in zip(self.gpus, shares, strict=True)
        )
        return (*gpus, replace(host, fits=fits))

    def _host_bytes(self, shares: Sequence[DeviceShare], host: DeviceShare) -> int:
        """Sum the host's bytes that a load takes, those of unified devices included."""
        of_host = sum(
            gpu.host_bytes_of(share.total_bytes)
            for gpu, share in zip(self.gpus, shares, strict=True)
        )
        passing = 0
        if not self.sizes.settings.mmap:
            passing = max((share.largest_buffer_bytes for share in shares), default=0)
        return host.total_bytes + max(of_host, passing)

    def with_encoder(self, placement: Placement) -> Placement:
        """Put the image encoder on the first GPU that holds layers and has room for it, else on
        the host: an image is encoded once, the model's layers are needed for every token."""
        mmproj = self.sizes.settings.mmproj
        if mmproj is None:
            return placement
        *gpus, host = placement.devices
        for i, gpu in enumerate(gpus):
            named = gpu.engine_name is not None and gpu.layers > 0
            with_it = replace(gpu, encoder_bytes=mmproj.size_bytes)
            shares = (*gpus[:i], with_it, *gpus[i + 1 :])
            room = with_it.total_bytes <= gpu.free_bytes
            if named and room and self._host_bytes(shares, host) <= host.free_bytes:
                return replace(placement, devices=(*shares, host))
        if not gpus:
            return with_encoder_on_host(placement, mmproj.size_bytes)
        with_it = replace(host, encoder_bytes=mmproj.size_bytes)
        fits = host.fits and self._host_bytes(gpus, with_it) <= host.free_bytes
        return replace(placement, devices=(*gpus, replace(with_it, fits=fits)))

    def _host_compute(self, first: int, cpu_moe: int) -> int:
        sizes = self.sizes
        idle = first == 0 and not cpu_moe and sizes.settings.kv_offload
        compute = 0 if idle else sizes.needed.compute_bytes
        return sizes.inputs_bytes + sizes.needed.output_bytes + compute

    def _pinned(self, shares: Sequence[DeviceShare]) -> bool:
        """Return True when weights on the host lie in a device's host buffer, which the CPU does
        not repack (`make_cpu_buft_list`). Metal has none."""
        return any(
            share.layers and gpu.backend is not Backend.METAL
            for gpu, share in zip(self.gpus, shares, strict=True)
        )


def host_placement(
    needed: Footprint, *, repacked_bytes: int, free_bytes: int, layers: int
) -> Placement:
    """Put a load without its image encoder on the host. A mapped file whose repacked copies do not
    fit beside it is read instead. `layers` counts the output as one."""
    mapped = _on_host(needed, 0, free_bytes, layers)
    if mapped.fits or not repacked_bytes:
        return mapped
    read = _on_host(needed, repacked_bytes, free_bytes, layers)
    return replace(read, mmap=False) if read.fits else mapped


def _on_host(needed: Footprint, saved_bytes: int, free_bytes: int, layers: int) -> Placement:
    share = DeviceShare(
        name=HOST,
        weights_bytes=needed.weights_bytes + needed.adapter_bytes,
        kv_bytes=needed.kv_bytes + needed.recurrent_bytes,
        compute_bytes=needed.compute_bytes + needed.output_bytes,
        overhead_bytes=needed.overhead_bytes - saved_bytes,
        free_bytes=free_bytes,
    )
    share = replace(share, fits=share.total_bytes <= share.free_bytes)
    return Placement(gpu_layers=0, cpu_moe=0, devices=(share,), layout=(0,) * layers)


def with_encoder_on_host(placement: Placement, size_bytes: int) -> Placement:
    """Add an image encoder to a load that lies on the host alone."""
    share = replace(placement.host, encoder_bytes=size_bytes)
    fits = share.fits and share.total_bytes <= share.free_bytes
    return replace(placement, devices=(replace(share, fits=fits),))


def _overhead(gpu: GpuBudget) -> int:
    return DEVICE_OVERHEAD_BYTES.get(gpu.backend, _OTHER_OVERHEAD_BYTES)


def _proportional(gpus: Sequence[GpuBudget], first: int, end: int) -> _Bounds:
    """Split as llama.cpp does by itself: in proportion to free memory (`std::upper_bound` over
    the cumulated shares)."""
    cumulated = list(accumulate(max(gpu.free_bytes, 1) for gpu in gpus))
    bounds = [value / cumulated[-1] for value in cumulated]
    count, last = end - first, len(gpus) - 1
    devices = [min(bisect_right(bounds, i / count), last) for i in range(count)]
    return (*(first + bisect_right(devices, gpu - 1) for gpu in range(len(gpus))), end)
