"""A model that was never downloaded: its tensors, sizes and header for any quant mix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from localllm.core.catalogue.blueprint.shape import Shape
from localllm.core.catalogue.blueprint.stacks import Stack, stacks
from localllm.core.catalogue.quant_mix import Category, Traits, Where, category, kept, recipe
from localllm.core.memoize import memoize, memoize_each
from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.quants import BLOCKS, GgmlType
from localllm.core.model.spec import MetadataValue, ModelSpec, TensorInfo
from localllm.core.sizing.footprint.weights import is_input_name
from localllm.core.speed import WeightRead, Workload, remembered

# GGUF's default; every tensor of a file starts at a multiple of it.
ALIGNMENT = 32
# Bytes of header per token of the vocabulary, by `tokenizer.ggml.model`: the difference between
# published files and their tensors, medians of tests/core/data/published_sizes.csv. The gpt2 kind
# holds merges too; Llama 3 and gpt-oss, with many of them, have 61 and 65.
_HEADER_BYTES_PER_TOKEN: Mapping[str, int] = {"gpt2": 39, "llama": 24, "bert": 21, "t5": 27}

_VALUES = (Category.ATTENTION_V, Category.ATTENTION_QKV)
_FEED_FORWARD = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tensors that a recipe treats alike, from one stack.

    `places` are their positions among the `total` that the recipe counts.
    """

    stack: Stack
    kind: Category
    places: tuple[int, ...]
    total: int


_Counted = tuple[Stack, int, GgmlType, int]
"""A stack, the elements of one of its tensors, a type, and how many of them have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model's shape and every tensor it has. Build it with `draw`.

    `runs` are the tensors whose type a quant mix decides, `fixed` the others. `imatrix` and
    `fused_as_value` say how the model's files were quantized (see `quant_mix.Traits`).
    """

    shape: Shape
    tokenizer: str
    imatrix: bool
    fused_as_value: bool
    runs: tuple[Run, ...]
    fixed: tuple[Stack, ...]
    _memo: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (*(run.stack for run in self.runs), *self.fixed)

    @property
    def parameters(self) -> int:
        return sum(stack.elements for stack in self.stacks)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: of the routed experts only those that are chosen."""
        used, experts = self.shape.experts_used, max(self.shape.experts, 1)
        return sum(
            stack.elements * used // experts if "_exps." in stack.name else stack.elements
            for stack in self.stacks
        )

    def weights_bytes(self, quant: str) -> int:
        """Sum the tensors' bytes in a quant mix. Raises KeyError for an unknown label."""
        mixed = sum(_bytes(kind, one) * count for _, one, kind, count in self._mixed(quant))
        return mixed + self._kept_bytes(_source(quant))

    def reads(self, quant: str) -> Workload:
        """Give what one token reads of the weights in a quant mix, the routed experts apart from
        the others. Raises KeyError for an unknown label."""
        used, experts = self.shape.experts_used, max(self.shape.experts, 1)
        tied = all(run.kind is not Category.OUTPUT for run in self.runs)
        sums: dict[tuple[GgmlType, bool, bool], tuple[int, int]] = {}
        for stack, one, kind, count in (*self._mixed(quant), *self._kept(_source(quant))):
            last = stack.name.startswith("output.") or (tied and stack.name == "token_embd.weight")
            if is_input_name(stack.name) and not last:
                continue
            routed = "_exps." in stack.name
            active = one * min(used, experts) // experts if routed else one
            before = sums.get((kind, routed, last), (0, 0))
            sums[kind, routed, last] = before[0] + active * count, before[1] + one * count
        return Workload(
            layers=self.shape.layers,
            weights=tuple(
                WeightRead(type=kind, elements=active, elements_loaded=every, last_only=last)
                for (kind, _, last), (active, every) in sums.items()
            ),
        )

    @memoize
    def recalls(self) -> Workload:
        """Give what one token costs in cache and states, which is the same in every mix."""
        return remembered(
            ModelSpec(
                architecture=self.shape.architecture,
                metadata=self._metadata("F16", ""),
                tensors=(),
                version=3,
                alignment=ALIGNMENT,
                data_offset=0,
                file_bytes=0,
            )
        )

    @memoize_each
    def _mixed(self, quant: str) -> tuple[_Counted, ...]:
        """What the quant mix decides."""
        mix = recipe(quant, self._traits(quant))
        counted: list[_Counted] = []
        for run in self.runs:
            shape, count = run.stack.shape, len(run.places)
            choice, each = mix.choose(run.kind, shape), prod(shape)
            if choice.raised is not None and choice.where is not None:
                raised = _held(choice.where, run.places, run.total)
                counted.append((run.stack, each, choice.raised, raised))
                count -= raised
            counted.append((run.stack, each, choice.kind, count))
        return tuple(counted)

    @memoize_each
    def _kept(self, source: GgmlType) -> tuple[_Counted, ...]:
        """What no mix touches, in files made from one of this type."""
        return tuple((s, prod(s.shape), _fixed_type(s, source), s.count) for s in self.fixed)

    @memoize_each
    def _kept_bytes(self, source: GgmlType) -> int:
        return sum(_bytes(kind, one) * count for _, one, kind, count in self._kept(source))

    def file_bytes(self, quant: str) -> int:
        """Estimate the file's length: its tensors behind a header of the typical length."""
        return self._data_offset() + self.weights_bytes(quant)

    def spec(self, quant: str, *, name: str) -> ModelSpec:
        """Give the header such a file would have, with the keys that sizing reads.

        `name` becomes `general.name`. Raises KeyError for an unknown label.
        """
        tensors, offset = [], 0
        for stack, kinds in self._types(quant):
            for tensor, kind in zip(stack.names(), kinds, strict=True):
                size = _bytes(kind, prod(stack.shape))
                tensors.append(
                    TensorInfo(
                        name=tensor, shape=stack.shape, type=kind, offset=offset, size_bytes=size
                    )
                )
                offset += _padded(size)
        data_offset = self._data_offset()
        return ModelSpec(
            architecture=self.shape.architecture,
            metadata=self._metadata(quant, name),
            tensors=tuple(tensors),
            version=3,
            alignment=ALIGNMENT,
            data_offset=data_offset,
            file_bytes=data_offset + offset,
        )

    def _types(self, quant: str) -> Iterator[tuple[Stack, tuple[GgmlType, ...]]]:
        mix, source = recipe(quant, self._traits(quant)), _source(quant)
        for run in self.runs:
            choice = mix.choose(run.kind, run.stack.shape)
            yield run.stack, tuple(choice.at(i, run.total) for i in run.places)
        for stack in self.fixed:
            yield stack, (_fixed_type(stack, source),) * stack.count

    def _metadata(self, quant: str, name: str) -> dict[str, MetadataValue]:
        prefix = self.shape.architecture
        return {
            "general.architecture": prefix,
            "general.name": name,
            "general.file_type": FILE_TYPES[quant].number,
            "tokenizer.ggml.model": self.tokenizer,
            f"{prefix}.context_length": self.shape.context,
            f"{prefix}.vocab_size": self.shape.vocabulary,
            **{_full_key(prefix, key): value for key, value in self.shape.gguf.items()},
        }

    def _data_offset(self) -> int:
        return _padded(self.shape.vocabulary * _HEADER_BYTES_PER_TOKEN[self.tokenizer])

    def _traits(self, quant: str) -> Traits:
        # Nobody publishes the IQ mixes without an importance matrix.
        return self._traits_with(self.imatrix or quant.startswith("IQ"))

    @memoize_each
    def _traits_with(self, imatrix: bool) -> Traits:
        first = self.shape.layer(0)
        return Traits(
            output_q8_0=self.shape.arch.output_q8_0,
            gqa=first.heads // first.kv_heads if first.kv_heads else 0,
            experts=self.shape.experts,
            is_70b=self.shape.arch.type_70b.holds(
                layers=self.shape.layers, heads=first.heads, kv_heads=first.kv_heads
            ),
            tied=all(run.kind is not Category.OUTPUT for run in self.runs),
            imatrix=imatrix,
            fused_as_value=self.fused_as_value,
        )


def draw(shape: Shape, *, tokenizer: str, imatrix: bool, fused_as_value: bool) -> Blueprint:
    """Work out a model's tensors.

    Raises KeyError, with the name, for an unknown architecture, tokenizer or missing key, and
    ValueError for sizes that no model has.
    """
    if tokenizer not in _HEADER_BYTES_PER_TOKEN:
        raise KeyError(tokenizer)
    fixed: list[Stack] = []
    free: list[Stack] = []
    for stack in stacks(shape):
        (free if kept(stack.name, stack.shape, GgmlType.F16) is None else fixed).append(stack)
    return Blueprint(
        shape=shape,
        tokenizer=tokenizer,
        imatrix=imatrix,
        fused_as_value=fused_as_value,
        runs=tuple(_runs(shape, free)),
        fixed=tuple(fixed),
    )


def _runs(shape: Shape, free: list[Stack]) -> Iterator[Run]:
    kinds = [category(stack.name) for stack in free]
    values = sorted(
        layer
        for stack, kind in zip(free, kinds, strict=True)
        if kind in _VALUES
        for layer in stack.layers or ()
    )
    for stack, kind in zip(free, kinds, strict=True):
        layers, total = stack.layers or (0,), shape.layers
        if kind in _VALUES:
            layers, total = _ranks(layers, values), len(values)
        elif kind in _FEED_FORWARD and shape.experts <= 1:
            same = (other for other, k in zip(free, kinds, strict=True) if k is kind)
            layers = _ranks(layers, sorted(layer for other in same for layer in other.layers or ()))
        yield Run(stack=stack, kind=kind, places=layers, total=total)


def _ranks(layers: tuple[int, ...], among: list[int]) -> tuple[int, ...]:
    if len(layers) == len(among):
        return tuple(range(len(among)))
    rank = {layer: i for i, layer in enumerate(among)}
    return tuple(rank[layer] for layer in layers)


@lru_cache(maxsize=4096)
def _held(where: Where, places: tuple[int, ...], total: int) -> int:
    return sum(where.holds(i, total) for i in places)


def _fixed_type(stack: Stack, source: GgmlType) -> GgmlType:
    kind = kept(stack.name, stack.shape, source)
    return source if kind is None else kind


def _full_key(prefix: str, key: str) -> str:
    return f"tokenizer.ggml.{key}" if key == "token_type_count" else f"{prefix}.{key}"


def _source(quant: str) -> GgmlType:
    """The type of the file that a quant is made from: publishers convert to BF16 first."""
    default = FILE_TYPES[quant].default
    return default if BLOCKS[default].elements == 1 else GgmlType.BF16


def _bytes(kind: GgmlType, elements: int) -> int:
    block = BLOCKS[kind]
    return elements // block.elements * block.size_bytes


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
