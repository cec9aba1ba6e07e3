"""One load's memory as one breakdown, and the same layer by layer for placement."""

from dataclasses import dataclass, replace
from enum import StrEnum

from localllm.core.memoize import memoize_each
from localllm.core.model.architecture import Memory
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import check_settings, kv_bytes, recurrent_bytes
from localllm.core.sizing.footprint.compute import compute_bytes, output_bytes
from localllm.core.sizing.footprint.weights import (
    INTERPRETER_BYTES,
    embedding_bytes,
    loaded_tensors,
    overhead_bytes,
    weights_by_layer,
)
from localllm.core.sizing.load import BufferKind, LoadSettings
from localllm.translation import N_


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The memory of one load in the parts of `PARTS`, shown as it is everywhere.

    `weights_bytes` sums the tensors that are loaded; `overhead_bytes` is the repacked copies, the
    interpreter and the vocabulary; `adapter_bytes` are LoRA adapters, `encoder_bytes` an image
    encoder with its compute buffer. `needs_probe` are sentences on the parts that only llama.cpp's
    dry run can confirm.
    """

    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int
    needs_probe: tuple[str, ...] = ()
    adapter_bytes: int = 0
    encoder_bytes: int = 0

    @property
    def buffer_bytes(self) -> int:
        """The parts that llama.cpp logs besides the weights."""
        return self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes_in(self) for part in PARTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One part of a footprint: `field` is its name there and in JSON, `short_label` the label for
    narrow columns.

    `kind` is what llama.cpp calls the buffers that compare with it, None where none do: overhead
    is not llama.cpp's to report, and of an image encoder it reports the compute buffer alone.
    `in_dry_run`: a dry run counts it. Others are not allocated then, which says nothing of them.
    """

    label: str
    short_label: str
    field: str
    kind: BufferKind | None = None
    in_dry_run: bool = False

    def bytes_in(self, footprint: Footprint) -> int:
        size_bytes: int = getattr(footprint, self.field)
        return size_bytes


OVERHEAD = MemoryPart(label="overhead", short_label=N_("overhead"), field="overhead_bytes")
"""The part that every load has and no log of llama.cpp shows."""

PARTS = (
    MemoryPart(
        label="weights", short_label=N_("weights"), field="weights_bytes", kind=BufferKind.WEIGHTS
    ),
    MemoryPart(
        label="adapters",
        short_label=N_("adapters"),
        field="adapter_bytes",
        kind=BufferKind.ADAPTERS,
    ),
    MemoryPart(label="image encoder", short_label=N_("encoder"), field="encoder_bytes"),
    MemoryPart(
        label="KV cache",
        short_label=N_("KV cache"),
        field="kv_bytes",
        kind=BufferKind.KV,
        in_dry_run=True,
    ),
    MemoryPart(
        label="recurrent state",
        short_label=N_("recurrent"),
        field="recurrent_bytes",
        kind=BufferKind.RECURRENT,
        in_dry_run=True,
    ),
    MemoryPart(
        label="compute",
        short_label=N_("compute"),
        field="compute_bytes",
        kind=BufferKind.COMPUTE,
        in_dry_run=True,
    ),
    MemoryPart(
        label="output",
        short_label=N_("output"),
        field="output_bytes",
        kind=BufferKind.OUTPUT,
        in_dry_run=True,
    ),
    OVERHEAD,
)
"""The parts of a footprint, in the order in which they are shown."""


class LayerKind(StrEnum):
    """The place of a tensor in the model (`llm_tensor_layer` in `src/llama-arch.h`)."""

    INPUT = "input"  # embeddings: always on the host
    REPEATING = "repeating"
    OUTPUT = "output"  # output matrix and norms: one more "layer" when layers are placed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """The bytes of one layer, or of the input or the output (`layer` None).

    `weights_bytes` is with its adapters and without `expert_bytes`, the routed experts that may
    stay on the CPU. `tied_bytes` is the size of an input embedding that is also the output matrix:
    a copy, not part of the sums, that is made when the output does not lie on the host.
    """

    kind: LayerKind
    layer: int | None
    weights_bytes: int
    expert_bytes: int = 0
    kv_bytes: int = 0
    recurrent_bytes: int = 0
    tied_bytes: int = 0


def of(spec: ModelSpec, settings: LoadSettings) -> Footprint:
    """Size a load that lies on one device.

    Raises UsageError for settings that llama.cpp refuses, GgufError for a header that lacks what
    every model has.
    """
    return _of(spec, _unplaced(settings))


def of_draft(spec: ModelSpec, settings: LoadSettings) -> Footprint:
    """Size a draft model beside a model that is loaded like this, in the same process.

    Raises as `of`."""
    alone = of(spec, settings.for_draft())
    return replace(alone, overhead_bytes=alone.overhead_bytes - INTERPRETER_BYTES)


def _unplaced(settings: LoadSettings) -> LoadSettings:
    """Reset the settings that move bytes but do not change how many there are."""
    return replace(
        settings,
        gpu_layers=None,
        cpu_moe=0,
        threads=None,
        kv_offload=True,
        devices=None,
        tensor_split=(),
    )


@memoize_each
def _of(spec: ModelSpec, settings: LoadSettings) -> Footprint:
    check_settings(spec, settings)
    return Footprint(
        weights_bytes=sum(tensor.size_bytes for tensor in loaded_tensors(spec)),
        kv_bytes=sum(kv_bytes(spec, settings)),
        recurrent_bytes=sum(recurrent_bytes(spec, settings)),
        compute_bytes=_compute_bytes(spec, replace(settings, mmap=True)),
        output_bytes=output_bytes(spec, settings),
        overhead_bytes=overhead_bytes(spec, settings),
        needs_probe=_doubts(spec),
        adapter_bytes=sum(lora.size_bytes for lora in settings.loras),
        encoder_bytes=settings.mmproj.size_bytes if settings.mmproj else 0,
    )


@memoize_each
def _compute_bytes(spec: ModelSpec, settings: LoadSettings) -> int:
    """Memoize the part that takes the longest; it does not depend on how a file is read."""
    return compute_bytes(spec, settings)


def layers(spec: ModelSpec, settings: LoadSettings) -> tuple[LayerBytes, ...]:
    """Size weights and cache of the input, of each layer and of the output, in that order.

    They sum to `weights_bytes` with `adapter_bytes`, `kv_bytes` and `recurrent_bytes` of `of`.
    """
    check_settings(spec, settings)
    kv, state = kv_bytes(spec, settings), recurrent_bytes(spec, settings)
    weights, loras = weights_by_layer(spec), settings.loras
    return (
        LayerBytes(
            kind=LayerKind.INPUT,
            layer=None,
            weights_bytes=weights.input_bytes + sum(lora.input_bytes for lora in loras),
        ),
        *(
            LayerBytes(
                kind=LayerKind.REPEATING,
                layer=i,
                weights_bytes=layer.dense_bytes + sum(lora.bytes_in(i) for lora in loras),
                expert_bytes=layer.expert_bytes,
                kv_bytes=kv[i],
                recurrent_bytes=state[i],
            )
            for i, layer in enumerate(weights.layers)
        ),
        LayerBytes(
            kind=LayerKind.OUTPUT,
            layer=None,
            weights_bytes=weights.output.dense_bytes + sum(lora.output_bytes for lora in loras),
            tied_bytes=embedding_bytes(spec) if spec.tied else 0,
        ),
    )


def _doubts(spec: ModelSpec) -> tuple[str, ...]:
    if not spec.arch.known:
        return (
            f"{spec.architecture} is an architecture that is not known here: "
            "its cache is sized like plain attention and its compute buffer roughly",
        )
    doubts: tuple[str, ...] = ()
    if spec.arch.memory is Memory.OTHER:
        doubts = (f"{spec.architecture} has a cache of a kind that is not summed here",)
    if not spec.arch.confirmed:
        doubts += (
            f"the compute buffer of {spec.architecture} is taken from like models "
            "and was not compared with llama.cpp",
        )
    return doubts
