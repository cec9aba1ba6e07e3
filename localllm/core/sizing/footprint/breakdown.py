"""One load's memory as one breakdown, and the same layer by layer for placement."""

from dataclasses import dataclass, replace
from enum import StrEnum

from localllm.core.memoize import memoize_each
from localllm.core.model.architecture import Memory
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.footprint.cache import check, kv_bytes, recurrent_bytes
from localllm.core.sizing.footprint.compute import compute_bytes, output_bytes
from localllm.core.sizing.footprint.weights import (
    INTERPRETER_BYTES,
    embedding_bytes,
    held,
    loaded,
    overhead_bytes,
)
from localllm.core.sizing.load import LoadSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One breakdown, shown as it is everywhere.

    `weights_bytes` sums the tensors that are loaded; `overhead_bytes` is the repacked copy, the
    interpreter and the vocabulary; `adapter_bytes` are LoRA adapters, `encoder_bytes` an image
    encoder with what it computes in. `needs_probe` says in
    sentences which parts are estimates that only llama.cpp's dry run can confirm; empty means
    none.
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
        """What llama.cpp says it allocates besides the weights."""
        return self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.recurrent_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.overhead_bytes
            + self.adapter_bytes
            + self.encoder_bytes
        )


class Part(StrEnum):
    """Where in the model a share of the memory lies."""

    INPUT = "input"  # embeddings: always on the host
    LAYER = "layer"
    OUTPUT = "output"  # output matrix and norms: one more "layer" when layers are placed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """One layer's share, or the input's or the output's (`layer` None).

    `weights_bytes` is with the adapters beside it and without `expert_bytes`, the routed experts
    that may stay on the CPU. `tied_bytes` is the size of an input embedding that is also the
    output matrix: a copy that is made, and not part of the sums, when the output lies on another
    device than the host.
    """

    part: Part
    layer: int | None
    weights_bytes: int
    expert_bytes: int = 0
    kv_bytes: int = 0
    recurrent_bytes: int = 0
    tied_bytes: int = 0


def of(spec: ModelSpec, settings: LoadSettings) -> Footprint:
    """Say what this load needs when it lies on one device.

    Raises UsageError for settings that llama.cpp refuses, GgufError for a header that lacks what
    every model has.
    """
    return _of(spec, _unplaced(settings))


def of_draft(spec: ModelSpec, settings: LoadSettings) -> Footprint:
    """What a draft model takes beside a model that is loaded like this, in the same process.

    Raises as `of`."""
    alone = of(spec, settings.of_draft())
    return replace(alone, overhead_bytes=alone.overhead_bytes - INTERPRETER_BYTES)


def _unplaced(settings: LoadSettings) -> LoadSettings:
    """The settings without those that move bytes but do not change how many there are."""
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
    check(spec, settings)
    return Footprint(
        weights_bytes=sum(tensor.size_bytes for tensor in loaded(spec)),
        kv_bytes=sum(kv_bytes(spec, settings)),
        recurrent_bytes=sum(recurrent_bytes(spec, settings)),
        compute_bytes=_scratch(spec, replace(settings, mmap=True)),
        output_bytes=output_bytes(spec, settings),
        overhead_bytes=overhead_bytes(spec, settings),
        needs_probe=_doubts(spec),
        adapter_bytes=sum(lora.size_bytes for lora in settings.loras),
        encoder_bytes=settings.mmproj.size_bytes if settings.mmproj else 0,
    )


@memoize_each
def _scratch(spec: ModelSpec, settings: LoadSettings) -> int:
    """The part that takes the longest to tell, and does not depend on how a file is read."""
    return compute_bytes(spec, settings)


def layers(spec: ModelSpec, settings: LoadSettings) -> tuple[LayerBytes, ...]:
    """Weights and cache of the input, of each layer and of the output, in that order.

    The parts sum to `weights_bytes` with `adapter_bytes`, `kv_bytes` and `recurrent_bytes` of
    `of`.
    """
    check(spec, settings)
    kv, state = kv_bytes(spec, settings), recurrent_bytes(spec, settings)
    weights, loras = held(spec), settings.loras
    return (
        LayerBytes(
            part=Part.INPUT,
            layer=None,
            weights_bytes=weights.input_bytes + sum(lora.input_bytes for lora in loras),
        ),
        *(
            LayerBytes(
                part=Part.LAYER,
                layer=i,
                weights_bytes=layer.plain_bytes + sum(lora.beside(i) for lora in loras),
                expert_bytes=layer.expert_bytes,
                kv_bytes=kv[i],
                recurrent_bytes=state[i],
            )
            for i, layer in enumerate(weights.layers)
        ),
        LayerBytes(
            part=Part.OUTPUT,
            layer=None,
            weights_bytes=weights.output.plain_bytes + sum(lora.output_bytes for lora in loras),
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
