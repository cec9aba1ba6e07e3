"""A picture as text: two pixels in each cell, the upper and the lower half of it."""

import hashlib

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from localllm.chat.attachments.thumbnail import Thumbnail, make_thumbnail

_UPPER_HALF = "\u2580"


def picture_strips(thumbnail: Thumbnail, width: int) -> list[Strip]:
    """Draw a picture in at most `width` cells; a wider one is drawn smaller."""
    step = max(1, -(-thumbnail.width // max(1, width)))
    columns, rows = range(0, thumbnail.width, step), range(0, thumbnail.height, 2 * step)
    strips = []
    for y in rows:
        below = y + step
        segments = []
        for x in columns:
            lower = None
            if below < thumbnail.height:
                lower = Color.from_rgb(*thumbnail.pixel(x, below))
            upper = Color.from_rgb(*thumbnail.pixel(x, y))
            segments.append(Segment(_UPPER_HALF, Style(color=upper, bgcolor=lower)))
        strips.append(Strip(segments))
    return strips


class Pictures:
    """The small copies that were made, by the content of their pictures."""

    def __init__(self) -> None:
        self._made: dict[bytes, Thumbnail | None] = {}
        self._making: set[bytes] = set()

    async def make(self, data: bytes) -> bool:
        """Make the copy of a picture; True when there is one that was not there before."""
        key = _key(data)
        if key in self._made or key in self._making:
            return False
        self._making.add(key)
        try:
            self._made[key] = await make_thumbnail(data)
        finally:  # also when this is cancelled: then it is tried again
            self._making.discard(key)
        return self._made[key] is not None

    def strips(self, data: bytes, width: int) -> list[Strip]:
        """Draw a picture whose copy was made; nothing where there is none."""
        thumbnail = self._made.get(_key(data))
        return [] if thumbnail is None else picture_strips(thumbnail, width)


pictures = Pictures()
"""Of this process: the same picture may be in several conversations."""


def _key(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
