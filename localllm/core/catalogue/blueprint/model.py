"""The blueprint of a model that is not on this disk: its tensors, sizes and header for any quant.

What a `ModelSpec` reads from a file is computed here from hyperparameters, for the catalogue.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from localllm.core.catalogue.blueprint.hparams import HParams
from localllm.core.catalogue.blueprint.tensors import RepeatedTensor, repeated_tensors
from localllm.core.catalogue.quant_mix import (
    Category,
    Positions,
    QuantTraits,
    category,
    fixed_type,
    quant_mix,
)
from localllm.core.memoize import memoize, memoize_each
from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.model.spec import MetadataValue, ModelSpec, TensorInfo
from localllm.core.sizing.footprint.weights import is_input_name
from localllm.core.speed import WeightRead, Workload, cache_workload

# GGUF's default; every tensor of a file starts at a multiple of it.
ALIGNMENT = 32
# Bytes of header per token of the vocabulary, by `tokenizer.ggml.model`: the difference between
# published files and their tensors, medians of tests/core/data/published_sizes.csv. The gpt2 kind
# holds merges too; Llama 3 and gpt-oss, with many of them, have 61 and 65.
_HEADER_BYTES_PER_TOKEN: Mapping[str, int] = {"gpt2": 39, "llama": 24, "bert": 21, "t5": 27}

_VALUES = (Category.ATTENTION_V, Category.ATTENTION_QKV)
_FEED_FORWARD = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """Tensors of one name that a quant mix treats alike.

    `places` are their positions among the `total` that the mix counts.
    """

    repeated: RepeatedTensor
    kind: Category
    places: tuple[int, ...]
    total: int


_TypeCount = tuple[RepeatedTensor, int, GgmlType, int]
"""Tensors of one name, the elements of one of them, a type, and how many have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model's hyperparameters and every tensor it has. Built by `blueprint_of`.

    `groups` are the tensors whose type a quant mix decides, `fixed` the others. `imatrix` and
    `fused_as_value` say how the model's files were quantized (see `quant_mix.QuantTraits`).
    """

    hparams: HParams
    tokenizer: str
    imatrix: bool
    fused_as_value: bool
    groups: tuple[TensorGroup, ...]
    fixed: tuple[RepeatedTensor, ...]
    _memo: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def tensors(self) -> tuple[RepeatedTensor, ...]:
        """Every tensor, those of one name together."""
        return (*(group.repeated for group in self.groups), *self.fixed)

    @property
    def parameters(self) -> int:
        """Every weight of the model."""
        return sum(repeated.elements for repeated in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: of the routed experts only those that are chosen."""
        used, experts = self.hparams.experts_used, max(self.hparams.experts, 1)
        return sum(
            repeated.elements * used // experts if "_exps." in repeated.name else repeated.elements
            for repeated in self.tensors
        )

    def weights_bytes(self, quant: str) -> int:
        """Sum the tensors' bytes in a quant mix. Raises KeyError for an unknown label."""
        mixed = sum(_bytes(kind, one) * count for _, one, kind, count in self._mixed_counts(quant))
        return mixed + self._fixed_bytes(_source(quant))

    def weight_reads(self, quant: str) -> Workload:
        """Return the weights that one token reads in a quant mix, the routed experts apart from
        the others. Raises KeyError for an unknown label."""
        used, experts = self.hparams.experts_used, max(self.hparams.experts, 1)
        tied = all(group.kind is not Category.OUTPUT for group in self.groups)
        sums: dict[tuple[GgmlType, bool, bool], tuple[int, int]] = {}
        for repeated, one, kind, count in (
            *self._mixed_counts(quant),
            *self._fixed_counts(_source(quant)),
        ):
            name = repeated.name
            last = name.startswith("output.") or (tied and name == "token_embd.weight")
            if is_input_name(name) and not last:
                continue
            routed = "_exps." in name
            active = one * min(used, experts) // experts if routed else one
            before = sums.get((kind, routed, last), (0, 0))
            sums[kind, routed, last] = before[0] + active * count, before[1] + one * count
        return Workload(
            layers=self.hparams.layers,
            weights=tuple(
                WeightRead(type=kind, elements=active, elements_loaded=every, last_only=last)
                for (kind, _, last), (active, every) in sums.items()
            ),
        )

    @memoize
    def cache_reads(self) -> Workload:
        """Return the cache and states that one token reads, which are the same in every mix."""
        return cache_workload(
            ModelSpec(
                architecture=self.hparams.architecture,
                metadata=self._metadata("F16", ""),
                tensors=(),
                version=3,
                alignment=ALIGNMENT,
                data_offset=0,
                file_bytes=0,
            )
        )

    @memoize_each
    def _mixed_counts(self, quant: str) -> tuple[_TypeCount, ...]:
        """Count the tensors whose types the quant mix decides, by type."""
        mix = quant_mix(quant, self._traits(quant))
        counted: list[_TypeCount] = []
        for group in self.groups:
            shape, count = group.repeated.shape, len(group.places)
            rule, each = mix.type_rule(group.kind, shape), prod(shape)
            if rule.raised is not None and rule.where is not None:
                raised = _count_at(rule.where, group.places, group.total)
                counted.append((group.repeated, each, rule.raised, raised))
                count -= raised
            counted.append((group.repeated, each, rule.kind, count))
        return tuple(counted)

    @memoize_each
    def _fixed_counts(self, source: GgmlType) -> tuple[_TypeCount, ...]:
        """Count the tensors that no mix touches, in files made from one of this type."""
        return tuple((t, prod(t.shape), _fixed_type(t, source), t.count) for t in self.fixed)

    @memoize_each
    def _fixed_bytes(self, source: GgmlType) -> int:
        return sum(_bytes(kind, one) * count for _, one, kind, count in self._fixed_counts(source))

    def file_bytes(self, quant: str) -> int:
        """Estimate the file's length: its tensors behind a header of the typical length."""
        return self._data_offset() + self.weights_bytes(quant)

    def spec(self, quant: str, *, name: str) -> ModelSpec:
        """Write the header that such a file would have, with the keys that sizing reads.

        `name` becomes `general.name`. Raises KeyError for an unknown label.
        """
        tensors, offset = [], 0
        for repeated, kinds in self._types(quant):
            for tensor, kind in zip(repeated.names(), kinds, strict=True):
                size = _bytes(kind, prod(repeated.shape))
                tensors.append(
                    TensorInfo(
                        name=tensor, shape=repeated.shape, type=kind, offset=offset, size_bytes=size
                    )
                )
                offset += _padded(size)
        data_offset = self._data_offset()
        return ModelSpec(
            architecture=self.hparams.architecture,
            metadata=self._metadata(quant, name),
            tensors=tuple(tensors),
            version=3,
            alignment=ALIGNMENT,
            data_offset=data_offset,
            file_bytes=data_offset + offset,
        )

    def _types(self, quant: str) -> Iterator[tuple[RepeatedTensor, tuple[GgmlType, ...]]]:
        mix, source = quant_mix(quant, self._traits(quant)), _source(quant)
        for group in self.groups:
            rule = mix.type_rule(group.kind, group.repeated.shape)
            yield group.repeated, tuple(rule.at(i, group.total) for i in group.places)
        for repeated in self.fixed:
            yield repeated, (_fixed_type(repeated, source),) * repeated.count

    def _metadata(self, quant: str, name: str) -> dict[str, MetadataValue]:
        prefix = self.hparams.architecture
        return {
            "general.architecture": prefix,
            "general.name": name,
            "general.file_type": FILE_TYPES[quant].number,
            "tokenizer.ggml.model": self.tokenizer,
            f"{prefix}.context_length": self.hparams.context,
            f"{prefix}.vocab_size": self.hparams.vocabulary,
            **{_full_key(prefix, key): value for key, value in self.hparams.gguf.items()},
        }

    def _data_offset(self) -> int:
        return _padded(self.hparams.vocabulary * _HEADER_BYTES_PER_TOKEN[self.tokenizer])

    def _traits(self, quant: str) -> QuantTraits:
        # Nobody publishes the IQ mixes without an importance matrix.
        return self._traits_with(self.imatrix or quant.startswith("IQ"))

    @memoize_each
    def _traits_with(self, imatrix: bool) -> QuantTraits:
        first = self.hparams.layer(0)
        return QuantTraits(
            output_q8_0=self.hparams.arch.output_q8_0,
            gqa=first.heads // first.kv_heads if first.kv_heads else 0,
            experts=self.hparams.experts,
            is_70b=self.hparams.arch.type_70b.applies(
                layers=self.hparams.layers, heads=first.heads, kv_heads=first.kv_heads
            ),
            tied=all(group.kind is not Category.OUTPUT for group in self.groups),
            imatrix=imatrix,
            fused_as_value=self.fused_as_value,
        )


def blueprint_of(
    hparams: HParams, *, tokenizer: str, imatrix: bool, fused_as_value: bool
) -> Blueprint:
    """Work out a model's tensors.

    Raises KeyError, with the name, for an unknown architecture, tokenizer or missing key, and
    ValueError for sizes that no model has.
    """
    if tokenizer not in _HEADER_BYTES_PER_TOKEN:
        raise KeyError(tokenizer)
    fixed: list[RepeatedTensor] = []
    free: list[RepeatedTensor] = []
    for repeated in repeated_tensors(hparams):
        mixed = fixed_type(repeated.name, repeated.shape, GgmlType.F16) is None
        (free if mixed else fixed).append(repeated)
    return Blueprint(
        hparams=hparams,
        tokenizer=tokenizer,
        imatrix=imatrix,
        fused_as_value=fused_as_value,
        groups=tuple(_groups(hparams, free)),
        fixed=tuple(fixed),
    )


def _groups(hparams: HParams, free: list[RepeatedTensor]) -> Iterator[TensorGroup]:
    kinds = [category(repeated.name) for repeated in free]
    values = sorted(
        layer
        for repeated, kind in zip(free, kinds, strict=True)
        if kind in _VALUES
        for layer in repeated.layers or ()
    )
    for repeated, kind in zip(free, kinds, strict=True):
        layers, total = repeated.layers or (0,), hparams.layers
        if kind in _VALUES:
            layers, total = _ranks(layers, values), len(values)
        elif kind in _FEED_FORWARD and hparams.experts <= 1:
            same = (other for other, k in zip(free, kinds, strict=True) if k is kind)
            layers = _ranks(layers, sorted(layer for other in same for layer in other.layers or ()))
        yield TensorGroup(repeated=repeated, kind=kind, places=layers, total=total)


def _ranks(layers: tuple[int, ...], among: list[int]) -> tuple[int, ...]:
    if len(layers) == len(among):
        return tuple(range(len(among)))
    rank = {layer: i for i, layer in enumerate(among)}
    return tuple(rank[layer] for layer in layers)


@lru_cache(maxsize=4096)
def _count_at(where: Positions, places: tuple[int, ...], total: int) -> int:
    return sum(where.includes(i, total) for i in places)


def _fixed_type(repeated: RepeatedTensor, source: GgmlType) -> GgmlType:
    kind = fixed_type(repeated.name, repeated.shape, source)
    return source if kind is None else kind


def _full_key(prefix: str, key: str) -> str:
    return f"tokenizer.ggml.{key}" if key == "token_type_count" else f"{prefix}.{key}"


def _source(quant: str) -> GgmlType:
    """Return the type of the file that a quant is made from: publishers convert to BF16 first."""
    default = FILE_TYPES[quant].default
    return default if BLOCKS[default].elements == 1 else GgmlType.BF16


def _bytes(kind: GgmlType, elements: int) -> int:
    block = BLOCKS[kind]
    return elements // block.elements * block.size_bytes


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
