"""The loaded tensors summed by slot, the unit that is placed: a layer, or the output."""

from dataclasses import dataclass

from localllm.core.footprint.overhead import REPACKED_X86_AVX2, repacked
from localllm.core.footprint.weights import home, loaded, on_input
from localllm.core.model import ModelSpec
from localllm.core.once import once


@dataclass(frozen=True, slots=True)
class Slot:
    """What one slot holds: bytes together, of the largest tensor, and of those that the CPU
    rearranges; routed experts apart."""

    plain_bytes: int = 0
    largest_plain: int = 0
    rearranged_plain: int = 0
    expert_bytes: int = 0
    largest_expert: int = 0
    rearranged_expert: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The slots of the layers that every token passes, and of the output. `input_bytes` are the
    embeddings, which lie on no slot."""

    input_bytes: int
    layers: tuple[Slot, ...]
    output: Slot


@once
def held(spec: ModelSpec) -> Held:
    """Sum the tensors of a model by where they lie."""
    layers, output = [[0] * 6 for _ in range(spec.layers)], [0] * 6
    input_bytes = 0
    for tensor in loaded(spec):
        layer, size = home(tensor), tensor.size_bytes
        if layer is None and on_input(tensor):
            input_bytes += size
            continue
        sums = output if layer is None else layers[layer]
        part = 3 if layer is not None and tensor.expert else 0  # of Slot's fields
        sums[part] += size
        sums[part + 1] = max(sums[part + 1], size)
        if repacked(tensor, REPACKED_X86_AVX2):
            sums[part + 2] += size
    return Held(
        input_bytes=input_bytes,
        layers=tuple(Slot(*sums) for sums in layers),
        output=Slot(*output),
    )
