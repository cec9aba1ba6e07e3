"""The verdict on one load: whether it fits the free memory, and the smallest change that helps.

The one place where estimate, placement and llama.cpp's dry run come together.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from localllm.core.hardware import HardwareInfo
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.comparison import ComparedPart, Comparison
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.load import (
    Allocation,
    BufferKind,
    Graphs,
    KvType,
    LoadSettings,
    Speculate,
)
from localllm.core.sizing.placement import HOST, Budget, DeviceShare, Placement, budget_of, place
from localllm.core.sizing.placement.budget import NO_BYTES
from localllm.core.units import format_bytes
from localllm.errors import DoesNotFit, UsageError

MIN_CONTEXT = 512
"""A shorter context than this is no help to anybody."""

PROBE_ABOVE = 0.8
"""A load that would take more than this part of the free memory is dry-run by llama.cpp first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The memory that a load needs against the memory that is free.

    `settings` are the requested ones with the placement filled in: what is sized is what is loaded.
    `advice` is the smallest change that would help when it does not fit, else None, and `advised`
    the settings with that change if one of them helps. `probed` is llama.cpp's dry run, if there
    was one; `placement` then holds the larger of both, and `estimated` the estimate alone. `draft`
    is the footprint of a draft model beside it: the devices' free bytes are without that.
    """

    footprint: Footprint
    settings: LoadSettings
    placement: Placement
    advice: str | None = None
    advised: LoadSettings | None = None
    probed: tuple[Allocation, ...] | None = None
    estimated: Placement | None = None
    draft: Footprint | None = None

    @property
    def fits(self) -> bool:
        return self.placement.fits

    @property
    def total_bytes(self) -> int:
        """The bytes on all devices."""
        return sum(share.total_bytes for share in self.placement.devices)

    @property
    def with_draft_bytes(self) -> int:
        """`total_bytes` with the draft model, if there is one."""
        return self.total_bytes + (self.draft.total_bytes if self.draft is not None else 0)

    @property
    def free_bytes(self) -> int:
        """The free bytes of the devices that are used."""
        return sum(max(0, share.free_bytes) for share in self.placement.devices)

    @property
    def wants_probe(self) -> bool:
        """True when the estimate is too near to the free memory, or too unsure, to rely on."""
        near = any(
            share.total_bytes > PROBE_ABOVE * share.free_bytes
            for share in self.placement.devices
            if share.total_bytes
        )
        return self.fits and (near or bool(self.footprint.needs_probe))

    def with_probe(self, allocations: tuple[Allocation, ...]) -> "Fit":
        """Take the larger of the estimate and llama.cpp's dry run, on each device and for cache
        and compute buffer apart. Weights and overhead are not part of a dry run."""
        kv, compute = _sums(allocations, self._gpus)
        shares = tuple(
            _larger(share, kv.get(_key(share), 0), compute.get(_key(share), 0))
            for share in self.placement.devices
        )
        placement = dataclasses.replace(self.placement, devices=shares)
        advice = self.advice
        if not placement.fits and advice is None:
            advice = "Try a smaller --ctx or a smaller quant, close other programs, or --force."
        return dataclasses.replace(
            self,
            placement=placement,
            probed=allocations,
            estimated=self.estimated or self.placement,
            advice=advice,
        )

    def allocated(self, loaded: tuple[Allocation, ...]) -> tuple[DeviceShare, ...]:
        """Return the share of each device with cache and compute buffers as llama.cpp has allocated
        them; the estimate's where it reported nothing."""
        if not loaded:
            return self.placement.devices
        kv, compute = _sums(loaded, self._gpus)
        return tuple(
            dataclasses.replace(
                share,
                kv_bytes=kv.get(_key(share), 0),
                compute_bytes=compute.get(_key(share), 0),
            )
            for share in self.placement.devices
        )

    def compared(
        self, loaded: tuple[Allocation, ...], draft: tuple[Allocation, ...] = ()
    ) -> Comparison:
        """Compare estimate and dry run with what llama.cpp then allocated, by device; and for the
        draft model."""
        kv, compute = _sums(loaded, self._gpus)
        probed = _sums(self.probed, self._gpus) if self.probed is not None else None
        parts = []
        for share in (self.estimated or self.placement).devices:
            key = _key(share)
            for part, estimated, sums, i in (
                ("cache", share.kv_bytes, kv, 0),
                ("computing", share.compute_bytes, compute, 1),
            ):
                compared = ComparedPart(
                    device=share.name,
                    part=part,
                    estimated_bytes=estimated,
                    probed_bytes=probed[i].get(key, 0) if probed is not None else None,
                    allocated_bytes=sums.get(key, 0),
                )
                parts.append(compared)
        mmproj = self.settings.mmproj
        computing = sum(a.size_bytes for a in loaded if a.kind is BufferKind.ENCODER)
        return Comparison(
            parts=tuple(parts),
            encoder_estimated_bytes=mmproj.compute_bytes if mmproj is not None else None,
            encoder_allocated_bytes=computing if mmproj is not None else None,
            draft_estimated_bytes=self.draft.buffer_bytes if self.draft is not None else None,
            draft_allocated_bytes=(
                sum(sum(each.values()) for each in _sums(draft, set()))
                if self.draft is not None
                else None
            ),
        )

    @property
    def _gpus(self) -> set[str | None]:
        return {share.engine_name for share in self.placement.devices[:-1]} - {None}

    def message(self, name: str) -> str:
        """Describe the refusal, with its numbers."""
        context = f"{self.settings.context} tokens of context"
        if self.settings.parallel > 1:
            context += f" for each of {self.settings.parallel} conversations"
        lacking = [_lack(share) for share in self.placement.devices if not share.fits]
        source = "" if self.probed is None else ", by llama.cpp's own dry run"
        beside = ""
        if self.draft is not None:
            beside = f" beside the {format_bytes(self.draft.total_bytes)} of its draft model"
        needs = f"{' and '.join(lacking)}{beside}{source}"
        return f"{name} with {context} needs {needs}. {self.advice or ''}".rstrip()


class TooLarge(DoesNotFit):
    """A load was refused: `fit` has the numbers, and the settings that would fit, if any do."""

    def __init__(self, name: str, fit: Fit) -> None:
        super().__init__(fit.message(name))
        self.fit = fit


def _lack(share: DeviceShare) -> str:
    if share.exceeds_max_buffer and share.max_buffer_bytes is not None:
        return (
            f"a buffer of {format_bytes(share.largest_buffer_bytes)} on {share.name}, whose "
            f"backend takes at most {format_bytes(share.max_buffer_bytes)} in one piece"
        )
    return (
        f"{format_bytes(share.total_bytes)} on {share.name}, where "
        f"{format_bytes(max(0, share.free_bytes))} is free"
    )


def _key(share: DeviceShare) -> str:
    return share.engine_name or HOST


def _sums(
    allocations: tuple[Allocation, ...], gpus: set[str | None]
) -> tuple[dict[str, int], dict[str, int]]:
    """Sum cache and compute buffers by device; a buffer on none of the GPUs ("CUDA_Host") is the
    host's."""
    kv: dict[str, int] = {}
    compute: dict[str, int] = {}
    for part in allocations:
        if part.kind in (BufferKind.WEIGHTS, BufferKind.ADAPTERS, BufferKind.ENCODER):
            continue
        sums = kv if part.kind in (BufferKind.KV, BufferKind.RECURRENT) else compute
        device = part.device if part.device in gpus else HOST
        sums[device] = sums.get(device, 0) + part.size_bytes
    return kv, compute


def _larger(share: DeviceShare, kv_bytes: int, compute_bytes: int) -> DeviceShare:
    larger = dataclasses.replace(
        share,
        kv_bytes=max(share.kv_bytes, kv_bytes),
        compute_bytes=max(share.compute_bytes, compute_bytes),
    )
    added = larger.total_bytes - share.total_bytes
    fits = share.fits and (not added or larger.total_bytes <= share.free_bytes)
    return dataclasses.replace(larger, fits=fits)


def fit_on(
    spec: ModelSpec,
    settings: LoadSettings,
    hardware: HardwareInfo,
    *,
    draft: ModelSpec | None = None,
    reserve_bytes: int = 0,
    returned_bytes: int = 0,
    returned_gpu_bytes: Mapping[str, int] = NO_BYTES,
) -> Fit:
    """Place a load on this machine as it is now, with `draft` beside it if the settings use one,
    for the build of llama.cpp that is its engine.

    The model to be replaced gives back `returned_bytes` of system memory when it is unloaded, and
    `returned_gpu_bytes` of each device, by the engine's name of it.
    """
    budget = budget_of(
        hardware,
        reserve_bytes=reserve_bytes,
        returned_bytes=returned_bytes,
        returned_gpu_bytes=returned_gpu_bytes,
    )
    engine = hardware.engine
    if engine is not None:
        settings = dataclasses.replace(settings, graphs=Graphs.of_commit(engine.commit))
    return fit_in(spec, settings, budget, draft)


def fit_in(
    spec: ModelSpec, settings: LoadSettings, budget: Budget, draft: ModelSpec | None = None
) -> Fit:
    """Place a load in a budget that was worked out before."""
    placement = place(spec, settings, budget, draft)
    chosen = placement.applied_to(settings)
    advice, advised = (None, None) if placement.fits else _advice(spec, settings, budget, draft)
    beside = draft if settings.active_draft is not None else None
    return Fit(
        footprint=footprint.of(spec, chosen),
        settings=chosen,
        placement=placement,
        advice=advice,
        advised=advised,
        draft=footprint.of_draft(beside, chosen) if beside is not None else None,
    )


def _advice(
    spec: ModelSpec, settings: LoadSettings, budget: Budget, draft: ModelSpec | None
) -> tuple[str, LoadSettings | None]:
    for words, changed in _changes(settings):
        try:
            placement = place(spec, changed, budget, draft)
        except UsageError:  # this model's cache cannot be of that type
            continue
        if placement.fits:
            total = sum(share.total_bytes for share in placement.devices)
            return f"Try {words} ({format_bytes(total)}).", changed
    weights = footprint.of(spec, settings).weights_bytes
    encoder = settings.mmproj.size_bytes if settings.mmproj is not None else 0
    beside = f", and the image encoder needs {format_bytes(encoder)}" if encoder else ""
    return (
        f"No setting makes it fit: the weights alone are {format_bytes(weights)}{beside}. "
        "Try a smaller quant or a smaller model, close other programs, or --force."
    ), None


def _changes(settings: LoadSettings) -> Iterator[tuple[str, LoadSettings]]:
    """Yield changes to a load, as options and settings, the least painful first."""
    if settings.gpu_layers:
        yield "--gpu-layers auto", dataclasses.replace(settings, gpu_layers=None)
    prefix = ""
    if settings.active_draft is not None:
        settings = dataclasses.replace(settings, speculate=Speculate.OFF)
        yield "--speculate off", settings
        prefix = "--speculate off "
    for parallel in _halves(settings.parallel, 1):
        yield f"{prefix}--parallel {parallel}", dataclasses.replace(settings, parallel=parallel)
    single = dataclasses.replace(settings, parallel=1)
    prefix += "--parallel 1 " if settings.parallel > 1 else ""
    for context in _halves(settings.context, MIN_CONTEXT):
        yield f"{prefix}--ctx {context}", dataclasses.replace(single, context=context)
    context = min(settings.context, MIN_CONTEXT)
    small = dataclasses.replace(
        single, context=context, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0
    )
    yield f"{prefix}--ctx {context} --kv-type q8_0", small


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value
