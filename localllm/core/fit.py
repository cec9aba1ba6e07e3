"""Whether one load fits what is free, and the smallest change that would help when not."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from localllm.core import footprint
from localllm.core.footprint import Footprint
from localllm.core.hardware import HardwareInfo
from localllm.core.load import KvType, LoadSettings
from localllm.core.model import ModelSpec
from localllm.core.placement import Budget, Placement, budget, place
from localllm.core.units import format_bytes

MIN_CONTEXT = 512
"""A shorter context than this is no help to anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a load would need against what is free.

    `settings` are those asked for with the placement filled in: what is sized is what is loaded.
    `advice` is the smallest change that would help when it does not fit, else None.
    """

    footprint: Footprint
    settings: LoadSettings
    placement: Placement
    advice: str | None = None

    @property
    def fits(self) -> bool:
        return self.placement.fits

    @property
    def total_bytes(self) -> int:
        """Over all devices."""
        return sum(share.total_bytes for share in self.placement.devices)

    @property
    def free_bytes(self) -> int:
        """Of the devices that are used."""
        return sum(max(0, share.free_bytes) for share in self.placement.devices)

    def message(self, name: str) -> str:
        """The refusal, with its numbers."""
        context = f"{self.settings.context} tokens of context"
        if self.settings.parallel > 1:
            context += f" for each of {self.settings.parallel} conversations"
        lacking = [
            f"{format_bytes(share.total_bytes)} on {share.name}, where "
            f"{format_bytes(max(0, share.free_bytes))} is free"
            for share in self.placement.devices
            if not share.fits
        ]
        return f"{name} with {context} needs {' and '.join(lacking)}. {self.advice or ''}".rstrip()


def weigh(
    spec: ModelSpec,
    settings: LoadSettings,
    hardware: HardwareInfo,
    *,
    reserve_bytes: int = 0,
    returned_bytes: int = 0,
) -> Fit:
    """Place a load on this machine as it is now.

    `returned_bytes` of system memory come back when the model to be replaced is unloaded.
    """
    room = budget(hardware, reserve_bytes=reserve_bytes, returned_bytes=returned_bytes)
    placement = place(spec, settings, room)
    return Fit(
        footprint=footprint.of(spec, settings),
        settings=dataclasses.replace(
            settings, gpu_layers=placement.gpu_layers, cpu_moe=placement.cpu_moe
        ),
        placement=placement,
        advice=None if placement.fits else _advice(spec, settings, room),
    )


def _advice(spec: ModelSpec, settings: LoadSettings, room: Budget) -> str:
    for words, changed in _changes(settings):
        placement = place(spec, changed, room)
        if placement.fits:
            total = sum(share.total_bytes for share in placement.devices)
            return f"Try {words} ({format_bytes(total)})."
    weights = footprint.of(spec, settings).weights_bytes
    return (
        f"No setting makes it fit: the weights alone are {format_bytes(weights)}. "
        "Try a smaller quant or a smaller model, close other programs, or --force."
    )


def _changes(settings: LoadSettings) -> Iterator[tuple[str, LoadSettings]]:
    """Changes to a load, the least painful first."""
    if settings.gpu_layers:
        yield "--gpu-layers auto", dataclasses.replace(settings, gpu_layers=None)
    for parallel in _halves(settings.parallel, 1):
        yield f"--parallel {parallel}", dataclasses.replace(settings, parallel=parallel)
    single = dataclasses.replace(settings, parallel=1)
    prefix = "--parallel 1 " if settings.parallel > 1 else ""
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
