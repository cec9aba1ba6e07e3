"""The check of a LoRA adapter's header against a model's, and its bytes.

llama.cpp (b11434, `llama_adapter_lora_init_impl`) takes any pair whose first two dimensions match
and aborts later, in the middle of an answer, on what it did not check. Everything is checked here,
before native code sees the file.
"""

import math
from dataclasses import dataclass

from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import ModelSpec, TensorInfo
from localllm.core.sizing.footprint.weights import is_input_tensor, layer_of, loaded_tensors
from localllm.core.sizing.load import Lora
from localllm.errors import GgufError

MAX_SCALE = 100.0
"""Of an adapter, either sign; 1 is what it was trained for."""

_SUFFIXES = (".lora_a", ".lora_b")
_EMBEDDING = "token_embd.weight"
_PADDING = 32
"""Bytes a tensor is padded to (TENSOR_ALIGNMENT in ggml-impl.h; devices use 128)."""

_NOT_MULTIPLIED = frozenset(
    {GgmlType.I8, GgmlType.I16, GgmlType.I32, GgmlType.I64, GgmlType.F64}
    | {GgmlType.Q8_1, GgmlType.Q8_K}
)
"""Types that ggml's matrix multiplication does not take as weights: it would abort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The two matrices whose product B x A an adapter adds to one weight."""

    weight: TensorInfo
    a: TensorInfo
    b: TensorInfo

    @property
    def embeds(self) -> bool:
        return self.weight.name == _EMBEDDING

    @property
    def size_bytes(self) -> int:
        return sum(-(-t.size_bytes // _PADDING) * _PADDING for t in (self.a, self.b))


def lora_of(adapter: ModelSpec, model: ModelSpec, *, path: str, scale: float = 1.0) -> Lora:
    """Check an adapter against a model and size it.

    Raises GgufError, as one sentence, for a file that is no LoRA adapter, or one of another model.
    """
    _check_kind(adapter, model)
    weights = {tensor.name: tensor for tensor in loaded_tensors(model)}
    pairs = [_pair(name, a, b, weights) for name, (a, b) in _by_weight(adapter).items()]
    for pair in pairs:
        _check_shapes(pair)
        if pair.embeds and model.tied:
            raise GgufError(
                f"it changes {_EMBEDDING}, which is also this model's output matrix: llama.cpp "
                "cannot apply that. Merge it into the model's file instead"
            )
    layers, input_bytes, output_bytes = [0] * model.layers, 0, 0
    for pair in pairs:
        layer = layer_of(pair.weight)
        if layer is not None:
            layers[layer] += pair.size_bytes
        elif is_input_tensor(pair.weight):
            input_bytes += pair.size_bytes
        else:
            output_bytes += pair.size_bytes
    return Lora(
        path=path,
        scale=scale,
        layer_bytes=tuple(layers),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        pairs=tuple(sorted({(pair.b.shape[0], pair.b.shape[1]) for pair in pairs})),
    )


def _check_kind(adapter: ModelSpec, model: ModelSpec) -> None:
    kind = adapter.metadata.get("general.type", "model")
    if kind != "adapter":
        raise GgufError(f"it is a GGUF of type {str(kind)[:40]!r}, not an adapter")
    method = adapter.metadata.get("adapter.type")
    if method != "lora":
        raise GgufError(f"it is an adapter of type {str(method)[:40]!r}; only 'lora' is known")
    if adapter.architecture != model.architecture:
        raise GgufError(
            f"it was made for a {adapter.architecture} model, and this is {model.architecture}"
        )
    if adapter.metadata.get("adapter.alora.invocation_tokens") is not None:
        raise GgufError(
            "it is an activated LoRA, which counts only from certain tokens on: not supported"
        )
    alpha = adapter.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise GgufError(f"its adapter.lora.alpha is {alpha!r:.40}, not a finite number")


def _by_weight(adapter: ModelSpec) -> dict[str, list[TensorInfo | None]]:
    """Collect A and B by the name of the weight they belong to."""
    found: dict[str, list[TensorInfo | None]] = {}
    for tensor in adapter.tensors:
        name, which = tensor.name[:-7], tensor.name[-7:]
        if which in _SUFFIXES and name and ".lora_" not in name:
            found.setdefault(name, [None, None])[_SUFFIXES.index(which)] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # llama.cpp leaves those out
            raise GgufError(f"its tensor {tensor.name!r} is neither a .lora_a nor a .lora_b")
    if not found:
        raise GgufError("it has no .lora_a and .lora_b tensors")
    return found


def _pair(
    name: str, a: TensorInfo | None, b: TensorInfo | None, weights: dict[str, TensorInfo]
) -> _Pair:
    if a is None or b is None:
        raise GgufError(f"of {name!r} it has only one of .lora_a and .lora_b")
    weight = weights.get(name)
    if weight is None:
        raise GgufError(f"it changes {name!r}, which this model does not have")
    return _Pair(weight=weight, a=a, b=b)


def _check_shapes(pair: _Pair) -> None:
    """Raise GgufError unless A is (in, rank) and B (rank, out), one pair for each expert; for the
    embedding, whose rows are looked up, A is (rank, tokens)."""
    weight, a, b = pair.weight, pair.a, pair.b
    for tensor in (a, b):
        if tensor.type in _NOT_MULTIPLIED or weight.type is GgmlType.NVFP4:
            raise GgufError(
                f"its tensor {tensor.name!r} is {tensor.type.name} beside a weight of "
                f"{weight.type.name}: llama.cpp cannot multiply these"
            )
    same = len(weight.shape) >= 2 and len(a.shape) == len(b.shape) == len(weight.shape)
    if same:
        rank = b.shape[0]
        first = (rank, weight.shape[1]) if pair.embeds else (weight.shape[0], rank)
        second = (rank, weight.shape[0]) if pair.embeds else (rank, weight.shape[1])
        same = a.shape == (*first, *weight.shape[2:]) and b.shape == (*second, *weight.shape[2:])
    if not same:
        raise GgufError(
            f"its tensors for {weight.name!r} are {_shape(a)} and {_shape(b)}, and the weight is "
            f"{_shape(weight)}: another model's, or of another size of it"
        )


def _shape(tensor: TensorInfo) -> str:
    return " x ".join(map(str, tensor.shape))
