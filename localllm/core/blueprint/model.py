"""A model that was never downloaded: its tensors, sizes and header for any quant mix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from localllm.core.blueprint.shape import Shape
from localllm.core.blueprint.stacks import Stack, stacks
from localllm.core.model import MetadataValue, ModelSpec, TensorInfo
from localllm.core.quant_mix import FILE_TYPES, Category, Traits, category, choose, kept
from localllm.core.quants import BLOCKS, GgmlType

# GGUF's default; every tensor of a file starts at a multiple of it.
ALIGNMENT = 32
# Bytes of header per token of the vocabulary, by `tokenizer.ggml.model`: measured on published
# files (docs/catalogue.md says which). Merges make the BPE one larger.
_HEADER_BYTES_PER_TOKEN: Mapping[str, int] = {"gpt2": 39, "llama": 26, "bert": 21, "t5": 27}

_VALUES = (Category.ATTENTION_V, Category.ATTENTION_QKV)
_FEED_FORWARD = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model's shape and every tensor it has. Build it with `draw`.

    `imatrix` and `fused_as_value` say how its files were quantized (see `quant_mix.Traits`).
    """

    shape: Shape
    tokenizer: str
    imatrix: bool
    fused_as_value: bool
    stacks: tuple[Stack, ...]

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
        return sum(_bytes(kind, stack.shape) * n for stack, kind, n in self._counted(quant))

    def file_bytes(self, quant: str) -> int:
        """Estimate the file's length: tensors, padded, behind a header of a typical length."""
        tensors = sum(
            _padded(_bytes(kind, stack.shape)) * n for stack, kind, n in self._counted(quant)
        )
        return self._data_offset() + tensors

    def spec(self, quant: str, *, name: str) -> ModelSpec:
        """Give the header such a file would have, with the keys that sizing reads.

        `name` becomes `general.name`. Raises KeyError for an unknown label.
        """
        tensors, offset = [], 0
        for stack, kinds in self._kinds(quant):
            for tensor, kind in zip(stack.names(), kinds, strict=True):
                size = _bytes(kind, stack.shape)
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
        per_token = _HEADER_BYTES_PER_TOKEN[self.tokenizer]
        return _padded(self.shape.vocabulary * per_token)

    def _kinds(self, quant: str) -> Iterator[tuple[Stack, tuple[GgmlType, ...]]]:
        traits, source = self._traits(quant), _source(quant)
        for stack in self.stacks:
            fixed = kept(stack.name, stack.shape, source)
            if fixed is not None:
                yield stack, (fixed,) * stack.count
                continue
            kind = category(stack.name)
            choice = choose(quant, kind, stack.shape, traits)
            if choice.raised is None:
                yield stack, (choice.kind,) * stack.count
            else:
                places, total = self._places(kind, stack)
                yield stack, tuple(choice.at(i, total) for i in places)

    def _counted(self, quant: str) -> Iterator[tuple[Stack, GgmlType, int]]:
        for stack, kinds in self._kinds(quant):
            first = kinds[0]
            n = kinds.count(first)
            yield stack, first, n
            if n != len(kinds):
                yield from ((stack, kind, kinds.count(kind)) for kind in {*kinds} - {first})

    def _places(self, kind: Category, stack: Stack) -> tuple[tuple[int, ...], int]:
        """Where a stack's tensors stand among those of their category, and of how many."""
        layers = stack.layers or (0,)
        if kind in _FEED_FORWARD and self.shape.experts > 1:
            return layers, self.shape.layers
        like = _VALUES if kind in _VALUES else (kind,)
        peers = sorted(
            layer
            for other in self.stacks
            if category(other.name) in like and kept(other.name, other.shape, GgmlType.F16) is None
            for layer in other.layers or (0,)
        )
        total = self.shape.layers if kind in _FEED_FORWARD else len(peers)
        place = {layer: i for i, layer in enumerate(peers)}
        return tuple(place[layer] for layer in layers), total

    def _traits(self, quant: str) -> Traits:
        first = self.shape.layer(0)
        return Traits(
            architecture=self.shape.architecture,
            gqa=first.heads // first.kv_heads if first.kv_heads else 0,
            experts=self.shape.experts,
            seventy=_is_seventy(self.shape),
            tied=all(stack.name != "output.weight" for stack in self.stacks),
            # Nobody publishes the IQ mixes without an importance matrix.
            imatrix=self.imatrix or quant.startswith("IQ"),
            fused_as_value=self.fused_as_value,
        )


def draw(shape: Shape, *, tokenizer: str, imatrix: bool, fused_as_value: bool) -> Blueprint:
    """Work out a model's tensors.

    Raises KeyError, with the name, for an unknown architecture, tokenizer or missing key.
    """
    if tokenizer not in _HEADER_BYTES_PER_TOKEN:
        raise KeyError(tokenizer)
    return Blueprint(
        shape=shape,
        tokenizer=tokenizer,
        imatrix=imatrix,
        fused_as_value=fused_as_value,
        stacks=stacks(shape),
    )


def _full_key(prefix: str, key: str) -> str:
    return f"tokenizer.ggml.{key}" if key == "token_type_count" else f"{prefix}.{key}"


def _is_seventy(shape: Shape) -> bool:
    """LLM_TYPE_70B, which llama.cpp gives by layer count (`load_arch_hparams`)."""
    if shape.layers != 80:
        return False
    if shape.architecture == "llama":
        layer = shape.layer(0)
        return layer.heads != layer.kv_heads
    return shape.architecture == "qwen2"


def _source(quant: str) -> GgmlType:
    """The type of the file that a quant is made from: publishers convert to BF16 first."""
    default = FILE_TYPES[quant].default
    return default if BLOCKS[default].elements == 1 else GgmlType.BF16


def _bytes(kind: GgmlType, shape: tuple[int, ...]) -> int:
    block = BLOCKS[kind]
    return prod(shape) // block.elements * block.size_bytes


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
