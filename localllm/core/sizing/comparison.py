"""Estimate, dry run and read-back of one load, side by side.

Compared is what all three know: the caches and the buffers that are computed in, output rows
included. Weights are not part of it (a dry run has none, and for a mapped file llama.cpp logs the
span of the mapping, not a sum), nor is what lies outside llama.cpp's buffers (the interpreter, the
vocabulary, a driver's context).
"""

from dataclasses import dataclass

from localllm.core.units import format_bytes
from localllm.translation import _


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPart:
    """One device's "cache" or "computing". `probed_bytes` is None without a dry run."""

    device: str
    part: str
    estimated_bytes: int
    probed_bytes: int | None
    allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The estimate of a load beside the buffers that llama.cpp then logged.

    An image encoder's compute buffer and a draft model stand apart: no dry run knows them. None
    without one.
    """

    parts: tuple[ComparedPart, ...]
    encoder_estimated_bytes: int | None = None
    encoder_allocated_bytes: int | None = None
    draft_estimated_bytes: int | None = None
    draft_allocated_bytes: int | None = None

    @property
    def estimated_bytes(self) -> int:
        return sum(part.estimated_bytes for part in self.parts)

    @property
    def probed_bytes(self) -> int | None:
        known = [part.probed_bytes for part in self.parts if part.probed_bytes is not None]
        return sum(known) if known else None

    @property
    def allocated_bytes(self) -> int:
        return sum(part.allocated_bytes for part in self.parts)

    @property
    def estimate_error_percent(self) -> float | None:
        """The estimate over what was allocated, in percent above it; None when nothing was
        allocated."""
        return self._error_percent(self.estimated_bytes)

    @property
    def probe_error_percent(self) -> float | None:
        """As `estimate_error_percent`, for the dry run; None without one."""
        return self._error_percent(self.probed_bytes)

    def _error_percent(self, expected: int | None) -> float | None:
        if expected is None or not self.allocated_bytes:
            return None
        return (expected / self.allocated_bytes - 1) * 100

    def sentence(self) -> str:
        """Describe all of it in one line."""
        figure = _figure(self.estimated_bytes, self.estimate_error_percent)
        figures = [_("estimated {size}").format(size=figure)]
        if self.probed_bytes is not None:
            figure = _figure(self.probed_bytes, self.probe_error_percent)
            figures.append(_("dry run {size}").format(size=figure))
        figures.append(_("allocated {size}").format(size=format_bytes(self.allocated_bytes)))
        sentence = _("cache and computing: {figures}").format(figures=", ".join(figures))
        for name, estimated, allocated in (
            (_("image encoder"), self.encoder_estimated_bytes, self.encoder_allocated_bytes),
            (_("draft model"), self.draft_estimated_bytes, self.draft_allocated_bytes),
        ):
            if estimated is not None and allocated is not None:
                sentence += "; " + _("{name}: estimated {estimated}, allocated {allocated}").format(
                    name=name, estimated=format_bytes(estimated), allocated=format_bytes(allocated)
                )
        return sentence


def _figure(size_bytes: int, error_percent: float | None) -> str:
    if error_percent is None:
        return format_bytes(size_bytes)
    rounded = round(error_percent, 2) + 0.0  # no "-0.00"
    return f"{format_bytes(size_bytes)} ({rounded:+.2f} %)"
