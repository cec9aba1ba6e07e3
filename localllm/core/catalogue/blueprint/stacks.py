"""The tensors of a model, from the hyperparameters its GGUF header would hold.

A catalogue entry has no file to read, so its tensors are worked out: names and shapes as
llama.cpp's `src/models/*.cpp` (`load_arch_tensors`) ask for them, in the build that
llama-cpp-python 0.3.36 carries. Layers whose tensors are alike share one `Stack`, so that adding
up a model takes tens of steps, not thousands. `benchmarks/check_catalogue.py` hands every entry
to llama.cpp itself, which refuses a missing, surplus or misshapen tensor.
"""

from dataclasses import dataclass
from math import prod

from localllm.core.catalogue.blueprint.layers import layer_rows
from localllm.core.catalogue.blueprint.parts import ALTUP, Row
from localllm.core.catalogue.blueprint.shape import Layer, Shape
from localllm.core.model.architecture import TensorLayout
from localllm.core.model.spec import MAX_LAYERS


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


def outer_rows(s: Shape) -> list[Row]:
    """List the tensors outside the layers."""
    rows: list[Row] = [("token_embd.weight", (s.width, s.vocabulary))]
    layout = s.arch.layout
    if layout is not None and layout.is_encoder:
        return rows + _encoder_outside(s)
    # LFM2 calls the norm before the output the embedding's
    norm = "token_embd_norm" if layout is TensorLayout.LFM2 else "output_norm"
    rows.append((f"{norm}.weight", (s.width,)))
    if layout is TensorLayout.STARCODER2:
        rows.append(("output_norm.bias", (s.width,)))
    if not s.tied:
        rows.append(("output.weight", (s.width, s.vocabulary)))
    if "classifier" in s.extra:
        labels = s.gguf.get("classifier.output_labels", ())
        rows.append(
            ("cls.output.weight", (s.width, len(labels) if isinstance(labels, tuple) else 1))
        )
    rows += _rope_factors(s)
    if s.number("embedding_length_per_layer_input", 0):
        rows += _per_layer_outside(s)
    if s.number("dense_2_feat_out", 0):
        rows.append(("dense_2.weight", (s.width, s.number("dense_2_feat_out"))))
        rows.append(("dense_3.weight", (s.number("dense_3_feat_in"), s.width)))
    return rows


def _rope_factors(s: Shape) -> list[Row]:
    half = s.number("rope.dimension_count", s.head_size(s.layer(0))) // 2
    if "rope_freqs" in s.extra:
        return [("rope_freqs.weight", (half,))]
    if "rope_long_short" in s.extra:
        return [("rope_factors_long.weight", (half,)), ("rope_factors_short.weight", (half,))]
    return []


def _per_layer_outside(s: Shape) -> list[Row]:
    per_layer = s.number("embedding_length_per_layer_input")
    rows: list[Row] = [
        ("per_layer_token_embd.weight", (per_layer * s.layers, s.vocabulary)),
        ("per_layer_model_proj.weight", (s.width, per_layer * s.layers)),
        ("per_layer_proj_norm.weight", (per_layer,)),
    ]
    if s.arch.layout is TensorLayout.GEMMA3N:
        rows.append(("altup_proj.weight", (s.width, s.width, ALTUP - 1)))
        rows.append(("altup_unembd_proj.weight", (s.width, s.width, ALTUP - 1)))
    return rows


def _encoder_outside(s: Shape) -> list[Row]:
    rows: list[Row] = [("token_embd_norm.weight", (s.width,)), ("token_embd_norm.bias", (s.width,))]
    types = s.number("token_type_count", 1)
    if "token_types" in s.extra or types > 1:
        rows.append(("token_types.weight", (s.width, types)))
    if s.arch.layout is TensorLayout.BERT:
        rows.append(("position_embd.weight", (s.width, s.context)))
    if "classifier" in s.extra:
        rows += [("cls.weight", (s.width, s.width)), ("cls.bias", (s.width,))]
        rows += [("cls.output.weight", (s.width, 1)), ("cls.output.bias", (1,))]
    return rows
