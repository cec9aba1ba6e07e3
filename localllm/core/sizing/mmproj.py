"""The check of an image encoder's header (mmproj) against a model's, and its bytes.

The weights are exact. The buffer that it computes in is a rule: clip.cpp (llama.cpp b11434)
builds one graph for one image, in which the tensors of one block are alive at a time, so that the
number of blocks does not count. Compared with what clip.cpp reserved for encoders of the sizes of
LLaVA 1.5, SigLIP, Gemma 3 and Qwen2-VL (docs/vision.md) it was 0 to 15 % too much.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """What decides the buffer that an image encoder computes in: the keys `clip.vision.*` of its
    header. `merge`: patches a side that become one token; `max_pixels` of a picture, where the
    header says it."""

    projector: str
    image_size: int
    patch_size: int
    width: int
    feed_forward: int
    merge: int = 2
    max_pixels: int | None = None

    def compute_bytes(self, embedding: int) -> int:
        """Size the compute buffer: of each patch its pixels, and what is alive of it at once in a
        block or at the projection to the model's `embedding`."""
        alive = max(self.feed_forward + 3 * self.width, 2 * embedding + self.width)
        return self.patches * _FLOAT * (3 * self.patch_size**2 + alive)

    @property
    def patches(self) -> int:
        """The patches of the largest picture."""
        usual = (self.image_size // self.patch_size) ** 2
        if self.max_pixels is not None:
            return max(usual, self.max_pixels // self.patch_size**2)
        return max(usual, _MOST_TOKENS.get(self.projector, 0) * self.merge**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEncoder:
    """An image encoder of which no file was read: what its publisher's config.json says.

    llama.cpp's conversion writes matrices as F16, which is what is fetched, and a table of learned
    `positions` as F32 (`MmprojModel.tensor_force_quant`, convert_hf_to_gguf.py).
    """

    parameters: int
    positions: int
    shape: EncoderShape

    def mmproj(self, embedding: int) -> Mmproj:
        """Size it beside a model whose embeddings are `embedding` wide."""
        return Mmproj(
            path="",
            weights_bytes=2 * (self.parameters + self.positions * self.shape.width),
            compute_bytes=self.shape.compute_bytes(embedding),
        )


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
        compute_bytes=_shape_of(header).compute_bytes(model.embedding),
    )


def _shape_of(header: ModelSpec) -> EncoderShape:
    patch = _number(header, "patch_size")
    if patch < 1:
        raise GgufError("its patches have no size")
    kind = header.metadata.get("clip.projector_type") or header.metadata.get(
        "clip.vision.projector_type"
    )
    pixels = header.metadata.get("clip.vision.image_max_pixels")
    merged = header.metadata.get(
        "clip.vision.spatial_merge_size", header.metadata.get("clip.vision.projector.scale_factor")
    )
    return EncoderShape(
        projector=str(kind),
        image_size=_number(header, "image_size"),
        patch_size=patch,
        width=_number(header, "embedding_length"),
        feed_forward=_number(header, "feed_forward_length"),
        merge=merged if isinstance(merged, int) and 0 < merged <= 16 else 2,
        max_pixels=pixels if isinstance(pixels, int) else None,
    )


def _number(header: ModelSpec, name: str) -> int:
    value = header.metadata.get(f"clip.vision.{name}")
    if not isinstance(value, int) or not 0 <= value < 2**20:
        raise GgufError(f"its header has no usable clip.vision.{name}")
    return value
