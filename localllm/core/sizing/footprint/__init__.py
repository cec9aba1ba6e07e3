"""The memory one load needs, part by part, in exact bytes: `of(spec, settings)`."""

from localllm.core.sizing.footprint.breakdown import (
    OVERHEAD,
    PARTS,
    Footprint,
    LayerBytes,
    LayerKind,
    MemoryPart,
    layers,
    of,
    of_draft,
)

__all__ = [
    "OVERHEAD",
    "PARTS",
    "Footprint",
    "LayerBytes",
    "LayerKind",
    "MemoryPart",
    "layers",
    "of",
    "of_draft",
]
