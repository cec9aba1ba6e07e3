"""The tensors of a model, from the hyperparameters its GGUF header would hold.

A catalogue entry has no file to read, so its tensors are worked out: names and shapes as
llama.cpp's `src/models/*.cpp` (`load_arch_tensors`) ask for them, in the build that
llama-cpp-python 0.3.36 carries. Layers whose tensors are alike share one `Stack`, so that adding
up a model takes tens of steps, not thousands. `benchmarks/check_catalogue.py` hands every entry
to llama.cpp itself, which refuses a missing, surplus or misshapen tensor.
"""

from dataclasses import dataclass
from math import prod

from localllm.core.blueprint.layers import layer_rows
from localllm.core.blueprint.outside import outer_rows
from localllm.core.blueprint.parts import Row
from localllm.core.blueprint.shape import Layer, Shape

# llama-hparams.h, LLAMA_MAX_LAYERS.
MAX_LAYERS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The tensors of one name: one for each of `layers`, or a single one outside the layers.

    `name` is the part after `blk.N.` for a layer's tensor and the whole name otherwise; `shape`
    is in ggml order (ne0, the contiguous one, first).
    """

    name: str
    shape: tuple[int, ...]
    layers: tuple[int, ...] | None

    @property
    def count(self) -> int:
        return 1 if self.layers is None else len(self.layers)

    @property
    def elements(self) -> int:
        """Elements of all the tensors together."""
        return prod(self.shape) * self.count

    def names(self) -> tuple[str, ...]:
        """Give the tensors' full names."""
        if self.layers is None:
            return (self.name,)
        return tuple(f"blk.{layer}.{self.name}" for layer in self.layers)


def stacks(shape: Shape) -> tuple[Stack, ...]:
    """Work out every tensor of a model.

    Raises KeyError, with the name, for an architecture that is not known here or a key that it
    needs and the header lacks; ValueError for a number of layers that llama.cpp would refuse.
    """
    if not 0 < shape.layers <= MAX_LAYERS:
        raise ValueError(f"{shape.layers} layers (at most {MAX_LAYERS} are believed)")
    members: dict[Layer, list[int]] = {}
    if shape.uniform:
        members[shape.layer(0)] = list(range(shape.layers))
    else:
        for i in range(shape.layers):
            members.setdefault(shape.layer(i), []).append(i)
    merged: dict[Row, list[int]] = {}
    for layer, indices in members.items():
        for row in layer_rows(shape, layer):
            merged.setdefault(row, []).extend(indices)
    outside = [Stack(name=n, shape=s, layers=None) for n, s in outer_rows(shape)]
    inside = [Stack(name=n, shape=s, layers=tuple(sorted(m))) for (n, s), m in merged.items()]
    return (*outside, *inside)
