"""The weights: which tensors are loaded, and on which side of the model they lie.

`llama_model_base::load_tensors` (`src/llama-model.cpp`) puts input tensors on the host, a layer's
with the layer and the rest with the output; LLM_TENSOR_INFOS in `src/llama-arch.cpp` says which is
which. Draft blocks are skipped (`load_mtp` is off).
"""

from localllm.core.model import ModelSpec, TensorInfo
from localllm.core.once import once

_FIRST_LAYER = ("rope_freqs.", "rope_factors_", "per_layer_model_proj.", "per_layer_proj_norm.")
"""Tensors without a layer's name that llama.cpp puts with its first layer."""
_INPUT = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")


@once
def loaded(spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """The tensors that a load brings into memory."""
    count = spec.layers
    return tuple(t for t in spec.tensors if t.layer is None or t.layer < count)


def on_input(tensor: TensorInfo) -> bool:
    """Whether it belongs to the input layer, which always stays on the host."""
    return is_input(tensor.name)


def is_input(name: str) -> bool:
    """As `on_input`, by a tensor's name."""
    return name.startswith(_INPUT)


def home(tensor: TensorInfo) -> int | None:
    """The layer whose device it lies on; None for the input's and the output's."""
    return 0 if tensor.name.startswith(_FIRST_LAYER) else tensor.layer


def embedding_bytes(spec: ModelSpec) -> int:
    """Bytes of the token embedding."""
    return sum(t.size_bytes for t in spec.tensors if t.name == "token_embd.weight")
