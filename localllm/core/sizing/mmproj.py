"""The check of an image encoder's header (mmproj) against a model's, and its bytes.

The weights are exact. The buffer that it computes in is a rule: clip.cpp (llama.cpp b11434)
builds one graph for one image, in which the tensors of one block are alive at a time, so that the
number of blocks does not count. Compared with what clip.cpp reserved for encoders of the sizes of
LLaVA 1.5, SigLIP, Gemma 3 and Qwen2-VL (docs/vision.md) it was 0 to 15 % too much.
"""

from localllm.core.model.architecture import Purpose
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Mmproj
from localllm.errors import GgufError

_FLOAT = 4

_PROJECTORS = ("mm.", "resampler.", "adapter.")
"""The prefixes of the tensors whose rows become the model's embeddings."""

_MOST_TOKENS = {
    "qwen2vl_merger": 4096, "qwen2.5vl_merger": 4096, "qwen2.5o": 4096, "qwen3vl_merger": 4096,
    "ling3vl": 4096, "glm4v": 4096, "kimik25": 4096, "muse_glimmer": 4096, "hunyuanvl": 16384,
    "pixtral": 1024, "kimivl": 1024, "gemma4v": 1120, "gemma4uv": 1120, "minimax_m3": 576,
    "lfm2": 256,
}  # fmt: skip
"""Tokens of the largest picture that is not scaled down, by projector (clip.cpp,
set_limit_image_tokens, b11434); where it is not listed every picture has `image_size`."""


def mmproj_of(header: ModelSpec, model: ModelSpec, *, path: str) -> Mmproj:
    """Check an encoder against a model and size it.

    Raises GgufError, as one sentence without its end, for a file that is no encoder of images or
    was made for another model.
    """
    if header.arch.purpose is not Purpose.MMPROJ:
        raise GgufError(f"it is a {header.architecture} model, not an encoder (mmproj)")
    if header.metadata.get("clip.has_vision_encoder") is not True:
        raise GgufError("it has no encoder for images")
    width = _number(header, "projection_dim")
    widths = {width, *(size for t in header.tensors if t.name.startswith(_PROJECTORS)
                       for size in t.shape)}  # fmt: skip
    if model.embedding not in widths:
        raise GgufError(
            f"it makes embeddings of {width} numbers and the model takes {model.embedding}: "
            "it was made for another model"
        )
    return Mmproj(
        path=path,
        weights_bytes=sum(tensor.size_bytes for tensor in header.tensors),
        compute_bytes=_compute_bytes(header, model.embedding),
    )


def _compute_bytes(header: ModelSpec, embedding: int) -> int:
    """Size the compute buffer: of each patch its pixels, and what is alive of it at once in a block
    or at the projection."""
    width, forward = _number(header, "embedding_length"), _number(header, "feed_forward_length")
    patch = _number(header, "patch_size")
    alive = max(forward + 3 * width, 2 * embedding + width)
    return _patches(header, patch) * _FLOAT * (3 * patch**2 + alive)


def _patches(header: ModelSpec, patch: int) -> int:
    """Count the patches of the largest picture."""
    if patch < 1:
        raise GgufError("its patches have no size")
    kind = header.metadata.get("clip.projector_type") or header.metadata.get(
        "clip.vision.projector_type"
    )
    usual = (_number(header, "image_size") // patch) ** 2
    pixels = header.metadata.get("clip.vision.image_max_pixels")
    if isinstance(pixels, int):
        return max(usual, pixels // patch**2)
    merged = header.metadata.get(
        "clip.vision.spatial_merge_size", header.metadata.get("clip.vision.projector.scale_factor")
    )
    side = merged if isinstance(merged, int) and 0 < merged <= 16 else 2
    return max(usual, _MOST_TOKENS.get(str(kind), 0) * side**2)


def _number(header: ModelSpec, name: str) -> int:
    value = header.metadata.get(f"clip.vision.{name}")
    if not isinstance(value, int) or not 0 <= value < 2**20:
        raise GgufError(f"its header has no usable clip.vision.{name}")
    return value
