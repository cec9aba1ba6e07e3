"""The tensors of a model, from the hyperparameters its GGUF header would hold.

A catalogue entry has no file to read, so its tensors are worked out: names and shapes as
llama.cpp's `src/models/*.cpp` (`load_arch_tensors`) ask for them, in the build that
llama-cpp-python 0.3.36 carries. Layers whose tensors are alike share one `RepeatedTensor`, so that
adding up a model takes tens of steps, not thousands. `benchmarks/check_catalogue.py` hands every
entry to llama.cpp itself, which refuses a missing, surplus or misshapen tensor.
"""

from dataclasses import dataclass
from math import prod

from localllm.core.catalogue.blueprint.hparams import HParams, LayerParams
from localllm.core.catalogue.blueprint.layers import layer_tensors
from localllm.core.catalogue.blueprint.parts import ALTUP, NamedShape
from localllm.core.model.architecture import TensorLayout
from localllm.core.model.spec import MAX_LAYERS


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedTensor:
    """The tensors of one name: one for each of `layers`, or a single one outside the layers.

    `name` is the part after `blk.N.` for a layer's tensor and the whole name otherwise; `shape`
    is in ggml order (ne0, the contiguous one, first).
    """

    name: str
    shape: tuple[int, ...]
    layers: tuple[int, ...] | None

    @property
    def count(self) -> int:
        """The number of tensors."""
        return 1 if self.layers is None else len(self.layers)

    @property
    def elements(self) -> int:
        """Elements of all the tensors together."""
        return prod(self.shape) * self.count

    def names(self) -> tuple[str, ...]:
        """Return the tensors' full names."""
        if self.layers is None:
            return (self.name,)
        return tuple(f"blk.{layer}.{self.name}" for layer in self.layers)


def repeated_tensors(hparams: HParams) -> tuple[RepeatedTensor, ...]:
    """Work out every tensor of a model.

    Raises KeyError, with the name, for an architecture that is not known here or a key that it
    needs and that is missing; ValueError for a number of layers that llama.cpp would refuse.
    """
    if not 0 < hparams.layers <= MAX_LAYERS:
        raise ValueError(f"{hparams.layers} layers (at most {MAX_LAYERS} are believed)")
    members: dict[LayerParams, list[int]] = {}
    if hparams.uniform:
        members[hparams.layer(0)] = list(range(hparams.layers))
    else:
        for i in range(hparams.layers):
            members.setdefault(hparams.layer(i), []).append(i)
    merged: dict[NamedShape, list[int]] = {}
    for layer, indices in members.items():
        for named_shape in layer_tensors(hparams, layer):
            merged.setdefault(named_shape, []).extend(indices)
    outside = [RepeatedTensor(name=n, shape=s, layers=None) for n, s in outer_tensors(hparams)]
    inside = [
        RepeatedTensor(name=n, shape=s, layers=tuple(sorted(m))) for (n, s), m in merged.items()
    ]
    return (*outside, *inside)


def outer_tensors(h: HParams) -> list[NamedShape]:
    """List the tensors outside the layers."""
    rows: list[NamedShape] = [("token_embd.weight", (h.width, h.vocabulary))]
    layout = h.arch.layout
    if layout is not None and layout.is_encoder:
        return rows + _encoder_outside(h)
    # LFM2 calls the norm before the output the embedding's
    norm = "token_embd_norm" if layout is TensorLayout.LFM2 else "output_norm"
    rows.append((f"{norm}.weight", (h.width,)))
    if layout is TensorLayout.STARCODER2:
        rows.append(("output_norm.bias", (h.width,)))
    if not h.tied:
        rows.append(("output.weight", (h.width, h.vocabulary)))
    if "classifier" in h.extra:
        labels = h.gguf.get("classifier.output_labels", ())
        rows.append(
            ("cls.output.weight", (h.width, len(labels) if isinstance(labels, tuple) else 1))
        )
    rows += _rope_factors(h)
    if h.number("embedding_length_per_layer_input", 0):
        rows += _per_layer_outside(h)
    if h.number("dense_2_feat_out", 0):
        rows.append(("dense_2.weight", (h.width, h.number("dense_2_feat_out"))))
        rows.append(("dense_3.weight", (h.number("dense_3_feat_in"), h.width)))
    return rows


def _rope_factors(h: HParams) -> list[NamedShape]:
    half = h.number("rope.dimension_count", h.head_size(h.layer(0))) // 2
    if "rope_freqs" in h.extra:
        return [("rope_freqs.weight", (half,))]
    if "rope_long_short" in h.extra:
        return [("rope_factors_long.weight", (half,)), ("rope_factors_short.weight", (half,))]
    return []


def _per_layer_outside(h: HParams) -> list[NamedShape]:
    per_layer = h.number("embedding_length_per_layer_input")
    rows: list[NamedShape] = [
        ("per_layer_token_embd.weight", (per_layer * h.layers, h.vocabulary)),
        ("per_layer_model_proj.weight", (h.width, per_layer * h.layers)),
        ("per_layer_proj_norm.weight", (per_layer,)),
    ]
    if h.arch.layout is TensorLayout.GEMMA3N:
        rows.append(("altup_proj.weight", (h.width, h.width, ALTUP - 1)))
        rows.append(("altup_unembd_proj.weight", (h.width, h.width, ALTUP - 1)))
    return rows


def _encoder_outside(h: HParams) -> list[NamedShape]:
    rows: list[NamedShape] = [
        ("token_embd_norm.weight", (h.width,)),
        ("token_embd_norm.bias", (h.width,)),
    ]
    types = h.number("token_type_count", 1)
    if "token_types" in h.extra or types > 1:
        rows.append(("token_types.weight", (h.width, types)))
    if h.arch.layout is TensorLayout.BERT:
        rows.append(("position_embd.weight", (h.width, h.context)))
    if "classifier" in h.extra:
        rows += [("cls.weight", (h.width, h.width)), ("cls.bias", (h.width,))]
        rows += [("cls.output.weight", (h.width, 1)), ("cls.output.bias", (1,))]
    return rows
