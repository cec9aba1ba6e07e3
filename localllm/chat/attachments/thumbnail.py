"""Small copies of pictures, to be drawn on a terminal with half blocks.

Half blocks, two pixels to a cell, work in every terminal with colours, through tmux and over ssh.
Kitty's protocol and sixel show more, but have to ask the terminal at the start what it can, and
many multiplexers answer wrong. Decoding needs Pillow (the extra `pictures`); without it there are
no copies, and a picture is shown by its name and size.
"""

import asyncio
import base64
import importlib.util
import json
import os
import sys
from dataclasses import dataclass

from localllm.core.image import check_packed, read_header
from localllm.engine.client.child_process import ChildProcess
from localllm.errors import BadRequest

THUMBNAIL_WORKER = (sys.executable, "-P", "-m", "localllm.chat.attachments.thumbnail_worker")
MAX_WIDTH, MAX_HEIGHT = 64, 48
"""Pixels: 64 columns and 24 rows of a terminal."""
_TIMEOUT_S = 10.0
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small copy of a picture: three bytes for each pixel, row after row."""

    width: int
    height: int
    rgb: bytes

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Return red, green and blue of a pixel."""
        at = 3 * (y * self.width + x)
        return self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]


def can_make_thumbnails() -> bool:
    """Tell whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


async def make_thumbnail(data: bytes) -> Thumbnail | None:
    """Return a small copy of a picture; None where none can be made. Cancelling the call ends the
    process."""
    try:
        read_header(data)
        await asyncio.to_thread(check_packed, data)
    except BadRequest:
        return None
    if not can_make_thumbnails():
        return None
    task = {"data": base64.b64encode(data).decode(), "width": MAX_WIDTH, "height": MAX_HEIGHT}
    try:
        process = await ChildProcess.start(
            THUMBNAIL_WORKER, log_path=None, environment={**os.environ, "PYTHONUTF8": "1"}
        )
    except OSError:
        return None
    try:
        process.send(json.dumps(task).encode() + b"\n")
        async with asyncio.timeout(_TIMEOUT_S):
            async for line in process.lines():
                return _thumbnail(line)
    except (TimeoutError, ValueError):
        return None
    finally:
        process.kill()
        await process.close(grace_s=_CLOSE_S)
    return None


def _thumbnail(line: bytes) -> Thumbnail | None:
    """Read what the worker wrote; None for what is not the size that it says."""
    copy = json.loads(line)
    rgb = base64.b64decode(copy["rgb"])
    width, height = int(copy["width"]), int(copy["height"])
    if not (0 < width <= MAX_WIDTH and 0 < height <= MAX_HEIGHT and len(rgb) == 3 * width * height):
        return None
    return Thumbnail(width=width, height=height, rgb=rgb)
