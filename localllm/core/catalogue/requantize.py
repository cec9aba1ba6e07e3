"""The header of one quant of a model, rewritten as the header of another one.

All quants of a model are made from one set of tensors, so one header tells their names and
shapes, and `core/catalogue/quant_mix.py` the type that llama.cpp gives each. `Requantizer.match`
picks the mix for a file of which only its label and its length are known.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod

from localllm.core.catalogue.quant_mix import Category, QuantTraits, category, fixed_type, quant_mix
from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import BLOCKS, GgmlType, row_bytes
from localllm.core.model.spec import ModelSpec, TensorInfo

_IN_LAYER = re.compile(r"blk\.\d+\.")
_FLOATS = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
_VALUES = (Category.ATTENTION_V, Category.ATTENTION_QKV)
_FEED_FORWARD = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMix:
    """A quant mix as a publisher applies it (see `quant_mix.QuantTraits`), and the bytes of the
    model's tensors in it. `experts_kept`: the experts stay in MXFP4, as they were trained."""

    quant: str
    imatrix: bool
    fused_as_value: bool
    weights_bytes: int
    experts_kept: bool = False


@dataclass(frozen=True, slots=True)
class _TensorGroup:
    """Tensors that a mix treats alike: `members` are their indices in the header, `places` their
    positions among the `total` that the mix counts."""

    kind: Category
    shape: tuple[int, ...]
    members: tuple[int, ...]
    places: tuple[int, ...]
    total: int


class Requantizer:
    """The tensors of a header, to be given other types.

    Raises GgufError for a header whose heads or layers are no numbers.
    """

    def __init__(self, header: ModelSpec) -> None:
        self.header = header
        heads, kv_heads = header.head_count(0), header.head_count_kv(0)
        self._gqa = heads // kv_heads if kv_heads else 0
        self._experts = header.experts
        self._is_70b = header.arch.type_70b.applies(
            layers=header.layers, heads=heads, kv_heads=kv_heads
        )
        self._tied = all(tensor.name != "output.weight" for tensor in header.tensors)
        self._groups = tuple(_groups(header))
        self._mxfp4_experts = frozenset(
            i
            for i, tensor in enumerate(header.tensors)
            if tensor.type is GgmlType.MXFP4 and "_exps." in tensor.name
        )
        self._mixes: dict[tuple[str, bool, bool, bool], AppliedMix] = {}

    @property
    def own_bytes(self) -> int:
        """The bytes of the header's own tensors, without the gaps between them."""
        return sum(tensor.size_bytes for tensor in self.header.tensors)

    def match(self, labels: Iterable[str], weights_bytes: int) -> AppliedMix:
        """Find the mix of `labels` (keys of FILE_TYPES) whose weights are nearest to these.

        A label has several: with an importance matrix or without, with fused attention matrices as
        llama.cpp treated them before 2026 or since, and with experts that stay in MXFP4: those of
        gpt-oss do, whatever the quant, because that is what they were trained in.
        """
        kept = (True, False) if self._mxfp4_experts else (False,)
        applied = [
            self._apply(label, imatrix, fused, experts_kept)
            for label, imatrix, fused, experts_kept in product(
                labels, self._imatrix_first, (False, True), kept
            )
        ]
        return min(applied, key=lambda mix: abs(mix.weights_bytes - weights_bytes))

    @property
    def _imatrix_first(self) -> tuple[bool, bool]:
        """With an importance matrix and without, or the reverse: first what the header says of its
        own file, so that it wins where both weigh alike."""
        stated = "quantize.imatrix.file" in self.header.metadata
        return stated, not stated

    def spec(
        self, mix: AppliedMix, *, file_bytes: int, weights_bytes: int | None = None
    ) -> ModelSpec:
        """Write the header that a file of this mix has.

        With `weights_bytes` the quantized tensors are made larger or smaller by one factor, so
        that all together weigh that much: for a file whose publisher gave some tensors other
        types. Their types stay those of the mix.
        """
        types = self._types(mix)
        sizes = [_bytes(kind, t.shape) for kind, t in zip(types, self.header.tensors, strict=True)]
        if weights_bytes is not None:
            sizes = self._scaled(sizes, weights_bytes)
        metadata = {
            **self.header.metadata,
            "general.file_type": FILE_TYPES[mix.quant].number,
        }
        return replace(
            self.header,
            metadata=metadata,
            tensors=tuple(_with_offsets(self.header, types, sizes)),
            file_bytes=file_bytes,
        )

    def _scaled(self, sizes: list[int], weights_bytes: int) -> list[int]:
        """Scale the quantized tensors by one factor, so that all together are `weights_bytes`."""
        members = [i for group in self._groups for i in group.members]
        left = sum(sizes[i] for i in members)
        target = max(0, weights_bytes - (sum(sizes) - left))
        for i in members:  # of what is left, so that rounding adds up to the target
            scaled = target * sizes[i] // left if left else 0
            left, target = left - sizes[i], target - scaled
            sizes[i] = scaled
        return sizes

    def _types(self, mix: AppliedMix) -> list[GgmlType]:
        target = FILE_TYPES[mix.quant].default
        types = [_fixed_type(tensor, target) for tensor in self.header.tensors]
        traits = self._traits(mix.imatrix, mix.fused_as_value)
        rules = quant_mix(mix.quant, traits)
        kept = self._mxfp4_experts if mix.experts_kept else frozenset()
        for group in self._groups:
            rule = rules.type_rule(group.kind, group.shape)
            for i, place in zip(group.members, group.places, strict=True):
                types[i] = GgmlType.MXFP4 if i in kept else rule.at(place, group.total)
        return types

    def _apply(self, quant: str, imatrix: bool, fused: bool, experts_kept: bool) -> AppliedMix:
        key = (quant, imatrix, fused, experts_kept)
        if key not in self._mixes:
            mix = AppliedMix(
                quant=quant,
                imatrix=imatrix,
                fused_as_value=fused,
                weights_bytes=0,
                experts_kept=experts_kept,
            )
            types = zip(self._types(mix), self.header.tensors, strict=True)
            weight = sum(_bytes(kind, tensor.shape) for kind, tensor in types)
            self._mixes[key] = replace(mix, weights_bytes=weight)
        return self._mixes[key]

    def _traits(self, imatrix: bool, fused: bool) -> QuantTraits:
        return QuantTraits(
            output_q8_0=self.header.arch.output_q8_0,
            gqa=self._gqa,
            experts=self._experts,
            is_70b=self._is_70b,
            tied=self._tied,
            imatrix=imatrix,
            fused_as_value=fused,
        )


def _groups(header: ModelSpec) -> Iterator[_TensorGroup]:
    """Group the tensors whose type a mix decides."""
    kinds: dict[Category, list[int]] = {}
    for i, tensor in enumerate(header.tensors):
        name = _IN_LAYER.sub("", tensor.name)
        if fixed_type(name, tensor.shape, GgmlType.F16) is None:
            kinds.setdefault(category(name), []).append(i)
    values = _in_layer_order(header, (i for kind in _VALUES for i in kinds.get(kind, ())))
    value_places = {i: place for place, i in enumerate(values)}
    for kind, members in kinds.items():
        places, total = _places(header, kind, members), header.blocks
        if kind in _VALUES:
            places, total = value_places, len(values)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i in members:
            shapes.setdefault(header.tensors[i].shape, []).append(i)
        for shape, alike in shapes.items():
            yield _TensorGroup(kind, shape, tuple(alike), tuple(places[i] for i in alike), total)


def _places(header: ModelSpec, kind: Category, members: Sequence[int]) -> dict[int, int]:
    """Map tensors to their layers for models with experts, else to positions in layer order
    (`llama_tensor_get_type`)."""
    if kind in _FEED_FORWARD and header.experts <= 1:
        return {i: place for place, i in enumerate(_in_layer_order(header, members))}
    return {i: header.tensors[i].layer or 0 for i in members}


def _in_layer_order(header: ModelSpec, members: Iterable[int]) -> list[int]:
    return sorted(members, key=lambda i: header.tensors[i].layer or 0)


def _fixed_type(tensor: TensorInfo, target: GgmlType) -> GgmlType:
    """Return the type of a tensor that is never quantized: the header's, unless the target is an
    unquantized file, which holds it as the converter writes it."""
    if target not in _FLOATS or tensor.type not in _FLOATS:
        return tensor.type
    return fixed_type(_IN_LAYER.sub("", tensor.name), tensor.shape, target) or tensor.type


def _with_offsets(
    header: ModelSpec, types: Sequence[GgmlType], sizes: Sequence[int]
) -> Iterator[TensorInfo]:
    offset = 0
    for tensor, kind, size in zip(header.tensors, types, sizes, strict=True):
        yield replace(tensor, type=kind, offset=offset, size_bytes=size)
        offset += -(-size // header.alignment) * header.alignment


@lru_cache(maxsize=4096)
def _bytes(kind: GgmlType, shape: tuple[int, ...]) -> int:
    elements = prod(shape)
    if shape and shape[0] % BLOCKS[kind].elements:  # only what the header itself states
        return elements * BLOCKS[kind].size_bytes // BLOCKS[kind].elements
    return row_bytes(kind, elements)
