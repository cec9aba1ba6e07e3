"""A prompt as the scheduler takes it: tokens, the images among them, the format of its answers.

The scheduler and the cache see a list of numbers, one for each position: tokens, and negative
numbers where an image is. These are made of the image's bytes, so that prompts that begin the same
way are lists that do, and what the cache holds of an image is found again like text.
"""

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from localllm.engine.worker.parsing.model_format import AnswerFormat
from localllm.engine.worker.prompt.boundaries import Boundary
from localllm.engine.worker.prompt.outline import PromptOutline

PromptPart = str | bytes
"""Text, or the file of an image."""

_IMAGE_TOKEN_BITS = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChunk:
    """A piece of an image that is encoded as a whole; some encoders cut an image in several.

    `start` and `positions` place it in the sequence, where it takes `cells` of the cache: the
    same number, but for models with positions in two dimensions (M-RoPE), where it is more.
    `index` is its place among the chunks of text and images that mtmd cuts the prompt into, `part`
    that of its image among the prompt's parts.
    """

    start: int
    positions: int
    cells: int
    index: int
    part: int

    @property
    def end(self) -> int:
        return self.start + self.positions


class ImageEncoder(Protocol):
    """Computes the images of prompts (`vision_encoder.VisionEncoder`)."""

    def tokenize(self, parts: Sequence[PromptPart]) -> "Prompt":
        """Place text and images in their order. Raises BadRequest for an image that this encoder
        cannot take."""

    def compute(self, parts: Sequence[PromptPart], chunk: ImageChunk, slot: int) -> None:
        """Encode a chunk of these parts and compute it at its place in `slot`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptImages:
    """The images of a prompt, and the encoder that computes them."""

    parts: tuple[PromptPart, ...]
    chunks: tuple[ImageChunk, ...]
    encoder: ImageEncoder

    @property
    def extra_cells(self) -> int:
        """Cells of the cache that the images take beside one for each of their positions."""
        return sum(chunk.cells - chunk.positions for chunk in self.chunks)

    def at(self, position: int) -> ImageChunk | None:
        """Find the chunk that this position is part of."""
        i = self._after(position) - 1
        return self.chunks[i] if i >= 0 and position < self.chunks[i].end else None

    def text_from(self, position: int) -> int:
        """Count the positions from here to the next image; very many after the last."""
        if self.at(position) is not None:
            return 0
        i = self._after(position)
        return (self.chunks[i].start if i < len(self.chunks) else sys.maxsize) - position

    def compute(self, chunk: ImageChunk, slot: int) -> None:
        """Compute a chunk at its place in `slot`. Raises what `Model.decode` raises, BadRequest
        for a broken file, GenerationFailed for an image that cannot be encoded."""
        self.encoder.compute(self.parts, chunk, slot)

    def _after(self, position: int) -> int:
        """Find the first chunk that begins after this position."""
        return bisect_right(self.chunks, position, key=attrgetter("start"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, ready to be computed. Its length is that of `tokens`, one a position.

    `dropped_messages`: so many of the conversation were left out, for want of context.
    `stop_tokens` end the answer, beside those of the request.
    `warnings`: sentences about what else was done to the conversation, for `Finished`.
    `boundaries`: where the sections of a conversation begin, as far as known, in rising order.
    `outline`: what a conversation was made of.
    """

    tokens: list[int]
    images: PromptImages | None = None
    boundaries: tuple[Boundary, ...] = ()
    outline: PromptOutline | None = None
    dropped_messages: int = 0
    warnings: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    answer_format: AnswerFormat = field(default_factory=AnswerFormat)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def cells(self) -> int:
        """Cells of the cache that the prompt takes."""
        return len(self.tokens) + (self.images.extra_cells if self.images is not None else 0)


def image_tokens(image: bytes, salt: bytes, *, piece: int, count: int) -> list[int]:
    """Return the numbers at the `count` positions of a piece of an image.

    They are negative, the same for the same image and encoder (`salt`), and hard to find for
    another image: nobody's prompt gets at the cells of an image that they do not have.
    """
    digest = hashlib.sha256(salt + hashlib.sha256(image).digest() + piece.to_bytes(4)).digest()
    first = int.from_bytes(digest[:8]) >> (64 - _IMAGE_TOKEN_BITS)
    return [-1 - (first + i) for i in range(count)]
