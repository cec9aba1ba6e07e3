"""Whether one load fits what is free, and the smallest change that would help when not."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from localllm.core import footprint
from localllm.core.footprint import Footprint
from localllm.core.hardware import HardwareInfo
from localllm.core.load import KvType, LoadSettings
from localllm.core.model import ModelSpec
from localllm.core.units import format_bytes

MIN_CONTEXT = 512
"""A shorter context than this is no help to anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a load would need against what is free. `advice` is the smallest change that would
    help when it does not fit, else None."""

    footprint: Footprint
    settings: LoadSettings
    free_bytes: int
    fits: bool
    advice: str | None = None

    def message(self, name: str) -> str:
        """The refusal, with its numbers."""
        context = f"{self.settings.context} tokens of context"
        if self.settings.parallel > 1:
            context += f" for each of {self.settings.parallel} conversations"
        return (
            f"{name} needs {format_bytes(self.footprint.total_bytes)} with {context}; "
            f"{format_bytes(max(0, self.free_bytes))} is free. {self.advice or ''}".rstrip()
        )


def weigh(
    spec: ModelSpec,
    settings: LoadSettings,
    hardware: HardwareInfo,
    *,
    reserve_bytes: int = 0,
    returned_bytes: int = 0,
) -> Fit:
    """Compare the footprint with system memory: available, minus the reserve, plus what the
    model about to be unloaded gives back."""
    free_bytes = hardware.ram.available_bytes - reserve_bytes + returned_bytes
    needed = footprint.of(spec, settings)
    fits = needed.total_bytes <= free_bytes
    return Fit(
        footprint=needed,
        settings=settings,
        free_bytes=free_bytes,
        fits=fits,
        advice=None if fits else _advice(spec, settings, free_bytes),
    )


def _advice(spec: ModelSpec, settings: LoadSettings, free_bytes: int) -> str:
    for words, changed in _changes(settings):
        needed = footprint.of(spec, changed).total_bytes
        if needed <= free_bytes:
            return f"Try {words} ({format_bytes(needed)})."
    weights = footprint.of(spec, settings).weights_bytes
    return (
        f"No setting makes it fit: the weights alone are {format_bytes(weights)}. "
        "Try a smaller quant or a smaller model, close other programs, or --force."
    )


def _changes(settings: LoadSettings) -> Iterator[tuple[str, LoadSettings]]:
    """Changes to a load, the least painful first."""
    for parallel in _halves(settings.parallel, 1):
        yield f"--parallel {parallel}", dataclasses.replace(settings, parallel=parallel)
    single = dataclasses.replace(settings, parallel=1)
    prefix = "--parallel 1 " if settings.parallel > 1 else ""
    for context in _halves(settings.context, MIN_CONTEXT):
        yield f"{prefix}--ctx {context}", dataclasses.replace(single, context=context)
    smallest = dataclasses.replace(
        single,
        context=min(settings.context, MIN_CONTEXT),
        kv_type_k=KvType.Q8_0,
        kv_type_v=KvType.Q8_0,
    )
    yield f"{prefix}--ctx {smallest.context} --kv-type q8_0", smallest


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value
