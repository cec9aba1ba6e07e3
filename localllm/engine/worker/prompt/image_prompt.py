"""A prompt with images: where each piece of a picture stands, and by which names its cells go.

Everybody else sees a list of numbers, one a position: tokens, and negative numbers where a
picture is. They are made of the image's bytes, so that equal beginnings of prompts are equal lists
and what is cached of an image is found again like text.
"""

import hashlib
import secrets
import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from localllm.engine.messages import Message
from localllm.errors import BadRequest

Part = str | bytes
"""Text, or the file of an image."""

_SYMBOL_BITS = 62

BLIND = "This model was loaded without an image encoder (mmproj): it cannot see images."


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A piece of an image that the encoder looks at as a whole; some cut images in several.

    `start` and `positions` place it in the sequence, where it takes `cells` of the cache: the
    same number, but for models with positions in two dimensions (M-RoPE), where it is more.
    `chunk` is its place among the pieces of text and pictures of its prompt, `part` that of its
    image among the prompt's parts.
    """

    start: int
    positions: int
    cells: int
    chunk: int
    part: int

    @property
    def end(self) -> int:
        return self.start + self.positions


class PicturePrompt(list[int]):
    """The symbols of a prompt, and the pictures among them."""

    def __init__(
        self,
        symbols: Iterable[int],
        *,
        parts: tuple[Part, ...],
        pictures: tuple[Picture, ...],
        mmproj: "Shows",
    ) -> None:
        super().__init__(symbols)
        self.parts = parts
        self.pictures = pictures
        self._encoder = mmproj
        self._starts = [picture.start for picture in pictures]

    @property
    def tokens(self) -> int:
        """Cells that the prompt takes."""
        return len(self) + sum(picture.cells - picture.positions for picture in self.pictures)

    def at(self, position: int) -> Picture | None:
        """The picture that this position is part of."""
        i = bisect_right(self._starts, position) - 1
        return self.pictures[i] if i >= 0 and position < self.pictures[i].end else None

    def text_from(self, position: int) -> int:
        """How many positions from here on are before the next picture; very many after the last."""
        if self.at(position) is not None:
            return 0
        i = bisect_right(self._starts, position)
        return (self._starts[i] if i < len(self._starts) else sys.maxsize) - position

    def show(self, picture: Picture, slot: int) -> None:
        """Compute a picture at its place in `slot`. Raises what `Model.decode` raises, BadRequest
        for a broken file, GenerationFailed for one that the encoder cannot look at."""
        self._encoder.show(self, picture, slot)


def symbols(image: bytes, salt: bytes, *, piece: int, count: int) -> list[int]:
    """The names of the `count` positions of an image's piece: negative, the same for the same
    image and encoder (`salt`), and not to be found for another image by trying."""
    digest = hashlib.sha256(salt + hashlib.sha256(image).digest() + piece.to_bytes(4)).digest()
    first = int.from_bytes(digest[:8]) >> (64 - _SYMBOL_BITS)
    return [-1 - (first + i) for i in range(count)]


class Shows(Protocol):
    """What computes pictures: `mmproj.VisionEncoder`."""

    def show(self, prompt: PicturePrompt, picture: Picture, slot: int) -> None: ...


class Marker:
    """A word that stands for an image while the chat template writes the prompt. It is drawn by
    lot, so that nobody's text holds it."""

    def __init__(self) -> None:
        self._word = f"<|image-{secrets.token_hex(16)}|>"
        self._images: list[bytes] = []

    def mark(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with the word in place of each image."""
        return tuple(self._marked(message) for message in messages)

    def split(self, prompt: str) -> tuple[Part, ...]:
        """Text and images of the written prompt. Raises BadRequest when the template has left out
        or repeated one of them."""
        texts = prompt.split(self._word)
        if len(texts) != len(self._images) + 1:
            raise BadRequest(
                f"The model's chat template wrote {len(texts) - 1} of {len(self._images)} images "
                "into the prompt: it has no place for an image in one of these messages."
            )
        parts: list[Part] = [texts[0]]
        for image, text in zip(self._images, texts[1:], strict=True):
            parts += [image, text]
        return tuple(part for part in parts if part)

    def _marked(self, message: Message) -> Message:
        content, done = "", 0
        for image in message.images:
            content += message.content[done : image.offset] + self._word
            done = image.offset
            self._images.append(image.data)
        return replace(message, content=content + message.content[done:], images=())
