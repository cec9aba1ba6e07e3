"""The memory one load needs, part by part, in exact bytes: `of(spec, settings)`."""

from localllm.core.sizing.footprint.breakdown import (
    Footprint,
    LayerBytes,
    Part,
    layers,
    of,
    of_draft,
)

__all__ = ["Footprint", "LayerBytes", "Part", "layers", "of", "of_draft"]
